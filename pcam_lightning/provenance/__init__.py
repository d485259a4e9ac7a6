"""Provenance of runs: what each was made of, how two runs differ, where they diverge."""
