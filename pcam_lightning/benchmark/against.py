"""Comparison of a benchmark with an earlier one: speed changes and their possible causes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy.special import ndtri

from pcam_lightning.provenance.record import Difference, Provenance, differences
from pcam_lightning.runs import Run
from pcam_lightning.runs.files import RunFileError

KEY = ("contender", "model", "parameters", "batch_size", "precision", "device", "device_name")
"""Columns that identify a row. Rows with equal values are compared."""
FALSE_ALARMS = 0.05
"""Share of comparisons of equally fast runs in which some row is reported as changed, at most."""
CAUSES = ("package", "python", "hardware", "environment", "determinism", "config", "code")
"""Kinds of `Difference` that can change a speed, in the order of the report."""


def compare_to_baseline(
    rows: Sequence[Mapping[str, Any]],
    earlier: Run,
    manifest: Mapping[str, Any],
    run_noise: float,
) -> dict[str, Any]:
    """Compare rows and this process with the rows and the manifest of an earlier benchmark.

    Args:
        rows: the rows of this benchmark.
        earlier: the earlier benchmark.
        manifest: of this process.
        run_noise: as in `changes`.

    Raises:
        RunFileError: a file of the earlier run is missing or damaged.
    """
    earlier_rows = earlier.summary.get("rows")
    if earlier_rows is None:
        raise RunFileError(f"{earlier.path}/summary.json: no rows, expected a run of benchmark")
    compared = changes(rows, earlier_rows, run_noise)
    changed = causes(differences([Provenance.of(earlier), Provenance.now(manifest)]))
    messages = [
        f"{each['verdict']}: {each['contender']}, {each['model']}, batch {each['batch_size']}, "
        f"{each['precision']}, {each['device']}: {each['then']:,.0f} then, {each['now']:,.0f} now"
        for each in compared
        if each["verdict"] != "same"
    ]
    same = len(compared) - len(messages)
    total = (
        f"{same} of {len(compared)} rows as fast, within the noise of repeats and of runs "
        f"({run_noise:.1%})"
        if compared
        else "no common rows"
    )
    messages.append(f"compared with {earlier.path}: {total}")
    messages += [f"changed since then: {line}" for line in changed]
    return {"run": str(earlier.path), "rows": compared, "changed": changed, "said": messages}


def changes(
    now: Iterable[Mapping[str, Any]], then: Iterable[Mapping[str, Any]], run_noise: float
) -> list[dict[str, Any]]:
    """Return the rows that both benchmarks measured, with both medians, their ratio and a verdict.

    The verdict is "slower" or "faster" if the ranges from lowest to highest repeat do not overlap,
    and the ratio is larger than the noise between two runs explains; else it is "same". Repeats
    inside a run share its memory layout, clock and neighbors, and do not show that noise.

    Args:
        now, then: rows of both benchmarks.
        run_noise: relative standard deviation of a speed between runs, >= 0. The limit holds for
            all rows together: `FALSE_ALARMS`, after Bonferroni.
    """
    earlier = {_key(row): row for row in then}
    pairs = [(row, earlier[_key(row)]) for row in now if _key(row) in earlier]
    pairs = [
        (row, old)
        for row, old in pairs
        if row["median"] is not None
        and None not in (old.get("median"), old.get("low"), old.get("high"))
    ]
    limit = ndtri(1 - FALSE_ALARMS / 2 / max(1, len(pairs))) * math.sqrt(2) * run_noise
    compared = []
    for row, old in pairs:
        ratio = row["median"] / old["median"]
        verdict = "same"
        if row["high"] < old["low"] and math.log(ratio) < -limit:
            verdict = "slower"
        elif row["low"] > old["high"] and math.log(ratio) > limit:
            verdict = "faster"
        medians = {"then": old["median"], "now": row["median"], "ratio": ratio}
        compared.append({name: row.get(name) for name in KEY} | medians | {"verdict": verdict})
    return compared


def causes(differences: Sequence[Difference]) -> list[str]:
    """Return one line for each difference that can change a speed, ordered by `CAUSES`."""
    possible = [each for each in differences if each.kind in CAUSES]
    lines = []
    for each in sorted(possible, key=lambda each: CAUSES.index(each.kind)):
        if each.kind == "config" and each.name.startswith(("benchmark.", "run_dir", "mode")):
            continue
        before, after = each.values
        lines.append(f"{each.kind} {each.name}: then {before}, now {after}")
    return lines


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)
