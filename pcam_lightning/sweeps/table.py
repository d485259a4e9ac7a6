"""Tables of a sweep: one row per run, and one row per configuration with means over seeds."""

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
from pcam_lightning.sweeps.jobs import STATES, JobState

SPLITS = ("val", "test")
SCORES = [(split, name) for split in SPLITS for name in METRICS]
SPEEDS = ["seconds", "patches_per_second"]
DEFAULT = "(default)"  # the value of a key that only other jobs override
UNKNOWN = "(unknown)"  # the value of a key without override in a run without recorded config


@dataclass(frozen=True)
class Result:
    """A job, with the summary and the manifest of its run.

    Attributes:
        job: its state and folder.
        summary, manifest: the files' content; empty if missing or damaged.
    """

    job: JobState
    summary: dict[str, Any]
    manifest: dict[str, Any]

    @classmethod
    def of(cls, job: JobState) -> Result:
        """Read the files of a job's run."""
        return cls(job, _read(job, "summary"), _read(job, "manifest"))

    @property
    def dataset(self) -> str | None:
        """The name of the run's data set, None if not recorded."""
        name = at(self.manifest, "dataset", "name") or at(self.summary, "dataset")
        return None if name is None else str(name)

    @cached_property
    def config(self) -> dict[str, str]:
        """Resolved config keys that can change the scores, and `dataset`; empty if not recorded."""
        config = at(self.manifest, "config")
        if not isinstance(config, dict):
            return {}
        found = {key: _shown(value) for key, value in weight_settings(config).items()}
        if self.dataset is not None:
            fingerprint = at(self.manifest, "dataset", "fingerprint")
            found["dataset"] = f"{self.dataset} {fingerprint or ''}".strip()
        return found

    def score(self, split: str, name: str) -> float:
        """Return a metric of a split, NaN if the run has none."""
        return number(at(self.summary, split, "metrics", name, "value"))

    def constants(self, split: str) -> dict[str, dict[str, float]]:
        """Return the metrics of each constant predictor."""
        baselines = at(self.summary, split, "baselines")
        if not isinstance(baselines, dict):
            return {}
        return {
            str(constant): {name: number(at(scores, name)) for name in METRICS}
            for constant, scores in baselines.items()
        }


@dataclass(frozen=True)
class Configuration:
    """Jobs that differ only in their seed.

    Attributes:
        values: the values of the swept keys, and of keys that differ without an override.
        results: the results of all its jobs, finished or not.
    """

    values: dict[str, str]
    results: list[Result]

    @property
    def name(self) -> str:
        """Its overrides, such as `model=cnn optimizer.lr=0.1`."""
        given = {key: value for key, value in self.values.items() if value != DEFAULT}
        return " ".join(_joined(key, value) for key, value in given.items()) or DEFAULT

    @property
    def is_finished(self) -> bool:
        """True if all jobs are finished."""
        return all(result.job.state == "finished" for result in self.results)

    @property
    def seeds(self) -> int:
        """Number of distinct seeds; each run whose seed is not recorded counts as one."""
        return len(self._by_seed())

    def scores(self, split: str, name: str) -> np.ndarray:
        """Return a metric of each of the N seeds that have it, float64 [N].

        Runs that repeat a seed are no new evidence: their mean counts once.
        """
        values = []
        for results in self._by_seed():
            scores = [result.score(split, name) for result in results]
            values.append(mean([score for score in scores if math.isfinite(score)]))
        found = np.array(values, dtype=float)
        return found[np.isfinite(found)]

    def _by_seed(self) -> list[list[Result]]:
        groups: dict[int | str, list[Result]] = {}
        for place, result in enumerate(self.results):
            seed = _seed(result)
            groups.setdefault(f"unknown {place}" if seed is None else seed, []).append(result)
        return list(groups.values())

    def mean(self, split: str, name: str) -> float:
        """Return the mean of a metric, NaN if no run has it."""
        return mean(self.scores(split, name))

    def constants(self, split: str) -> dict[str, dict[str, float]]:
        """Return each constant predictor's metrics, averaged over the runs that have them."""
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
        """Return the metrics at which the mean of a constant predictor is at least as good."""
        means = {name: self.mean(split, name) for name in METRICS}
        return beaten_by_constant(means, self.constants(split))


def swept_keys(jobs: Sequence[JobState]) -> list[str]:
    """Return the overridden keys in which jobs differ, except seeds and Hydra's own keys.

    A key that equals `seed` in every job, such as `data.seed`, is a seed as well.
    """
    overrides = [_values(job) for job in jobs]
    keys = dict.fromkeys(key for values in overrides for key in values)
    return [
        key
        for key in keys
        if key != "seed" and not key.startswith(("hydra.", "hydra/"))
        if len({values.get(key) for values in overrides}) > 1
        if any(values.get(key) != values.get("seed") for values in overrides)
    ]


