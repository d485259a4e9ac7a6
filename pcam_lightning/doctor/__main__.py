"""Check that this machine, its data and its cluster are ready to train.

python -m pcam_lightning.doctor
python -m pcam_lightning.doctor cluster=snellius doctor.submit=true
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.errors import CheckFailed, one_line
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import RunFileError, recording


@command("doctor")
def main(config: Config) -> Path | None:
    from pcam_lightning.doctor.examination import examine
    from pcam_lightning.doctor.report import print_findings, summarize

    folder = None if config["run_dir"] is None else Path(config["run_dir"])
    findings = examine(config, folder)
    print_findings(findings)
    summary = summarize(findings)
    path = _write(folder, config, summary)
    if count := summary["counts"]["red"]:
        first = next(each for each in summary["findings"] if each["level"] == "red")
        raise CheckFailed(f"{count} red, the first is {first['name']}: {first['fact']}", path)
    return path


def _write(folder: Path | None, config: Config, summary: dict[str, Any]) -> Path | None:
    """Write the summary and return its path; None, with a warning, if it cannot be written."""
    if folder is None:
        return None
    with _without_torch():
        manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    try:
        with recording(folder, manifest):
            save_resolved(config, folder)
            write_json(folder / "summary.json", summary)
    except (OSError, RunFileError) as error:  # the disk became full meanwhile
        print(f"warning: no summary is written: {one_line(error)}", file=sys.stderr)
        return None
    return folder / "summary.json"


@contextmanager
def _without_torch() -> Iterator[None]:
    """Make `import torch` raise ImportError in this process, which its libraries could crash."""
    modules: dict[str, Any] = sys.modules
    if "torch" in modules:
        yield
        return
    modules["torch"] = None
    try:
        yield
    finally:
        del modules["torch"]


if __name__ == "__main__":
    main()
