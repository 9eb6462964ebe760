"""Weights that are carried over to a changed network, from photos and without labels."""
