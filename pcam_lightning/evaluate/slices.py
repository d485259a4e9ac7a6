"""Metrics of slices of a split, and tests of which slices are worse than the whole split.

Slices. Every feature of `patch_features` cuts the split into four slices, at the 10th, 50th and
90th percentile of the *validation* patches. Percentiles suit every data set; fixed cut points would
leave some slices empty. Cut points from validation do not depend on the split that is reported, and
all models have the same ones. Equal cut points are merged, and a slice may be empty. Each slide and
each hospital is a slice if they are known. A config can define more slices.

Tests. AUROC, sensitivity and specificity are tested. Accuracy, F2 and precision are not: they
depend on the share of tumours, so that they differ between slices even if the model is equally good
on all of them. Each metric of a slice is compared with its value on the whole split by a one-sided
test:

- sensitivity and specificity, if patches are independent: the binomial probability of at most as
  many correct patches as in the slice, at the rate of the whole split
- AUROC, and all three metrics if slides are known: t = (whole - slice) / deviation, with one degree
  of freedom less than the slice has units (slides or patches). The deviation is the larger one of
  two estimates: the deviation of the difference over resamples of the whole split, and the
  deviation of the metric in independent patches, as many as in the slice, whose true value is the
  whole split's (binomial; for AUROC, Hanley & McNeil 1982). The first estimate is 0 if all patches
  of a class are errors; the second one ignores slides

The p-values are corrected for the number of tests (Holm 1979). A slice is flagged below 0.05.

Resamples. Slides are drawn if a slice has patches of at least `MIN_SLIDES` slides. Otherwise
patches are drawn, and the intervals are valid for these slides only. Such a slice is not tested,
unless it is a single slide by definition: a few difficult slides are no evidence about the feature
that defines the slice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom
from scipy.stats import t as student

from pcam_lightning.data.patch_features import FEATURES
from pcam_lightning.errors import InputError
from pcam_lightning.metrics.bootstrap import draws, percentile_interval, resampling_unit
from pcam_lightning.metrics.metrics import METRICS, Ranking

CUTS = 0.1, 0.5, 0.9
GROUPS = "slide", "hospital"
"""Columns of which each value is a slice."""

MIN_CLASS, MIN_EXACT = 20, 5
"""Minimum number of patches of each class that a tested metric depends on; `MIN_EXACT` applies to
binomial tests."""
MIN_SLIDES = 5
SIGNIFICANCE = 0.05
TESTED: dict[str, tuple[int, ...]] = {"auroc": (0, 1), "sensitivity": (1,), "specificity": (0,)}
"""The tested metrics, and the classes that each depends on."""

WHOLE = "everything"


@dataclass(frozen=True)
class Slice:
    """A subset of the rows of a predictions table."""

    property: str
    """The column that defines the slice, or "config"."""
    name: str
    rows: NDArray[np.int64]
    """Positions in the table."""


def cut(table: pd.DataFrame, reference: pd.DataFrame, custom: Mapping[str, Any]) -> list[Slice]:
    """Return every slice of a predictions table, slices from the config first.

    Args:
        table: predictions, from `read_predictions`, with those of `FEATURES` and `GROUPS` that are
            known.
        reference: the table whose percentiles are the cut points.
        custom: slice name to a rule: `column`, and some of `from` (>=), `below` (<) and `among`
            (a list).

    Raises:
        InputError: a rule names a column that does not exist, or gives bounds for a column without
            numbers.
    """
    slices = [
        Slice("config", name, _matching_rows(table, name, rule)) for name, rule in custom.items()
    ]
    for name in FEATURES:
        if name in table and name in reference:
            slices += _quantile_slices(table, name, reference[name].to_numpy(np.float64))
    for name in GROUPS:
        if name in table and len(table[name].unique()) > 1:
            groups = table.groupby(name, sort=False).indices
            for value in sorted(groups, key=str):
                slices.append(Slice(name, str(value), np.asarray(groups[value])))
    return slices


def score_slices(
    table: pd.DataFrame,
    slices: Sequence[Slice],
    threshold: float,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute and test every slice's metrics with their intervals.

    Args:
        table: as in `cut`.
        slices: from `cut`.
        threshold, resamples, level, seed: as in `bootstrap_intervals`.

    Returns:
        One row for the whole table, then one for each slice, flagged slices first. Columns:
        `property`, `slice`, `rows`, `tumours`, `unit` (of the resamples), for each of `METRICS` its
        value, `_low` and `_high` (NaN if undefined), `p` (the slice's smallest corrected p-value,
        NaN if untested), `worse` (metrics that are significantly worse, joined by spaces) and
        `note` (text for a reader).
    """
    everything = Slice("", WHOLE, np.arange(len(table)))
    slide = table["slide"].to_numpy() if "slide" in table else None
    unit = resampling_unit(slide)
    counts = [
        len(pd.unique(slide[each.rows])) if unit == "slide" else len(each.rows)  # type: ignore[index]
        for each in (everything, *slices)
    ]
    by_unit: dict[str, list[int]] = {unit: [0], "patch": [0]}  # positions in `counts`
    for place, count in enumerate(counts[1:], start=1):
        by_unit["patch" if count < MIN_SLIDES else unit].append(place)
    found: dict[int, dict[str, Any]] = {}
    tests: list[tuple[int, str, float]] = []
    for drawn_unit, places in by_unit.items():
        if len(places) == 1 and drawn_unit != unit:
            continue
        drawn = draws(len(table), slide if drawn_unit == "slide" else None, resamples, seed)
        members = [everything if place == 0 else slices[place - 1] for place in places]
        scored, values = _resampled(table, members, threshold, drawn)
        for i, (place, each) in enumerate(zip(places, members, strict=True)):
            if place == 0 and drawn_unit != unit:
                continue
            record = _record(table, each, scored[i], values[:, i], level) | {"unit": drawn_unit}
            found[place] = record
            few = drawn_unit != unit and each.property != "slide"
            if few and len(each.rows):
                record["note"] = f"{counts[place]} slides, too few to test"
            elif place:
                units = counts[place] if drawn_unit == unit else len(each.rows)
                p_values = _p_values(record, scored[0], values[:, 0], values[:, i], units)
                tests += [(place, name, p) for name, p in p_values.items()]
    corrected = holm([p for _, _, p in tests])
    for (key, name, _), p in zip(tests, corrected, strict=True):
        record = found[key]
        record["p"] = np.fmin(record["p"], p)
        if p < SIGNIFICANCE:
            record["worse"] = f"{record['worse']} {name}".strip()
    whole, *records = (found[place] for place in range(len(counts)))
    for record in records:
        record["note"] = _note(record, whole, len(tests))
    # The sort is stable: slices without a flag keep their order.
    records.sort(key=lambda record: record["p"] if record["worse"] else np.inf)
    return pd.DataFrame([whole, *records])


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Return p-values corrected for their number, in the same order (Holm 1979)."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1) if len(values) else stepped
    return corrected


