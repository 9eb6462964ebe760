"""Convolutions of bfloat16 numbers with float32 sums: specification, the choice among templates."""
