"""One archive for an offline machine: model, card, golden patches, and scripts that verify it.

python -m pcam_lightning.bundle run=FOLDER bundle.wheels=cpu
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.cli.licenses import print_license
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording

if TYPE_CHECKING:
    from pcam_lightning.export.target import ExportTarget


@command("bundle")
def main(config: Config) -> Path:
    from pcam_lightning.bundle.signature import check_key
    from pcam_lightning.bundle.wheels import find_checkout
    from pcam_lightning.export.target import resolve_target

    folder, options = Path(config["run_dir"]), config["bundle"]
    if options["sign"] is not None:
        check_key(Path(options["sign"]))
    if options["wheels"] != "none":
        find_checkout()
    target = resolve_target(config)
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    with recording(folder, manifest):
        save_resolved(config, folder)
        bundle(config, target, folder)
    return folder / "summary.json"


def bundle(config: Config, target: "ExportTarget", folder: Path) -> None:
    """Write the archive and `summary.json`.

    Raises:
        CheckFailed: the exported model computes other probabilities; there is no archive.
    """
    from pcam_lightning.bundle.archive import write_archive
    from pcam_lightning.bundle.contents import collect_files
    from pcam_lightning.bundle.wheels import collect_wheels
    from pcam_lightning.export.formats import check_equal, export_onnx
    from pcam_lightning.runs.bundle import Bundle

    options = config["bundle"]
    # Beside the archive, since wheels may need more space than the folder of temporary files has.
    with tempfile.TemporaryDirectory(prefix=".draft", dir=folder) as scratch:
        draft = Path(scratch)
        comparisons = export_onnx(target, draft, config["data"]["batch_size"])
        name, comparison = next(iter(comparisons.items()))
        summary = {
            "run": target.run.path,
            "weights_digest": target.weights_digest,
            "backbone": target.backbone,
            "archive": None,
            "model": comparison.facts(),
        }
        check_equal(name, comparison, summary, folder)
        files = collect_files(target, comparisons, draft, options["golden"])
        if options["wheels"] != "none":
            found = collect_wheels(options["wheels"], draft / "wheels")
            files |= found.wheels | found.locks
        top = f"pcam-{target.model_name}-{str(target.weights_digest)[:8]}"
        path = folder / f"{top}.zip"
        write_archive(path, top, files, options["sign"] and Path(options["sign"]))
    content = Bundle(path)
    size = path.stat().st_size
    write_json(
        folder / "summary.json",
        summary | {"archive": path.name, "bytes": size, "files": content.names},
    )
    print(f"{os.path.relpath(path)}: {len(content.names)} files, {size / 1e6:,.1f} MB")
    print_license(target.backbone)
    source = "-r requirements.txt"
    if options["wheels"] != "none":
        source = "--no-index --find-links wheels --require-hashes -r requirements.lock"
    print(f"there: unzip {path.name} && cd {top} && pip install {source} && python verify.py")


if __name__ == "__main__":
    main()
