"""Checks of a run's scores: constant predictors, decision threshold, validation and test."""

from __future__ import annotations

import math

from pcam_lightning.checks.contents import Interval, SplitScores, TrainSummary, read_summary
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.metrics.metrics import METRICS, Ranking
from pcam_lightning.metrics.predictions import checked_predictions
from pcam_lightning.metrics.thresholds import choose_threshold, parse_rule

NOTABLE_F2 = 0.01
"""Smallest loss of F2 by the threshold 0.5 that is reported."""


def constant_predictors(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the model is better than every constant predictor on the test split."""
    test = read_summary(folder, TrainSummary).test
    auroc = test and test.metrics.get("auroc")
    if test is None or auroc is None or auroc.value is None:
        return not_applicable(f"no test AUROC: `{COMMANDS['train']}` on a split with both classes")
    beaten = [name for name in test.beaten_by_constant if name in METRICS]
    if beaten:
        facts = ", ".join(_beside_constants(test, name) for name in beaten)
        return issue(f"a constant predictor does as well on test: {facts}")
    if auroc.low is not None and auroc.low <= 0.5:
        interval = f"[{auroc.low:.3f}, {number(auroc.high):.3f}]"
        return issue(
            f"the interval of the test AUROC includes chance: {auroc.value:.3f} {interval}"
        )
    return passed(f"test AUROC {auroc.value:.3f}; no constant predictor is as good at any metric")


def decision_threshold(folder: Folder, inputs: Inputs) -> Verdict:
    """Compare the test F2 at the threshold 0.5 and at the threshold with the highest val F2."""
    stored = folder.run.threshold
    if stored is not None:
        return passed(f"threshold {stored.value:.3f} was chosen by {stored.rule}", "threshold.json")
    tables = {
        split: checked_predictions(folder.run.predictions(split), folder.path / split)
        for split in ("val", "test")
    }
    if any(table["label"].nunique() < 2 for table in tables.values()):
        return not_applicable(
            f"a split has one class: `{COMMANDS['train']}` on data with both classes", "predictions"
        )
    val, test = tables["val"], tables["test"]
    chosen = choose_threshold(val["label"], val["probability"], parse_rule("max_fbeta"))
    before, after, everywhere = (
        Ranking(test["label"], test["probability"], threshold).metrics()["f2"]
        for threshold in (0.5, chosen, 0.0)
    )
    facts = f"test F2 {before:.3f} at 0.5, {after:.3f} at {chosen:.3f} (highest validation F2)"
    if after - before < NOTABLE_F2:
        return passed(facts, "predictions/test.parquet")
    if after - everywhere < NOTABLE_F2:
        return passed(
            f"{facts}; tumour everywhere has {everywhere:.3f}, so that no threshold helps",
            "predictions/test.parquet",
        )
    return tip(f"{facts}; `{COMMANDS['evaluate']}` chooses it", "predictions/test.parquet")


def validation_gap(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that validation and test AUROC differ by no more than their intervals allow."""
    summary = read_summary(folder, TrainSummary)
    scores = [split and split.metrics.get("auroc") for split in (summary.val, summary.test)]
    ends = [(each.value, each.low, each.high) for each in scores if each is not None]
    if len(ends) < 2 or any(None in each for each in ends):
        return not_applicable(
            f"no interval of the AUROC (fewer than five slides): `{COMMANDS['train']}` on more"
        )
    val, test = (each for each in scores if each is not None)
    gap, low, high = difference(val, test)
    facts = (
        f"validation AUROC {val.value:.3f}, test {test.value:.3f}: difference {gap:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]"
    )
    return passed(facts) if low <= 0 <= high else issue(facts)


def difference(first: Interval, second: Interval) -> tuple[float, float, float]:
    """Return the difference of two independent values and its interval (Zou & Donner 2008).

    Args:
        first, second: intervals without None.
    """
    one, one_low, one_high = (number(each) for each in (first.value, first.low, first.high))
    two, two_low, two_high = (number(each) for each in (second.value, second.low, second.high))
    gap = one - two
    low = gap - math.hypot(one - one_low, two_high - two)
    return gap, low, gap + math.hypot(one_high - one, two - two_low)


def number(value: float | None) -> float:
    """Return a number, NaN for None."""
    return math.nan if value is None else value


def _beside_constants(test: SplitScores, name: str) -> str:
    """Return a metric beside the best constant predictor's, as text."""
    higher = METRICS[name] == "higher"
    constants = {
        constant: value
        for constant, scores in test.baselines.items()
        if (value := scores.get(name)) is not None
    }
    value = number(test.metrics.get(name, Interval()).value)
    if not constants:
        return f"{name} {value:.3f}"
    best = (max if higher else min)(constants, key=constants.__getitem__)
    return f"{name} {value:.3f} ({best.replace('_', ' ')} {constants[best]:.3f})"
