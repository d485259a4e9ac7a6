"""Tour on the demo set: audit, sweep, twin run, evaluation, export and report in one command.

python -m pcam_lightning.tour
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from pcam_lightning.cli.command import Config, command
from pcam_lightning.errors import CheckFailed
from pcam_lightning.files import write_json
from pcam_lightning.tour.steps import Step, plan


@command("tour")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    steps = plan(folder, config["tour"]["overrides"])
    seconds: dict[str, float] = {}
    # The folder gets no status: it is no run, but holds those of the steps.
    for number, step in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        start = time.monotonic()
        _run(step, folder)
        seconds[step.title] = time.monotonic() - start
    page = folder / "report" / "report.html"
    write_json(folder / "summary.json", {"dataset": "demo", "page": page, "seconds": seconds})
    print(f"\ntour: {sum(seconds.values()):.0f} s; open {os.path.relpath(page)}")
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
