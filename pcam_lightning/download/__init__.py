"""Download the official files."""
