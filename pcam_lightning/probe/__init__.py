"""Probe of a frozen network: linear, nearest-neighbor and few-shot results on its features."""
