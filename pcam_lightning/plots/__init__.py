"""Figures in one style: scores, history, layers, galleries."""
