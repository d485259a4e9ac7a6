"""A benchmark held against an earlier one: what got slower, beyond noise, and what has changed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pcam_lightning.provenance.record import Difference, Provenance, differences
from pcam_lightning.runs import Run
from pcam_lightning.runs.files import RunFileError

KEY = ("contender", "model", "parameters", "batch_size", "precision", "device", "device_name")
"""What tells rows apart; rows that agree in these are compared."""
NOTABLE = 0.03
"""Change of a median from which it is told."""


def compare_to_baseline(
    rows: Sequence[Mapping[str, Any]], earlier: Run, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare rows with an earlier benchmark's, and what this process is made of with its origin.

    Raises:
        RunFileError: the earlier run is not whole.
    """
    measured = earlier.summary.get("rows")
    if measured is None:
        raise RunFileError(f"{earlier.path}/summary.json: no rows, expected a run of benchmark")
    found = changes(rows, measured)
    changed = causes(differences([Provenance.of(earlier), Provenance.now(manifest)]))
    messages = [
        f"{each['verdict']}: {each['contender']}, {each['model']}, batch {each['batch_size']}, "
        f"{each['precision']}, {each['device']}: {each['then']:,.0f} then, {each['now']:,.0f} now"
        for each in found
        if each["verdict"] != "same"
    ]
    same = len(found) - len(messages)
    messages.append(f"against {earlier.path}: {same} of {len(found)} rows as fast, within noise")
    messages += [f"since then: {line}" for line in changed]
    return {"run": str(earlier.path), "rows": found, "changed": changed, "said": messages}


def changes(
    now: Iterable[Mapping[str, Any]], then: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The rows that are in both, each with both medians, their ratio, and `verdict`.

    "slower" or "faster" where not even the lowest and highest of the repeats overlap and the
    medians differ by 3 % or more; else "same".
    """
    before = {_key(row): row for row in then}
    found = []
    for row in now:
        old = before.get(_key(row))
        if old is None or row["median"] is None:
            continue
        if None in (old.get("median"), old.get("low"), old.get("high")):
            continue
        ratio = row["median"] / old["median"]
        verdict = "same"
        if row["high"] < old["low"] and ratio <= 1 - NOTABLE:
            verdict = "slower"
        elif row["low"] > old["high"] and ratio >= 1 + NOTABLE:
            verdict = "faster"
        names = {name: row.get(name) for name in KEY}
        found.append(
            names
            | {"then": old["median"], "now": row["median"], "ratio": ratio, "verdict": verdict}
        )
    return found


def causes(differences: Sequence[Difference]) -> list[str]:
    """What can change a speed among what differs (see `provenance.record`), a line each."""
    kinds = ("package", "python", "hardware", "environment", "determinism", "config", "code")
    found = []
    for each in sorted(
        (each for each in differences if each.kind in kinds), key=lambda e: kinds.index(e.kind)
    ):
        if each.kind == "config" and each.name.startswith(("benchmark.", "run_dir", "mode")):
            continue
        before, after = each.values
        found.append(f"{each.kind} {each.name}: then {before}, now {after}")
    return found


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)
