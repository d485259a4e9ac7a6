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

- sensitivity and specificity by patch: the binomial probability of at most as many correct patches
  as in the slice, at the rate of the whole split
- AUROC, and all three metrics by slide: t = (whole - slice) / deviation, with the degrees of
  freedom of `Resampling`. The deviation is the larger one of two estimates: the standard error of
  the difference by resampling, and the deviation of the metric in independent patches, as many as
  in the slice, whose true value is the whole split's (binomial; for AUROC, Hanley & McNeil 1982).
  The first estimate is 0 if all patches of a class are errors; the second one ignores slides

The p-values are corrected for the number of tests (Holm 1979). A slice is flagged below 0.05.

Units. Slides are resampled if they are known. A slice with patches of fewer than `MIN_SLIDES`
slides then has neither intervals nor tests: a few difficult slides are no evidence about the
feature that defines the slice. Slices that are one slide by definition are resampled by patch, and
compared with the other patches of these slides only. If slides are not known, all tests treat
patches as independent, and flag slices that merely contain difficult slides: in
`scripts/interval_coverage.py`, most data sets without any worse slice.
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
from pcam_lightning.metrics.interval_text import MIN_SLIDES
from pcam_lightning.metrics.intervals import Confusion, metric_interval
from pcam_lightning.metrics.metrics import METRICS, Ranking
from pcam_lightning.metrics.resampling import Resampling

CUTS = 0.1, 0.5, 0.9
GROUPS = "slide", "hospital"
"""Columns of which each value is a slice."""

MIN_CLASS, MIN_EXACT = 20, 5
"""Minimum number of patches of each class that a tested metric depends on; `MIN_EXACT` applies to
binomial tests."""
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
        threshold, resamples, level, seed: as in `metric_intervals`.

    Returns:
        One row for the whole table, then one for each slice, flagged slices first. Columns:
        `property`, `slice`, `rows`, `tumours`, `unit` (of the resamples), `slides` (number of
        them; missing if not known), for each of `METRICS` its
        value, `_low` and `_high` (NaN if undefined), `p` (the slice's smallest corrected p-value,
        NaN if untested), `worse` (metrics that are significantly worse, joined by spaces) and
        `note` (text for a reader).
    """
    label = table["label"].to_numpy()
    slide = table["slide"].to_numpy() if "slide" in table else None
    everything = Slice("", WHOLE, np.arange(len(table)))

    def score(places: list[int], unit: NDArray[np.object_] | None) -> list[Any]:
        """Return row and p-values of the whole table, then of the slices at these places."""
        resampling = Resampling(label, unit, resamples, seed)
        members = [everything, *(slices[i] for i in places)]
        return _score_together(table, members, threshold, resampling, level)

    is_slide = [each.property == "slide" and slide is not None for each in slices]
    grouped = [i for i in range(len(slices)) if not is_slide[i]]
    alone = [i for i in range(len(slices)) if is_slide[i]]
    (whole, _), *scored = score(grouped, slide)
    if alone:
        scored += score(alone, None)[1:]
    found = dict(zip(grouped + alone, scored, strict=True))
    records = [found[i][0] for i in range(len(slices))]
    tests = [(i, name, p) for i in range(len(slices)) for name, p in found[i][1].items()]
    corrected = holm([p for _, _, p in tests])
    for (i, name, _), p in zip(tests, corrected, strict=True):
        records[i]["p"] = np.fmin(records[i]["p"], p)
        if p < SIGNIFICANCE:
            records[i]["worse"] = f"{records[i]['worse']} {name}".strip()
    for record in records:
        record["note"] = _note(record, whole, len(tests), slide is not None)
    # The sort is stable: slices without a flag keep their order.
    records.sort(key=lambda record: record["p"] if record["worse"] else np.inf)
    return pd.DataFrame([whole, *records]).astype({"slides": "Int64"})


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


def _score_together(
    table: pd.DataFrame,
    slices: Sequence[Slice],
    threshold: float,
    resampling: Resampling,
    level: float,
) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Score slices on the same resamples.

    Returns:
        The row of each slice, and its p-values against the first one, which is the whole split.
    """
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

    value = np.array(scores(None))  # [slices, metrics]
    values = np.array([scores(weight) for weight in resampling])  # [resamples, slices, metrics]
    found = []
    for i, each in enumerate(slices):
        record = _record(table, each, threshold, value[i], values[:, i], resampling, level)
        is_tested = i > 0 and not record["note"]
        found.append(
            (
                record,
                _p_values(record, value[0], values[:, 0], values[:, i], resampling, each.rows)
                if is_tested
                else {},
            )
        )
    return found


