"""Checks of finished folders: what may be wrong with a result, and what may improve it."""
