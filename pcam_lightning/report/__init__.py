"""Report of finished folders: one page, in the order of a lab journal, led by checks."""
