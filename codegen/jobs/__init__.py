"""What a compiler's process is asked for: bundles, libraries, candidates to time."""
