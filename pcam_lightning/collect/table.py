"""What jobs scored: a table of runs, and one of settings with means and deviations over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pcam_lightning.errors import printable
from pcam_lightning.metrics.baselines import beaten_by_constant
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.runs.resume import weight_settings
from pcam_lightning.runs.status import RunFileError
from pcam_lightning.slurm.jobs import STATES, JobState

SPLITS = ("val", "test")
SCORES = [(split, name) for split in SPLITS for name in METRICS]
SPEEDS = ["seconds", "patches_per_second"]
DEFAULT = "(default)"  # the value of a key that other jobs set
UNKNOWN = "(unknown)"  # the value of a key that runs with the same overrides differ in


@dataclass(frozen=True)
class Result:
    """A job, and what its run's files say, as far as it has them.

    Attributes:
        job: state and folder.
        summary, manifest: empty where the run has none.
    """

    job: JobState
    summary: dict[str, Any]
    manifest: dict[str, Any]

    @classmethod
    def of(cls, job: JobState) -> Result:
        return cls(job, _read(job, "summary"), _read(job, "manifest"))

    @property
    def dataset(self) -> str | None:
        name = at(self.manifest, "dataset", "name") or at(self.summary, "dataset")
        return None if name is None else str(name)

    @cached_property
    def config(self) -> dict[str, str]:
        """The resolved keys that can change the scores, and the data set, as far as known."""
        config = at(self.manifest, "config")
        if not isinstance(config, dict):
            return {}
        found = {key: _shown(value) for key, value in weight_settings(config).items()}
        if self.dataset is not None:
            fingerprint = at(self.manifest, "dataset", "fingerprint")
            found["dataset"] = f"{self.dataset} {fingerprint or ''}".strip()
        return found

    def score(self, split: str, name: str) -> float:
        """NaN where there is none."""
        return number(at(self.summary, split, "metrics", name, "value"))

    def constants(self, split: str) -> dict[str, dict[str, float]]:
        """Constant predictor to its metrics."""
        baselines = at(self.summary, split, "baselines")
        if not isinstance(baselines, dict):
            return {}
        return {
            str(constant): {name: number(at(scores, name)) for name in METRICS}
            for constant, scores in baselines.items()
        }


@dataclass(frozen=True)
class Configuration:
    """Jobs that differ in their seed alone.

    Attributes:
        values: of the swept keys, and of those that differ though no override says so.
        results: of its jobs, finished or not.
    """

    values: dict[str, str]
    results: list[Result]

    @property
    def name(self) -> str:
        """Such as `model=cnn optimizer.lr=0.1`."""
        given = {key: value for key, value in self.values.items() if value != DEFAULT}
        return " ".join(_joined(key, value) for key, value in given.items()) or DEFAULT

    @property
    def is_finished(self) -> bool:
        return all(result.job.state == "finished" for result in self.results)

    def scores(self, split: str, name: str) -> np.ndarray:
        """Of the runs that have the metric, float64 [N]."""
        values = np.array([result.score(split, name) for result in self.results], dtype=float)
        return values[np.isfinite(values)]

    def mean(self, split: str, name: str) -> float:
        return mean(self.scores(split, name))

    def constants(self, split: str) -> dict[str, dict[str, float]]:
        """Constant predictor to its metrics, in the mean over the runs that have them."""
        runs = [found for result in self.results if (found := result.constants(split))]
        names = dict.fromkeys(constant for found in runs for constant in found)
        return {
            constant: {
                name: mean([found[constant][name] for found in runs if constant in found])
                for name in METRICS
            }
            for constant in names
        }

    def beaten_by_constant(self, split: str) -> list[str]:
        """Metrics at which, in the mean, some constant does as well."""
        means = {name: self.mean(split, name) for name in METRICS}
        return beaten_by_constant(means, self.constants(split))


def swept_keys(jobs: Sequence[JobState]) -> list[str]:
    """The keys that jobs differ in, but for the seed and for what is Hydra's own."""
    overrides = [_values(job) for job in jobs]
    keys = dict.fromkeys(key for values in overrides for key in values)
    return [
        key
        for key in keys
        if key != "seed" and not key.startswith(("hydra.", "hydra/"))
        if len({values.get(key) for values in overrides}) > 1
    ]


def settings(results: Sequence[Result]) -> list[Configuration]:
    """Results by the values of the swept keys, in the order of the first job of each.

    Runs that have the same overrides and were made of different configs all the same (of a file in
    `conf/` that was edited in between, of another data set) are settings of their own.
    """
    keys = swept_keys([result.job for result in results])
    given: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        values = _values(result.job)
        given.setdefault(tuple(values.get(key, DEFAULT) for key in keys), []).append(result)
    hidden = {values: _differing(group) for values, group in given.items()}
    every = list(dict.fromkeys(key for differing in hidden.values() for key in differing))
    found: dict[tuple[str, ...], Configuration] = {}
    for result in results:
        values = tuple(_values(result.job).get(key, DEFAULT) for key in keys)
        own = [result.config.get(key, UNKNOWN) for key in hidden[values]]
        setting = found.setdefault(
            (*values, *own), Configuration(dict(zip(keys, values, strict=True)), [])
        )
        setting.results.append(result)
    for setting in found.values():
        for key in every:
            known = (each.config[key] for each in setting.results if key in each.config)
            setting.values[key] = next(known, UNKNOWN)
    return list(found.values())


