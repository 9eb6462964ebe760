"""Convolutions of bytes with 32-bit sums, and of bfloat16 numbers with float32 sums.

Their specifications, templates for either or both, the choices among them.
"""
