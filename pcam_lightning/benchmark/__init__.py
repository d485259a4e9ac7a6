"""Measuring speed: contenders side by side, on the same data, in the same run."""
