"""Measuring: engines against each other, stages, memory, kernels against the machine's limits."""
