"""minivae: variational autoencoders with every gradient written by hand."""
