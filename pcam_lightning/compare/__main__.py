"""Compare runs: config, code, packages, hardware, data, first divergence and metrics.

python -m pcam_lightning.compare runs=[FOLDER,FOLDER]
"""

import sys
from pathlib import Path

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.errors import InputError
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording


@command("compare")
def main(config: Config) -> Path:
    from pcam_lightning.compare.report import find, write_comparison

    folder = Path(config["run_dir"])
    runs = find(config["runs"])
    if len(runs) < 2:
        raise InputError(
            f"runs={config['runs']}: {len(runs)} runs found, expected two or more run folders, "
            "or a folder that contains several"
        )
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    with recording(folder, manifest):
        save_resolved(config, folder)
        report = write_comparison(folder, runs)
        summary = {key: report[key] for key in ("runs", "names", "datasets", "states", "verdict")}
        write_json(folder / "summary.json", summary)
    return folder / "summary.json"


if __name__ == "__main__":
    main()