def _quantile_slices(
    table: pd.DataFrame, name: str, reference: NDArray[np.float64]
) -> Iterable[Slice]:
    values = table[name].to_numpy(np.float64)
    edges = np.unique(np.quantile(reference, CUTS))
    # No slice below the minimum, which can be a percentile: many patches have no blank pixel.
    edges = edges[edges > min(values.min(), reference.min())]
    place = np.searchsorted(edges, values, side="right")
    texts = [f"{edge:.3g}" for edge in edges]
    for i in range(len(edges) + 1) if len(edges) else ():
        if i == 0:
            bounds = f"below {texts[0]}"
        elif i == len(edges):
            bounds = f"from {texts[-1]}"
        else:
            bounds = f"{texts[i - 1]} to {texts[i]}"
        yield Slice(name, bounds, np.flatnonzero(place == i))


def _matching_rows(table: pd.DataFrame, name: str, rule: Mapping[str, Any]) -> NDArray[np.int64]:
    column, key = rule["column"], f"evaluate.slices.{name}"
    if column not in table:
        columns = ", ".join(map(str, table.columns))
        raise InputError(f"{key}.column={column}: no such column, expected one of {columns}")
    values = table[column]
    keep = np.ones(len(table), bool)
    if rule.get("from") is not None or rule.get("below") is not None:
        if values.dtype.kind not in "iufb":
            raise InputError(
                f"{key}: column {column} has no numbers to bound; expected among: [VALUE, ...]"
            )
        low, high = rule.get("from"), rule.get("below")
        keep &= (values >= (-np.inf if low is None else low)).to_numpy()
        keep &= (values < (np.inf if high is None else high)).to_numpy()
    if rule.get("among") is not None:
        keep &= values.isin(rule["among"]).to_numpy()
    return np.flatnonzero(keep)


