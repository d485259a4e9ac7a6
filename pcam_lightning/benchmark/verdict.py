"""What limits a step, in words, and what could be done about it."""

from collections.abc import Mapping, Sequence
from typing import Any

BARE = "bare loop"
LIMIT = 0.1
"""Share of a step from which waiting or the framework is what limits it."""
SMALL = 0.1
"""Share of both peaks below which a step is made of operations too small for the machine."""

ADVICE = {
    "data": "data.num_workers, data.cache=true or, on a GPU, data.device_resident=true",
    "the framework": "a larger data.batch_size, or fewer callbacks and loggers",
    "small operations": "a larger data.batch_size, or compile=true",
    "compute": "trainer.precision=bf16 where it is not used yet, a GPU, or a smaller model",
    "memory bandwidth": "a larger data.batch_size, trainer.precision=bf16 or compile=true",
}
"""What to change, by what a step is bound by."""


def bound_by(row: Mapping[str, Any]) -> str | None:
    """The key of `ADVICE` for a row of a benchmark; None where the row does not tell.

    Waiting for data and the framework's own share of the time come first, since the machine is
    idle meanwhile. Else it is what the step would take longer for at the machine's measured peaks:
    its floating-point operations, or its traffic with memory.
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
    """A sentence on each row that there is something to say of: steps of the framework or through
    the network, what did not fit, and whether compiling pays."""
    return [said for row in rows if (said := _compiled(row, rows) or _limits(row))]


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
        facts.append(f"{row['share_of_flops']:.0%} of the measured peak of computing")
        facts.append(f"{row['share_of_bandwidth']:.0%} of that of memory")
    return f"{name}: bound by {bound} ({', '.join(facts)}); to change: {ADVICE[bound]}"


def _compiled(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether compiling pays, of a row whose network was compiled; None of another."""
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
        return f"{name} and does not pay, a step takes {-saved:.2f} ms longer"
    return (
        f"{name} and saves {saved:.2f} ms a step: it pays after {1e3 * seconds / saved:,.0f} steps"
    )


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['model']}, batch {row['batch_size']}, {row['precision']}, {row['device']}"
