"""From photo to network input, and from maps to people."""
