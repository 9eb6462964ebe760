"""Block-punched pruning: which blocks of weights go, where, and how the rest is stored."""
