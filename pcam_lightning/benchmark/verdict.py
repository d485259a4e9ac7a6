"""Messages about the limit of a step and the settings that may remove it."""

from collections.abc import Mapping, Sequence
from typing import Any

BARE = "bare loop"
LIMIT = 0.1
"""Smallest share of a step at which waiting for data or the framework counts as its limit."""
SMALL = 0.1
"""Share of both peaks below which a step's operations count as too small for the machine."""

ADVICE = {
    "data": "data.num_workers, data.cache=true or, on a GPU, data.device_resident=true",
    "the framework": "a larger data.batch_size, or fewer callbacks and loggers",
    "small operations": "a larger data.batch_size, or compile=true",
    "compute": "trainer.precision=bf16 where it is not used yet, a GPU, or a smaller model",
    "memory bandwidth": "a larger data.batch_size, trainer.precision=bf16 or compile=true",
}
"""Settings to change, by the limit of a step."""


def bound_by(row: Mapping[str, Any]) -> str | None:
    """Return the limit of a row's step, a key of `ADVICE`, or None if the row has no such data.

    Waiting for data and the framework's own share of the time come first, since the machine is
    idle meanwhile. Otherwise the limit is compute or memory bandwidth, whichever takes longer at
    the machine's measured peaks.
    """
    if row["median"] is None:
        return None
    if (row["waiting"] or 0) >= LIMIT:
        return "data"
    if row.get("overhead") is not None and row["overhead"] >= LIMIT:
        return "the framework"
    compute, memory = row.get("share_of_flops"), row.get("share_of_bandwidth")
    if compute is None or memory is None:
        return None
    if max(compute, memory) < SMALL:
        return "small operations"
    return "compute" if compute >= memory else "memory bandwidth"


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return messages about limits of steps, out-of-memory rows, and the gain by compiling."""
    return [message for row in rows if (message := _compiled(row, rows) or _limits(row))]


def _limits(row: Mapping[str, Any]) -> str | None:
    name = _name(row)
    if row["median"] is None:
        return f"{name}: out of memory ({row['contender']})"
    if row["contender"].startswith(BARE):
        return None
    bound = bound_by(row)
    if bound is None:
        return None
    facts = [f"waits for data {row['waiting']:.1%} of the time"]
    if row.get("overhead") is not None:
        facts.append(f"the framework takes {max(0.0, row['overhead']):.1%}")
    if row.get("share_of_flops") is not None:
        facts.append(f"{row['share_of_flops']:.0%} of the measured peak of compute")
        facts.append(f"{row['share_of_bandwidth']:.0%} of that of memory bandwidth")
    return f"{name}: bound by {bound} ({', '.join(facts)}); to change: {ADVICE[bound]}"


def _compiled(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the gain by compiling; None for a row whose network was not compiled."""
    seconds = row.get("compile_seconds")
    if seconds is None or row["median"] is None:
        return None
    case = ("model", "parameters", "batch_size", "precision", "device")
    eager = row["contender"].removesuffix(", compiled")
    milliseconds = next(
        each["milliseconds"]
        for each in rows
        if each["contender"] == eager and all(each[key] == row[key] for key in case)
    )
    saved = milliseconds - row["milliseconds"]
    name = f"{_name(row)}: compiling took {seconds:.1f} s"
    if saved <= 0:
        return f"{name} and does not pay off: a step takes {-saved:.2f} ms longer"
    steps = 1e3 * seconds / saved
    return f"{name} and saves {saved:.2f} ms a step: it pays off after {steps:,.0f} steps"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['model']}, batch {row['batch_size']}, {row['precision']}, {row['device']}"
