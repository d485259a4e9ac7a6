"""Starting a command and reporting bad input; registration of the Hydra plugins."""
