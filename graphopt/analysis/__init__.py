"""What networks cost and how they differ: MACs, latency, ranges, poses."""
