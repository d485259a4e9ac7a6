"""Continuation of a sweep: its command, read from the folder and given again."""
