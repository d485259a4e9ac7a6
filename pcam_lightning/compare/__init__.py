"""Compare runs: their provenance, the first divergence, the scores."""