def hidden_keys(found: Sequence[Configuration]) -> list[str]:
    """Return the keys in which settings differ though their runs have the same overrides."""
    jobs = [result.job for setting in found for result in setting.results]
    swept = swept_keys(jobs)
    return [key for key in (found[0].values if found else ()) if key not in swept]


def _differing(group: Sequence[Result]) -> list[str]:
    """Return the keys in which runs that scored differ, except their seed and what follows it."""
    configs = [result.config for result in group if result.summary and result.config]
    return [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if len({config.get(key) for config in configs}) > 1
        if any(config.get(key) != config.get("seed") for config in configs)
    ]


def runs_table(found: Sequence[Configuration]) -> pd.DataFrame:
    """One row a job: what it was, how it stands, its metrics, where they come from."""
    table = pd.DataFrame(
        [
            {
                "sweep": str(result.job.sweep),
                "number": result.job.number,
                "folder": str(result.job.folder),
                "overrides": " ".join(result.job.overrides),
                **setting.values,
                "seed": _seed(result),
                "state": result.job.state,
                "dataset": result.dataset,
                **where_it_ran(result),
                **{f"{split}/{name}": result.score(split, name) for split, name in SCORES},
                **dict(zip(SPEEDS, _speeds(result), strict=True)),
                "weights_digest": text(at(result.summary, "weights_digest")),
                "commit": text(at(result.manifest, "git", "commit")),
                "error": result.job.error,
                "log": text(result.job.log),
            }
            for setting in found
            for result in setting.results
        ]
    )  # fmt: skip
    table["seed"] = table["seed"].astype("Int64")
    return table.sort_values(["sweep", "number"], kind="stable", ignore_index=True)


def settings_table(found: Sequence[Configuration]) -> pd.DataFrame:
    """One row a setting: how many of its jobs are in each state; means and deviations over seeds.

    A deviation (`_sd`, ddof 1) of a single run is NaN.
    """
    return pd.DataFrame([_row(setting) for setting in found])


def where_it_ran(result: Result) -> dict[str, str | None]:
    """Partition, node and job, as Slurm calls them; the node is the host outside of Slurm."""
    slurm = at(result.manifest, "slurm")
    array, task = at(slurm, "array_job_id"), at(slurm, "array_task_id")
    job_id = at(slurm, "job_id") if array is None or task is None else f"{array}_{task}"
    host = at(result.manifest, "hardware", "host")
    return {
        "partition": text(at(slurm, "partition")),
        "node": text(at(slurm, "node") or host),
        "job_id": result.job.job_id or text(job_id),
    }


def mean(values: Sequence[float] | np.ndarray) -> float:
    """NaN of nothing."""
    return float(np.mean(values)) if len(values) else math.nan


def deviation(values: Sequence[float] | np.ndarray) -> float:
    """The sample's standard deviation; NaN of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def at(value: Any, *keys: str) -> Any:
    """What lies below these keys of nested dictionaries, None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float:
    """NaN for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _row(setting: Configuration) -> dict[str, Any]:
    states = [result.job.state for result in setting.results]
    row: dict[str, Any] = {"setting": setting.name, **setting.values, "jobs": len(states)}
    row["seeds"] = len({_seed(result) for result in setting.results})
    row |= {state: states.count(state) for state in STATES}
    columns = {f"{split}/{name}": setting.scores(split, name) for split, name in SCORES}
    speeds = np.array([_speeds(result) for result in setting.results], dtype=float)
    columns |= {name: each[np.isfinite(each)] for name, each in zip(SPEEDS, speeds.T, strict=True)}
    for name, values in columns.items():
        row |= {f"{name}_mean": mean(values), f"{name}_sd": deviation(values)}
    for split in SPLITS:
        row[f"{split}/beaten_by_constant"] = " ".join(setting.beaten_by_constant(split))
    return row


def _speeds(result: Result) -> tuple[float, float]:
    speed = number(at(result.summary, "training_patches_per_second"))
    return number(at(result.summary, "seconds")), speed


def _seed(result: Result) -> int | None:
    given = text(at(result.manifest, "seed")) or _values(result.job).get("seed", "")
    return int(given) if given.isdecimal() else None


def _values(job: JobState) -> dict[str, str]:
    """Key to value, as typed; a key taken away has none."""
    values = {}
    for override in job.overrides:
        key, _, value = override.partition("=")
        values[key.lstrip("+")] = value
    return values


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _joined(key: str, value: str) -> str:
    return key if key.startswith("~") and not value else f"{key}={value}"


def _read(job: JobState, name: str) -> dict[str, Any]:
    try:
        return getattr(job.run, name) if job.run else {}
    except RunFileError:
        return {}


def text(value: Any) -> str | None:
    """None for none."""
    return None if value is None else printable(str(value))
