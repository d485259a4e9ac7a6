"""Published scores of linear probes on the official test split of PatchCamelyon."""

from typing import NamedTuple

SOURCE = "leaderboard of kaiko-ai/eva, read in November 2026"
RECIPE = "mean of 5 runs; AdamW, learning rate 3e-4, batch size 256, 12,500 steps"
METRIC = "balanced_accuracy"


class Published(NamedTuple):
    """Balanced accuracy of a backbone, as published."""

    backbone: str
    balanced_accuracy: float


SCORES = (
    Published("Hibou-L", 0.955),
    Published("UNI2-h", 0.950),
    Published("Prov-GigaPath", 0.945),
    Published("H-optimus-0", 0.943),
    Published("Virchow2", 0.938),
    Published("UNI", 0.937),
    Published("Midnight-12k", 0.929),
    Published("Phikon", 0.920),
    Published("kaiko S/16", 0.902),
    Published("Lunit S/16", 0.897),
)
"""The best first."""

OFFICIAL_TEST_PATCHES = 32_768
"""Patches of the official test split."""
