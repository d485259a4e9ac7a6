"""One file for other programs: ONNX or torch.export, compared with PyTorch, with a model card.

python -m pcam_lightning.export run=FOLDER format=onnx export.quantize=int8
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.cli.licenses import print_license
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording

if TYPE_CHECKING:
    from pcam_lightning.export.comparison import Comparison
    from pcam_lightning.export.target import ExportTarget


@command("export")
def main(config: Config) -> Path:
    from pcam_lightning.export.target import resolve_target

    folder = Path(config["run_dir"])
    target = resolve_target(config)
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    with recording(folder, manifest):
        save_resolved(config, folder)
        export(config, target, folder)
    return folder / "summary.json"


def export(config: Config, target: "ExportTarget", folder: Path) -> None:
    """Write the model, its card and `summary.json`.

    Raises:
        CheckFailed: the exported model computes other probabilities; it is not kept.
    """
    from pcam_lightning.export.card import write_card
    from pcam_lightning.export.formats import check_equal, export_onnx, export_pt2

    batch_size = config["data"]["batch_size"]
    if config["format"] == "onnx":
        quantize = config["export"]["quantize"] == "int8"
        comparisons = export_onnx(target, folder, batch_size, quantize)
    else:
        comparisons = export_pt2(target, folder, batch_size)
    summary: dict[str, Any] = {
        "run": target.run.path,
        "weights_digest": target.weights_digest,
        "decision_threshold": target.decision_threshold,
        "temperature": target.served.temperature,
        "prior_offset": target.served.prior_offset,
        "backbone": target.backbone,
        "files": {name: each.facts() | each.speed() for name, each in comparisons.items()},
    }
    for name, each in comparisons.items():
        print(_describe(name, each))
    check_equal(*next(iter(comparisons.items())), summary, folder)
    write_json(folder / "summary.json", summary)
    write_card(folder, target, comparisons)
    print_license(target.backbone)
    print(f"model card: {os.path.relpath(folder)}/model_card.html")


def _describe(name: str, found: "Comparison") -> str:
    text = (
        f"{name}: {found.patches:,} validation patches, largest difference "
        f"{found.largest_difference:.1e}, {found.flipped_decisions} flipped decisions, "
        f"{found.patches_per_second[1]:,.0f} patches per second "
        f"(PyTorch {found.patches_per_second[0]:,.0f})"
    )
    if not found.is_equal and None not in found.auroc:
        before, after = found.auroc
        text += f"; AUROC {after:.4f} instead of {before:.4f}"
        text += f", accuracy {found.accuracy[1]:.4f} instead of {found.accuracy[0]:.4f}"
    return text


if __name__ == "__main__":
    main()
