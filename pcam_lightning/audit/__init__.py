"""What is in the files of a data set, and what is wrong with it: one pass, findings, pictures."""
