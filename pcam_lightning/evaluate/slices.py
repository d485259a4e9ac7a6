"""Where is the model weak? Metrics of parts of a split, and which are worse beyond chance.

Every property of `appearance` cuts the split in four: at the 10th, 50th and 90th percentile of the
*validation* patches. Percentiles, since a fixed cut leaves one data set's slice empty and puts all
of another's into it; of validation, so that nothing about the split that is reported on is chosen
by looking at it, and two models are sliced alike. Equal cuts are made once, and slices may be
empty. Slides and hospitals are slices where they are known, and so is what a config defines.

Slices are judged by AUROC, sensitivity and specificity alone: accuracy, F2 or precision of a slice
with few tumours differ from the whole's even for a model that is equally good on it. Each of the
three is held against the whole split's by a one-sided test:

- sensitivity and specificity, where patches are independent: the exact binomial probability of no
  more hits than the slice has, at the whole's rate
- AUROC, and all three where slides are known: t = (whole - slice) / deviation with as many degrees
  of freedom as the slice has units, less one. The deviation is the larger of that of the difference
  over resamples of the whole, and of what chance alone would give the slice at the whole's value
  (binomial; for AUROC, Hanley & McNeil 1982): the first is 0 where a slice has nothing but errors,
  the second knows nothing of slides

Over all looks the p-values are corrected by Holm (1979), and a slice is flagged below 0.05.

Resamples draw slides where the slice has patches of at least `MIN_SLIDES`; else they draw patches,
which speaks of these slides and no others. A slice of fewer slides is not tested, unless it is a
slide: that its two slides are hard says nothing of what it was cut by.
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
"""Columns whose every value is a slice."""

MIN_CLASS, MIN_EXACT = 20, 5
"""Patches of each class that a metric depends on, without which it is not tested; the latter where
the test is exact."""
MIN_SLIDES = 5
SIGNIFICANCE = 0.05
TESTED: dict[str, tuple[int, ...]] = {"auroc": (0, 1), "sensitivity": (1,), "specificity": (0,)}
"""The metrics that slices are judged by, and the classes that each depends on."""

WHOLE = "everything"


@dataclass(frozen=True)
class Slice:
    """Some rows of a table."""

    property: str
    """What it was cut by: a column, or "config"."""
    name: str
    rows: NDArray[np.int64]
    """Their positions in the table."""


def cut(table: pd.DataFrame, reference: pd.DataFrame, custom: Mapping[str, Any]) -> list[Slice]:
    """Every slice of a predictions table, those that a config defines first.

    Args:
        table: as from `read_predictions`, with whichever of `FEATURES` and `GROUPS` are known.
        reference: the table whose percentiles are the cut points.
        custom: name to `column` with some of `from` (>=), `below` (<) and `among` (a list).

    Raises:
        InputError: a custom slice names a column that is not there, or bounds what has no order.
    """
    slices = [Slice("config", name, _where(table, name, rule)) for name, rule in custom.items()]
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
    """Every slice's metrics with intervals and verdict, the flagged ones first.

    Args:
        table: as in `cut`.
        threshold, resamples, level, seed: as in `bootstrap_intervals`.

    Returns:
        One row a slice, behind a first one of the whole table: `property`, `slice`, `rows`,
        `tumours`, `unit` (what was resampled), for each of `METRICS` its value, `_low` and `_high`
        (NaN where undefined), `p` (the smallest of its corrected p-values, NaN where nothing could
        be tested), `worse` (the metrics at which it is worse beyond chance, joined by spaces) and
        `note`, in words.
    """
    everything = Slice("", WHOLE, np.arange(len(table)))
    slide = table["slide"].to_numpy() if "slide" in table else None
    unit = resampling_unit(slide)
    counts = [
        len(pd.unique(slide[each.rows])) if unit == "slide" else len(each.rows)  # type: ignore[index]
        for each in (everything, *slices)
    ]
    by_unit: dict[str, list[int]] = {unit: [0], "patch": [0]}  # places in `counts`
    for place, count in enumerate(counts[1:], start=1):
        by_unit["patch" if count < MIN_SLIDES else unit].append(place)
    found: dict[int, dict[str, Any]] = {}
    looks: list[tuple[int, str, float]] = []
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
                looks += [(place, name, p) for name, p in p_values.items()]
    corrected = holm([p for _, _, p in looks])
    for (key, name, _), p in zip(looks, corrected, strict=True):
        record = found[key]
        record["p"] = np.fmin(record["p"], p)
        if p < SIGNIFICANCE:
            record["worse"] = f"{record['worse']} {name}".strip()
    whole, *records = (found[place] for place in range(len(counts)))
    for record in records:
        record["note"] = _note(record, whole, len(looks))
    # Stable, so that what is not flagged keeps its order.
    records.sort(key=lambda record: record["p"] if record["worse"] else np.inf)
    return pd.DataFrame([whole, *records])


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """p-values corrected for being so many, in their order (Holm 1979)."""
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
    # A slice that nothing can be below, as where half of the patches have no blank pixel.
    edges = edges[edges > min(values.min(), reference.min())]
    place = np.searchsorted(edges, values, side="right")
    texts = [f"{edge:.3g}" for edge in edges]
    for i in range(len(edges) + 1) if len(edges) else ():
        if i == 0:
            words = f"below {texts[0]}"
        elif i == len(edges):
            words = f"from {texts[-1]}"
        else:
            words = f"{texts[i - 1]} to {texts[i]}"
        yield Slice(name, words, np.flatnonzero(place == i))


def _where(table: pd.DataFrame, name: str, rule: Mapping[str, Any]) -> NDArray[np.int64]:
    column, key = rule["column"], f"evaluate.slices.{name}"
    if column not in table:
        found = ", ".join(map(str, table.columns))
        raise InputError(f"{key}.column={column}: no such column, expected one of {found}")
    values = table[column]
    keep = np.ones(len(table), bool)
    if rule.get("from") is not None or rule.get("below") is not None:
        if values.dtype.kind not in "iufb":
            raise InputError(f"{key}: {column} holds no numbers; expected among: [VALUE, ...]")
        low, high = rule.get("from"), rule.get("below")
        keep &= (values >= (-np.inf if low is None else low)).to_numpy()
        keep &= (values < (np.inf if high is None else high)).to_numpy()
    if rule.get("among") is not None:
        keep &= values.isin(rule["among"]).to_numpy()
    return np.flatnonzero(keep)


def _resampled(
    table: pd.DataFrame, slices: Sequence[Slice], threshold: float, drawn: Iterable[NDArray]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Metrics [slices, metrics], and in each resample [resamples, slices, metrics]."""
    label, probability = table["label"].to_numpy(), table["probability"].to_numpy()
    rankings = [
        Ranking(label[each.rows], probability[each.rows], threshold) if len(each.rows) else None
        for each in slices
    ]
    nothing = [np.nan] * len(METRICS)

    def scores(weight: NDArray | None) -> list[list[float]]:
        return [
            nothing
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
    """Of each metric that the slice has enough patches for.

    `whole` [metrics] is what the whole scores, `whole_values` and `values` [resamples, metrics] are
    the whole and the slice in the resamples, `units` how many slides or patches the slice has.
    """
    counts = record["rows"] - record["tumours"], record["tumours"]
    found = {}
    for i, name in enumerate(METRICS):
        if name not in TESTED:
            continue
        smallest = min(counts[c] for c in TESTED[name])
        if name != "auroc" and record["unit"] == "patch":
            if smallest >= MIN_EXACT:
                hits = round(record[name] * smallest)
                found[name] = float(binom.cdf(hits, smallest, whole[i]))
            continue
        difference = whole_values[:, i] - values[:, i]
        if smallest < MIN_CLASS or np.isnan(difference).all():
            continue
        chance = _chance(name, float(whole[i]), *counts)
        deviation = max(float(np.nanstd(difference)), chance)
        worse_by = float(whole[i]) - record[name]
        found[name] = 1.0 if worse_by <= 0 else float(student.sf(worse_by / deviation, units - 1))
    return found


def _chance(name: str, value: float, normals: int, tumours: int) -> float:
    """Standard deviation of a metric whose true value this is, among independent patches."""
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


def _note(record: Mapping[str, Any], whole: Mapping[str, Any], looks: int) -> str:
    """What a reader has to know about a slice, in words; empty for an ordinary one."""
    rows, tumours = record["rows"], record["tumours"]
    if rows == 0:
        return "no patch in this slice"
    if tumours == 0:
        text = f"no tumour in this slice: {rows:,} patches, specificity {record['specificity']:.3f}"
    elif tumours == rows:
        text = f"only tumour in this slice: {rows:,} patches, sensitivity "
        text += f"{record['sensitivity']:.3f}"
    elif min(tumours, rows - tumours) < MIN_CLASS:
        text = f"few of a class: {tumours:,} tumours, {rows - tumours:,} normal"
    else:
        text = record["note"]
    for name in record["worse"].split():
        low, high = record[f"{name}_low"], record[f"{name}_high"]
        told = f"{name} {record[name]:.3f} [{low:.3f}, {high:.3f}], whole {whole[name]:.3f}"
        text += ("; " if text else "") + told
    if record["worse"]:
        text += f": worse beyond chance, p = {record['p']:.2g} after {looks} looks"
    return text
