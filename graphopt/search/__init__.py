"""The frontier of a network: every lever tried, measured, and the best of each speed shown."""
