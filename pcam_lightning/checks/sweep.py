"""Checks of a sweep: seeds, search ranges, and the lead of the best configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from pcam_lightning.checks.contents import TrainSummary, read_manifest, read_summary
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.runs.files import MissingRunFileError
from pcam_lightning.runs.resume import weight_settings

METRIC = "auroc"
"""Validation metric that selects the best configuration; higher is better."""
SEEDS = 3
"""Smallest number of seeds that shows a deviation."""
FEWEST_VALUES = 3
"""Smallest number of values that makes a range."""
LEVEL = 0.95


@dataclass(frozen=True)
class Configuration:
    """Runs of a sweep that differ only in their seed."""

    settings: dict[str, Any]
    """The settings in which the configurations of the sweep differ."""
    scores: dict[Any, float]
    """Validation AUROC by seed; of runs that repeat a seed, the last one's."""

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings.items()) or "(default)"

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.scores.values())))


def seeds(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that every configuration has at least three seeds."""
    found = configurations(folder)
    if not found:
        return _nothing_scored()
    fewest = min(len(each.scores) for each in found)
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
    best = max(found, key=lambda each: each.mean)
    edges, ranges = [], 0
    for key, value in best.settings.items():
        values = sorted({each.settings[key] for each in found if _is_number(each.settings[key])})
        if len(values) < FEWEST_VALUES or not _is_number(value):
            continue
        ranges += 1
        if value in (values[0], values[-1]):
            edges.append(f"{key}={value:g} in {values[0]:g} to {values[-1]:g}")
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
    found = sorted(configurations(folder), key=lambda each: each.mean, reverse=True)
    if len(found) < 2:
        return not_applicable(
            "fewer than two configurations: "
            "`python -m pcam_lightning.train --multirun optimizer=adam,sgd seed=1,2,3`"
        )
    values = [np.array(list(each.scores.values())) for each in found]
    degrees = sum(len(each) - 1 for each in values)
    if degrees == 0:
        return not_applicable(f"no configuration has two seeds: `{COMMANDS['sweep']}`")
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in values)
    deviation = math.sqrt(squares / degrees)
    gap = found[0].mean - found[1].mean
    error = deviation * math.sqrt(1 / len(values[0]) + 1 / len(values[1]))
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    facts = (
        f"validation AUROC {found[0].mean:.4f} of {found[0].name}, {found[1].mean:.4f} of "
        f"{found[1].name}: difference {gap:.4f} ± {reach:.4f} (deviation over seeds "
        f"{deviation:.4f})"
    )
    if gap <= reach:
        return issue(f"the best configuration is not separated from the second: {facts}")
    return passed(facts)


def configurations(sweep: Folder) -> list[Configuration]:
    """Group the finished runs of a sweep by the settings that can change a result.

    Settings that equal the seed in every run, such as `data.seed`, count as the seed.
    """
    scored: list[tuple[Any, dict[str, Any], float]] = []
    for place, member in enumerate(sweep.members):
        try:
            val = read_summary(member, TrainSummary).val
        except MissingRunFileError:  # not finished
            continue
        value = val and val.metrics.get(METRIC) and val.metrics[METRIC].value
        if value is None:
            continue
        manifest = read_manifest(member)
        seed = f"unknown {place}" if manifest.seed is None else manifest.seed
        settings = {key: _plain(each) for key, each in weight_settings(manifest.config).items()}
        scored.append((seed, settings, value))
    keys = [key for key in dict.fromkeys(k for _, each, _ in scored for k in each)]
    varying = [key for key in keys if _varies(key, scored)]
    groups: dict[str, Configuration] = {}
    for seed, settings, value in scored:
        own = {key: settings.get(key) for key in varying}
        group = groups.setdefault(json.dumps(own), Configuration(own, {}))
        group.scores[seed] = value
    return list(groups.values())


def _varies(key: str, scored: Sequence[tuple[Any, dict[str, Any], float]]) -> bool:
    is_seed = all(settings.get(key) == seed for seed, settings, _ in scored)
    return not is_seed and len({json.dumps(each.get(key)) for _, each, _ in scored}) > 1


def _plain(value: Any) -> Any:
    """Return a number or text unchanged, and any other value as text, so that values compare."""
    return value if isinstance(value, str | int | float | None) else json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nothing_scored() -> Verdict:
    return not_applicable(f"no finished run with a validation AUROC: `{COMMANDS['train']}`")
