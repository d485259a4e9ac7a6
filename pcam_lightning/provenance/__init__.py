"""Provenance of runs, differences between runs, and the step at which two runs diverge."""