def _resampled(
    table: pd.DataFrame, slices: Sequence[Slice], threshold: float, drawn: Iterable[NDArray]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the metrics [slices, metrics], and those of all resamples with one more first axis."""
    label, probability = table["label"].to_numpy(), table["probability"].to_numpy()
    rankings = [
        Ranking(label[each.rows], probability[each.rows], threshold) if len(each.rows) else None
        for each in slices
    ]
    undefined = [np.nan] * len(METRICS)

    def scores(weight: NDArray | None) -> list[list[float]]:
        return [
            undefined
            if ranking is None
            else list(ranking.metrics(None if weight is None else weight[each.rows]).values())
            for each, ranking in zip(slices, rankings, strict=True)
        ]

    return np.array(scores(None)), np.array([scores(weight) for weight in drawn])


def _record(
    table: pd.DataFrame,
    each: Slice,
    scored: NDArray[np.float64],
    values: NDArray[np.float64],
    level: float,
) -> dict[str, Any]:
    label = table["label"].to_numpy()[each.rows]
    record: dict[str, Any] = {
        "property": each.property,
        "slice": each.name,
        "rows": len(label),
        "tumours": int(label.sum()),
        "worse": "",
        "p": np.nan,
        "note": "",
    }
    for i, name in enumerate(METRICS):
        record[name] = scored[i]
        low, high = percentile_interval(values[:, i], level)
        defined = not np.isnan(scored[i])
        record[f"{name}_low"], record[f"{name}_high"] = (low, high) if defined else (np.nan,) * 2
    return record


def _p_values(
    record: Mapping[str, Any],
    whole: NDArray[np.float64],
    whole_values: NDArray[np.float64],
    values: NDArray[np.float64],
    units: int,
) -> dict[str, float]:
    """Return the p-value of each tested metric that the slice has enough patches for.

    Args:
        record: the slice's metrics.
        whole: metrics of the whole split, [metrics].
        whole_values, values: metrics of whole split and slice, [resamples, metrics].
        units: number of slides or patches in the slice.
    """
    counts = record["rows"] - record["tumours"], record["tumours"]
    p_values = {}
    for i, name in enumerate(METRICS):
        if name not in TESTED:
            continue
        smallest = min(counts[c] for c in TESTED[name])
        if name != "auroc" and record["unit"] == "patch":
            if smallest >= MIN_EXACT:
                correct = round(record[name] * smallest)
                p_values[name] = float(binom.cdf(correct, smallest, whole[i]))
            continue
        difference = whole_values[:, i] - values[:, i]
        if smallest < MIN_CLASS or np.isnan(difference).all():
            continue
        expected = _expected_deviation(name, float(whole[i]), *counts)
        deviation = max(float(np.nanstd(difference)), expected)
        gap = float(whole[i]) - record[name]
        p_values[name] = 1.0 if gap <= 0 else float(student.sf(gap / deviation, units - 1))
    return p_values


def _expected_deviation(name: str, value: float, normals: int, tumours: int) -> float:
    """Return the standard deviation of a metric with true value `value` in independent patches."""
    if name != "auroc":
        rows = tumours if name == "sensitivity" else normals
        return float(np.sqrt(value * (1 - value) / rows))
    two_tumours, two_normals = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value)
        + (tumours - 1) * (two_tumours - value**2)
        + (normals - 1) * (two_normals - value**2)
    ) / (tumours * normals)
    return float(np.sqrt(max(variance, 0.0)))


def _note(record: Mapping[str, Any], whole: Mapping[str, Any], tests: int) -> str:
    """Return a slice's lack of patches, and its significantly worse metrics, as text."""
    rows, tumours = record["rows"], record["tumours"]
    if rows == 0:
        return "no patch in this slice"
    parts = []
    if tumours == 0:
        parts.append(f"no tumour: {rows:,} patches, specificity {record['specificity']:.3f}")
    elif tumours == rows:
        parts.append(f"only tumour: {rows:,} patches, sensitivity {record['sensitivity']:.3f}")
    elif min(tumours, rows - tumours) < MIN_CLASS:
        parts.append(f"few patches of a class: {tumours:,} tumour, {rows - tumours:,} normal")
    elif record["note"]:
        parts.append(record["note"])
    for name in record["worse"].split():
        low, high = record[f"{name}_low"], record[f"{name}_high"]
        values = f"{record[name]:.3f} [{low:.3f}, {high:.3f}], whole split {whole[name]:.3f}"
        parts.append(f"{name} {values}")
    if record["worse"]:
        parts.append(f"significantly worse (p = {record['p']:.2g}, corrected for {tests} tests)")
    return "; ".join(parts)
