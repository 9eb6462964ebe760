"""Convolutions of bytes with 32-bit sums: specification, templates, the choice among them."""
