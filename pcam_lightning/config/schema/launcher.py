"""Schema of `hydra.launcher` for the launchers of this package, with Slurm's own spellings."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PositiveInt

GIGABYTES = {"K": 1 / 2**20, "M": 1 / 2**10, "G": 1.0, "T": 2.0**10}
RetryState = Literal[
    "failed",
    "out_of_memory",
    "time_limit",
    "cancelled",
    "node_failure",
    "preempted",
    "killed",
    "lost",
    "damaged",
    "missing",
]


def _minutes(value: Any) -> int:
    """Return the minutes of a number, `minutes:seconds`, or `days-hours:minutes:seconds`."""
    expected = "expected minutes, such as 90, or Slurm's 01:30:00 or 1-12:00:00"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(value).strip())
    if found is None:
        raise ValueError(expected)
    days, first, second, third = (None if part is None else int(part) for part in found.groups())
    if days is not None:  # days-hours:minutes:seconds
        hours, minutes, seconds = first or 0, second or 0, third or 0
    elif third is not None:
        hours, minutes, seconds = first or 0, second or 0, third
    else:
        hours, minutes, seconds = 0, first or 0, second or 0
    total = 60 * (24 * (days or 0) + hours) + minutes + math.ceil(seconds / 60)
    if total < 1:
        raise ValueError("expected a time limit of at least one minute")
    return total


def _gigabytes(value: Any) -> float | int | None:
    """Return the gigabytes of a number, or of Slurm's `16G` and `16000M`."""
    expected = "expected gigabytes, such as 16, or Slurm's 16G or 16000M"
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", str(value).strip(), re.IGNORECASE)
    if isinstance(value, bool) or found is None or not float(found[1]):
        raise ValueError(expected)
    size = float(found[1]) * GIGABYTES[found[2].upper() or "G"]
    return int(size) if size == int(size) else size


def _lines(value: Any) -> Any:
    """Return a text as a list of its lines."""
    return value.splitlines() if isinstance(value, str) else value


def as_list(value: Any) -> Any:
    """Return a single word as a list."""
    return [value] if isinstance(value, str) else value


class Launcher(BaseModel):
    """The launcher's parameters; other arguments of submitit pass unchecked."""

    model_config = ConfigDict(extra="allow")

    submitit_folder: str
    timeout_min: Annotated[int, BeforeValidator(_minutes)]
    mem_gb: Annotated[float | int | None, BeforeValidator(_gigabytes)] = None
    nodes: PositiveInt
    tasks_per_node: PositiveInt
    cpus_per_task: PositiveInt | None = None
    gpus_per_node: int | str | None = None
    array_parallelism: PositiveInt | None = None
    signal_delay_s: PositiveInt | None = None
    max_num_timeout: Annotated[int, AfterValidator(lambda n: max(n, 0))] = 0
    setup: Annotated[list[str], BeforeValidator(_lines)] | None = None
    partition: str | None = None
    python: str | None = None
    detach: bool = False
    snapshot: bool = True
    runs_per_job: PositiveInt = 1
    retry: Annotated[list[RetryState], BeforeValidator(as_list)] | None = None
