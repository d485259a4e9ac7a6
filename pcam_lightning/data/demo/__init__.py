"""Demo set: synthetic patches in the official file format."""
