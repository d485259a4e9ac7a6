"""What became of the jobs of a sweep: states, tables over seeds, a champion, pictures."""
