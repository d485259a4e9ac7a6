"""Evaluation of a model: threshold, calibration, slices, galleries, attribution, report."""
