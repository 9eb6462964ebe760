"""Kernels as TIR: convolutions (`conv`), photo to input and maps to people (`pose`)."""
