"""Small exact simplifications of single nodes, the rules of the pass `canonicalize`."""
