"""Check finished folders: what may be wrong with a result, and what may improve it.

python -m pcam_lightning.check inputs=[FOLDER,FOLDER] check.fail_on=[issue]
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.errors import CheckFailed
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording

if TYPE_CHECKING:
    from pcam_lightning.checks.inputs import Inputs
    from pcam_lightning.checks.outcome import Outcome


@command("check")
def main(config: Config) -> Path:
    from pcam_lightning.checks.catalog import run_checks
    from pcam_lightning.checks.inputs import find_inputs

    folder, paths = Path(config["run_dir"]), config["inputs"]
    inputs = find_inputs([paths] if isinstance(paths, str) else paths)
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    with recording(folder, manifest):
        save_resolved(config, folder)
        outcomes = run_checks(inputs)
        summary = summarize(inputs, outcomes, config["check"]["fail_on"])
        write_json(folder / "summary.json", summary)
    print_outcomes(outcomes, config["check"]["show"] == "all")
    if failed := summary["failed_on"]:
        codes = ", ".join(dict.fromkeys(failed))
        raise CheckFailed(f"check.fail_on: found {codes}", folder / "summary.json")
    return folder / "summary.json"


def summarize(inputs: "Inputs", outcomes: "list[Outcome]", fail_on: list[str]) -> dict[str, Any]:
    """Return the folders with their kinds, the counts, and every outcome, as plain containers."""
    from pcam_lightning.checks.report import count_states

    problems = [each for each in outcomes if each.state in ("issue", "tip")]
    return {
        "folders": [{"path": each.path, "kind": each.kind} for each in inputs.folders],
        "counts": count_states(outcomes),
        "fail_on": fail_on,
        "failed_on": [
            each.code
            for each in problems
            if each.code in fail_on or (each.state == "issue" and "issue" in fail_on)
        ],
        "checks": [vars(each) for each in outcomes],
    }


def print_outcomes(outcomes: "list[Outcome]", show_all: bool) -> None:
    """Print issues, then tips, then with `show_all` all others, and the counts."""
    from pcam_lightning.checks.report import count_states, describe

    counts = count_states(outcomes)
    for state in counts if show_all else ("issue", "tip"):
        for line in describe([each for each in outcomes if each.state == state]):
            print(line)
    hint = "" if show_all else " (check.show=all lists them)"
    print(
        f"issues: {counts['issue']}, tips: {counts['tip']}, passed: {counts['passed']}, "
        f"not applicable: {counts['not applicable']}{hint}"
    )


if __name__ == "__main__":
    main()
