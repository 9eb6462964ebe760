"""Networks in eight bits: what is stored so, the steps, the weights that fit them, and the file."""
