"""Download of the official files, or check of existing ones.

python -m pcam_lightning.download root=/scratch/pcam
python -m pcam_lightning.download root=/scratch/pcam check=true
"""

import sys
from pathlib import Path

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.errors import CheckFailed
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording


@command("download")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={"name": "pcam"})
    with recording(folder, manifest):
        save_resolved(config, folder)
        states = fetch_or_check(config)
        summary = folder / "summary.json"
        write_json(summary, {"dataset": "pcam", "root": config["root"], "files": states})
    unsound = {name: state for name, state in states.items() if state in ("missing", "differs")}
    if unsound:
        name, state = next(iter(unsound.items()))
        raise CheckFailed(
            f"{config['root']}: {len(unsound)} of {len(states)} files are not the official ones, "
            f"the first is {name} ({state})",
            summary,
        )
    return summary


def fetch_or_check(config: Config) -> dict[str, str]:
    """Return the state of each file by name, and print it."""
    from pcam_lightning.data.download import check_files, download, official_files

    root, files = Path(config["root"]), official_files(config["splits"])
    states = check_files(root, files) if config["check"] else download(root, files, config["url"])
    for name, state in states.items():
        print(f"{state:<12}{root / name}")
    return states


if __name__ == "__main__":
    main()
