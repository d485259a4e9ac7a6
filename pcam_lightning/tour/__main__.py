"""Tour on the demo set: audit, sweep, twin run, evaluation, export and report in one command.

python -m pcam_lightning.tour
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.errors import CheckFailed
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording
from pcam_lightning.tour.steps import Step, plan


@command("tour")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    steps = plan(folder, config["tour"]["overrides"])
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    seconds: dict[str, float] = {}
    with recording(folder, manifest):
        save_resolved(config, folder)
        for number, step in enumerate(steps, start=1):
            print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
            start = time.monotonic()
            _run(step, folder)
            seconds[step.title] = time.monotonic() - start
        write_json(
            folder / "summary.json",
            {"dataset": "demo", "page": folder / "report" / "report.html", "seconds": seconds},
        )
    print(f"\ntour: {sum(seconds.values()):.0f} s; open {folder / 'report' / 'report.html'}")
    return folder / "summary.json"


def _run(step: Step, folder: Path) -> None:
    """Run a step as a process of its own, as a user would; raise CheckFailed if it fails."""
    print(f"$ python {shlex.join(step.line)}", flush=True)
    code = subprocess.run([sys.executable, *step.line], check=False).returncode
    if code:
        raise CheckFailed(
            f"tour: the command {step.command} ended with exit code {code}", folder / "summary.json"
        )


if __name__ == "__main__":
    main()
