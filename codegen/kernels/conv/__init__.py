"""Templates of convolutions, a file each, and the choice among them."""
