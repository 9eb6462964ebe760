"""Published pose networks, built from their definitions: one file a family."""
