"""Pruning: which blocks of weights and which channels can go, where, and at what loss."""
