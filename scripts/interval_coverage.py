"""Coverage of the intervals and false alarms of the slice tests, on data with a known truth.

python scripts/interval_coverage.py [--samples 500]

Prints the two tables of docs/evaluate.md. Slides differ in size, in their share of tumour, in how
well tumour shows, and in a shift of all logits. The truth is the metric of 20,000 such slides.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pcam_lightning.data.patch_features import FEATURES
from pcam_lightning.evaluate.slices import cut, score_slices
from pcam_lightning.metrics import METRICS, compute_metrics, metric_intervals
from pcam_lightning.metrics.metrics import Ranking
from pcam_lightning.metrics.predictions import sigmoid

SLIDES = (5, 20, 60)
SHOWN = ("auroc", "average_precision", "sensitivity", "specificity", "f2", "log_loss")
STRENGTHS = {"none": 0.0, "weak": 0.5, "strong": 1.5}
"""Deviation of the logits' shift between slides."""


def draw(generator: np.random.Generator, slides: int, shift: float = 1.0) -> pd.DataFrame:
    """Draw the predictions of slides with about 60 patches each."""
    rows = generator.integers(30, 90, slides)
    share = generator.beta(0.6, 0.6, slides)
    place = np.repeat(np.arange(slides), rows)
    label = (generator.random(len(place)) < share[place]).astype(np.int64)
    logit = generator.normal(2, 0.7, slides)[place] * label - 1
    logit += generator.normal(0, shift, slides)[place] + generator.normal(size=len(place))
    names = np.array([f"slide {i}" for i in range(slides)], dtype=object)
    return pd.DataFrame(
        {"slide": names[place], "label": label, "logit": logit, "probability": sigmoid(logit)}
    )


def quantile_interval(table: pd.DataFrame, generator: np.random.Generator) -> Any:
    """Return the quantiles of 300 draws of slides, [2, metrics]: the usual cluster bootstrap."""
    ranking = Ranking(table["label"], table["probability"])
    place, names = pd.factorize(table["slide"])
    drawn = (generator.integers(len(names), size=len(names)) for _ in range(300))
    counts = (np.bincount(each, minlength=len(names)) for each in drawn)
    values = np.array([list(ranking.metrics(each[place]).values()) for each in counts])
    return np.nanquantile(values, (0.025, 0.975), axis=0)


def coverage(samples: int, slides: int) -> dict[str, tuple[float, float]]:
    """Return the share of 95 % intervals that contain the truth: these, and quantiles of draws."""
    many = draw(np.random.default_rng(1), 20_000)
    truth = compute_metrics(many["label"], many["probability"])
    found = np.zeros((2, len(METRICS)))
    generator = np.random.default_rng(slides)
    for _ in range(samples):
        table = draw(generator, slides)
        intervals = metric_intervals(table["label"], table["probability"], slide=table["slide"])
        ends = np.array(list(intervals.values())).T, quantile_interval(table, generator)
        for i, (low, high) in enumerate(ends):
            found[i] += (low <= list(truth.values())) & (list(truth.values()) <= high)
    return dict(zip(METRICS, (found / samples).T.tolist(), strict=True))


def false_alarms(samples: int, shift: float, slides: int = 60) -> tuple[float, float]:
    """Return the share of data sets with a flagged slice, slides known and not known.

    No feature is related to errors; each slide has its own level of each feature.
    """
    flagged = np.zeros(2)
    generator = np.random.default_rng(0)
    for _ in range(samples):
        table = draw(generator, slides, shift)
        place = pd.factorize(table["slide"])[0]
        for name in FEATURES:
            table[name] = generator.random(slides)[place] + generator.normal(0, 0.1, len(table))
        for i, known in enumerate((table, table.drop(columns="slide"))):
            parts = [each for each in cut(known, known, {}) if each.property != "slide"]
            scored: Any = score_slices(known, parts, 0.5, resamples=200)
            flagged[i] += (scored["worse"] != "").any()
    return tuple(flagged / samples)  # type: ignore[return-value]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    samples = parser.parse_args(arguments).samples
    print(f"share of 95 % intervals that contain the truth, {samples} samples each")
    print("| slides | " + " | ".join(SHOWN) + " |")
    print("|---" * (len(SHOWN) + 1) + "|")
    for slides in SLIDES:
        found = coverage(samples, slides)
        for i, method in enumerate(("", ", quantiles of draws")):
            cells = [f"{found[name][i]:.2f}" for name in SHOWN]
            print(f"| {slides}{method} | {' | '.join(cells)} |")
    print(f"\nshare of data sets with a flagged slice though none is worse, {samples // 5} each")
    print("| shift between slides | slides known | slides not known |")
    print("|---|---|---|")
    for name, shift in STRENGTHS.items():
        known, unknown = false_alarms(samples // 5, shift)
        print(f"| {name} | {known:.2f} | {unknown:.2f} |")


if __name__ == "__main__":
    main()
