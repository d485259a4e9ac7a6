"""Result of a finished run: its files, its table in the terminal and its issues."""
