"""The mathematics: what a VAE computes, forward and backward, as equations on arrays."""
