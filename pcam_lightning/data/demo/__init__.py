"""The demo set: synthetic patches in the official file format."""
