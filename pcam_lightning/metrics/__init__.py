"""Pure functions of a predictions table: metrics, intervals, baselines, thresholds."""
