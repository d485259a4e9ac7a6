"""Speed measurements of several implementations on the same data, in the same process."""