def group_by_configuration(results: Sequence[Result]) -> list[Configuration]:
    """Group results by the values of the swept keys, in the order of each group's first job.

    Runs with the same overrides but different resolved configs or data sets form separate
    configurations, for example if a file in `conf/` was edited between them.
    """
    keys = swept_keys([result.job for result in results])
    by_overrides: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        values = _values(result.job)
        by_overrides.setdefault(tuple(values.get(key, DEFAULT) for key in keys), []).append(result)
    hidden = {values: _differing(group) for values, group in by_overrides.items()}
    every = list(dict.fromkeys(key for differing in hidden.values() for key in differing))
    found: dict[tuple[str, ...], Configuration] = {}
    for result in results:
        values = tuple(_values(result.job).get(key, DEFAULT) for key in keys)
        own = [result.config.get(key, UNKNOWN) for key in hidden[values]]
        configuration = found.setdefault(
            (*values, *own), Configuration(dict(zip(keys, values, strict=True)), [])
        )
        configuration.results.append(result)
    for configuration in found.values():
        for key in every:
            known = (each.config[key] for each in configuration.results if key in each.config)
            configuration.values[key] = next(known, UNKNOWN)
    return list(found.values())


def hidden_keys(found: Sequence[Configuration]) -> list[str]:
    """Return the keys in which configurations differ though their runs have the same overrides."""
    jobs = [result.job for configuration in found for result in configuration.results]
    swept = swept_keys(jobs)
    return [key for key in (found[0].values if found else ()) if key not in swept]


def _differing(group: Sequence[Result]) -> list[str]:
    """Return the keys in which scored runs differ, except the seed and keys equal to the seed."""
    configs = [result.config for result in group if result.summary and result.config]
    return [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if len({config.get(key) for config in configs}) > 1
        if any(config.get(key) != config.get("seed") for config in configs)
    ]


def runs_table(found: Sequence[Configuration]) -> pd.DataFrame:
    """Return a row for each job: overrides, state, place, metrics, speeds, provenance, error."""
    table = pd.DataFrame(
        [
            {
                "sweep": str(result.job.sweep),
                "number": result.job.number,
                "folder": str(result.job.folder),
                "overrides": " ".join(result.job.overrides),
                **configuration.values,
                "seed": _seed(result),
                "state": result.job.state,
                "dataset": result.dataset,
                **run_location(result),
                "waits_for": result.job.waits_for,
                **{f"{split}/{name}": result.score(split, name) for split, name in SCORES},
                **dict(zip(SPEEDS, _speeds(result), strict=True)),
                "weights_digest": text(at(result.summary, "weights_digest")),
                "commit": text(at(result.manifest, "git", "commit")),
                "error": result.job.error,
                "log": text(result.job.log),
            }
            for configuration in found
            for result in configuration.results
        ]
    )  # fmt: skip
    table["seed"] = table["seed"].astype("Int64")
    return table.sort_values(["sweep", "number"], kind="stable", ignore_index=True)


def configurations_table(found: Sequence[Configuration]) -> pd.DataFrame:
    """Return a row for each configuration: jobs by state, means and deviations over its runs.

    The standard deviation (`_sd`, ddof 1) of a single run is NaN.
    """
    return pd.DataFrame([_row(configuration) for configuration in found])


def run_location(result: Result) -> dict[str, str | None]:
    """Return Slurm's partition, node and job id; outside Slurm the host is the node."""
    slurm = at(result.manifest, "slurm")
    array, task = at(slurm, "array_job_id"), at(slurm, "array_task_id")
    job_id = at(slurm, "job_id") if array is None or task is None else f"{array}_{task}"
    host = at(result.manifest, "hardware", "host")
    job_id = job_id or result.job.job_id
    return {
        "partition": text(at(slurm, "partition")),
        "node": text(at(slurm, "node") or result.job.node or host),
        "job_id": result.job.job_id or text(job_id),
    }


def mean(values: Sequence[float] | np.ndarray) -> float:
    """Return the mean, NaN without values."""
    return float(np.mean(values)) if len(values) else math.nan


def deviation(values: Sequence[float] | np.ndarray) -> float:
    """Return the sample standard deviation, NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def at(value: Any, *keys: str) -> Any:
    """Return the value at these keys of nested dictionaries, None if a key is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float:
    """Return a number as float, NaN for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _row(configuration: Configuration) -> dict[str, Any]:
    states = [result.job.state for result in configuration.results]
    row: dict[str, Any] = {
        "setting": configuration.name,
        **configuration.values,
        "jobs": len(states),
    }
    row["seeds"] = configuration.seeds
    row |= {state: states.count(state) for state in STATES}
    columns = {f"{split}/{name}": configuration.scores(split, name) for split, name in SCORES}
    speeds = np.array([_speeds(result) for result in configuration.results], dtype=float)
    columns |= {name: each[np.isfinite(each)] for name, each in zip(SPEEDS, speeds.T, strict=True)}
    for name, values in columns.items():
        row |= {f"{name}_mean": mean(values), f"{name}_sd": deviation(values)}
    for split in SPLITS:
        row[f"{split}/beaten_by_constant"] = " ".join(configuration.beaten_by_constant(split))
    return row


def _speeds(result: Result) -> tuple[float, float]:
    speed = number(at(result.summary, "training_patches_per_second"))
    return number(at(result.summary, "seconds")), speed


def _seed(result: Result) -> int | None:
    given = text(at(result.manifest, "seed")) or _values(result.job).get("seed", "")
    return int(given) if given.isdecimal() else None


def _values(job: JobState) -> dict[str, str]:
    """Return the overrides as key to value; a deleted key (`~key`) has an empty value."""
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
    """Return a value as printable text; None stays None."""
    return None if value is None else printable(str(value))
