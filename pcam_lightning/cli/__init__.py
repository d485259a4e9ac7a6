"""Start of a command, report of invalid input, registration of the Hydra plugins."""
