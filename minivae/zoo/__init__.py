"""Models and parts from papers, a file each: its source, its derivation, its forward and its backward pass."""