def _record(
    table: pd.DataFrame,
    each: Slice,
    threshold: float,
    value: NDArray[np.float64],
    values: NDArray[np.float64],
    resampling: Resampling,
    level: float,
) -> dict[str, Any]:
    """Return a slice's row of the result, without the outcome of tests."""
    label, probability = (table[name].to_numpy()[each.rows] for name in ("label", "probability"))
    record: dict[str, Any] = {
        "property": each.property,
        "slice": each.name,
        "rows": len(label),
        "tumours": int(label.sum()),
        "unit": resampling.unit,
        "slides": table["slide"].iloc[each.rows].nunique() if "slide" in table else pd.NA,
        "worse": "",
        "p": np.nan,
        "note": "",
    }
    if resampling.unit == "slide" and len(each.rows):
        slides = record["slides"]
        if slides < MIN_SLIDES:
            record["note"] = f"{slides} slide{'s' * (slides > 1)}, too few for intervals and tests"
    confusion = Confusion.of(label, probability, threshold)
    degrees = resampling.degrees_of(each.rows)
    for i, name in enumerate(METRICS):
        low, high = metric_interval(
            name, value[i], values[:, i], confusion, resampling, level, degrees
        )
        record[name] = value[i]
        record[f"{name}_low"], record[f"{name}_high"] = (
            (np.nan, np.nan) if record["note"] else (low, high)
        )
    return record


def _p_values(
    record: Mapping[str, Any],
    whole: NDArray[np.float64],
    whole_values: NDArray[np.float64],
    values: NDArray[np.float64],
    resampling: Resampling,
    rows: NDArray[np.int64],
) -> dict[str, float]:
    """Return the p-value of each tested metric that the slice has enough patches for.

    Args:
        record: the slice's metrics.
        whole: metrics of the whole split, [metrics].
        whole_values, values: metrics of whole split and slice, [resamples, metrics].
        resampling: the resamples.
        rows: the slice's positions in the table.
    """
    counts = record["rows"] - record["tumours"], record["tumours"]
    by_patch = resampling.unit == "patch"
    degrees = len(rows) - 1 if by_patch else resampling.degrees_of(rows)
    p_values = {}
    for i, name in enumerate(METRICS):
        if name not in TESTED:
            continue
        smallest = min(counts[c] for c in TESTED[name])
        if name != "auroc" and by_patch:
            if smallest >= MIN_EXACT:
                correct = round(record[name] * smallest)
                p_values[name] = float(binom.cdf(correct, smallest, whole[i]))
            continue
        difference = whole_values[:, i] - values[:, i]
        spread = resampling.deviation(difference)
        if smallest < MIN_CLASS or np.isnan(spread):
            continue
        deviation = max(spread, _expected_deviation(name, float(whole[i]), *counts))
        gap = float(whole[i]) - record[name]
        p_values[name] = 1.0 if gap <= 0 else float(student.sf(gap / deviation, degrees))
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


def _note(
    record: Mapping[str, Any], whole: Mapping[str, Any], tests: int, slides_known: bool
) -> str:
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
        claim = "significantly worse" if slides_known else "worse, if patches are independent"
        parts.append(f"{claim} (p = {record['p']:.2g}, corrected for {tests} tests)")
    return "; ".join(parts)
