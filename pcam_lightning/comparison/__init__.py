"""Why runs differ: what each was made of, where they part, and by how much."""
