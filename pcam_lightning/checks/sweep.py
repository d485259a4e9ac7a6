"""Checks of a sweep: seeds, search ranges, and the lead of the best configuration."""

from __future__ import annotations

import math

from scipy.special import stdtrit

from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.runs.files import MissingRunFileError
from pcam_lightning.sweeps.best import SELECTION_SPLIT
from pcam_lightning.sweeps.jobs import job_of_run
from pcam_lightning.sweeps.table import Configuration, Result, group_by_configuration

METRIC = "auroc"
"""Validation metric that selects the best configuration; higher is better."""
SEEDS = 3
"""Smallest number of seeds that shows a deviation."""
FEWEST_VALUES = 3
"""Smallest number of values that makes a range."""
LEVEL = 0.95


def seeds(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that every configuration has at least three seeds."""
    found = configurations(folder)
    if not found:
        return _nothing_scored()
    fewest = min(each.seeds for each in found)
    count = len(found)
    facts = f"{count} configuration{'s' * (count > 1)} with at least {fewest} seed"
    facts += "s" * (fewest > 1)
    if fewest >= SEEDS:
        return passed(facts)
    text = f"{facts}, expected {SEEDS}: `{COMMANDS['sweep']}`"
    return issue(text) if count > 1 else tip(text)


def search_range(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the best value of a numeric setting is not at the edge of its range."""
    found = configurations(folder)
    if not found:
        return _nothing_scored()
    best = max(found, key=_mean)
    edges, ranges = [], 0
    for key, value in best.values.items():
        values = {each.values[key]: _number(each.values[key]) for each in found}
        numbers = sorted({number for number in values.values() if number is not None})
        if len(numbers) < FEWEST_VALUES or values[value] is None:
            continue
        ranges += 1
        if values[value] in (numbers[0], numbers[-1]):
            edges.append(f"{key}={value} in {numbers[0]:g} to {numbers[-1]:g}")
    if not ranges:
        return not_applicable(
            f"no numeric setting with {FEWEST_VALUES} values: "
            "`python -m pcam_lightning.train --multirun optimizer.lr=1e-4,1e-3,1e-2`"
        )
    if edges:
        return tip(f"the best value is at the edge of its range: {', '.join(edges)}")
    return passed(f"the best value lies inside each of {ranges} ranges")


def lead(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the best configuration is better than the second by more than seeds explain.

    The interval of the difference is Student's, with the deviation over seeds pooled over all
    configurations.
    """
    found = sorted(configurations(folder), key=_mean, reverse=True)
    if len(found) < 2:
        return not_applicable(
            "fewer than two configurations: "
            "`python -m pcam_lightning.train --multirun optimizer=adam,sgd seed=1,2,3`"
        )
    values = [each.scores(SELECTION_SPLIT, METRIC) for each in found]
    degrees = sum(len(each) - 1 for each in values)
    if degrees == 0:
        return not_applicable(f"no configuration has two seeds: `{COMMANDS['sweep']}`")
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in values)
    deviation = math.sqrt(squares / degrees)
    gap = _mean(found[0]) - _mean(found[1])
    error = deviation * math.sqrt(1 / len(values[0]) + 1 / len(values[1]))
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    facts = (
        f"validation AUROC {_mean(found[0]):.4f} of {found[0].name}, {_mean(found[1]):.4f} of "
        f"{found[1].name}: difference {gap:.4f} ± {reach:.4f} (deviation over seeds "
        f"{deviation:.4f})"
    )
    if gap <= reach:
        return issue(f"the best configuration is not separated from the second: {facts}")
    return passed(facts)


def configurations(sweep: Folder) -> list[Configuration]:
    """Return the configurations of a sweep, of its runs with a validation score."""
    results = []
    for number, member in enumerate(sweep.members):
        run = member.run
        try:
            result = Result(job_of_run(sweep.path, number, run), run.summary, run.manifest)
        except MissingRunFileError:  # not finished
            continue
        if math.isfinite(result.score(SELECTION_SPLIT, METRIC)):
            results.append(result)
    return group_by_configuration(results)


def _mean(configuration: Configuration) -> float:
    return configuration.mean(SELECTION_SPLIT, METRIC)


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _nothing_scored() -> Verdict:
    return not_applicable(f"no finished run with a validation AUROC: `{COMMANDS['train']}`")
