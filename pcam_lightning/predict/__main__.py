"""Tumour or not: predict patches from H5 files, images or a CSV with a trained model.

python -m pcam_lightning.predict run=FOLDER input=PATH
"""

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.cli.licenses import print_license
from pcam_lightning.errors import CheckFailed, InputError
from pcam_lightning.files import atomic_write, write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording

if TYPE_CHECKING:
    from pcam_lightning.config.trained import TrainedModel
    from pcam_lightning.predict.inputs import H5Input, ImageInput

log = logging.getLogger(__name__)


@command("predict")
def main(config: Config) -> Path:
    from pcam_lightning.config.trained import load_trained
    from pcam_lightning.predict.inputs import find_input

    folder, options = Path(config["run_dir"]), config["predict"]
    trained = load_trained(config, HydraConfig.get().overrides.task, options["tta"])
    data = config["data"]
    source = find_input(
        config["input"],
        options["fit"],
        data["scale"],
        options["column"],
        options["root"],
        data["keys"],
        data["cache_dir"],
    )
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    with recording(folder, manifest):
        save_resolved(config, folder)
        skipped = predict(config, trained, source, folder)
    if skipped:
        raise CheckFailed(
            f"{skipped} files could not be read: {folder / 'skipped.csv'}", folder / "summary.json"
        )
    return folder / "summary.json"


def predict(
    config: Config, trained: "TrainedModel", source: "H5Input | ImageInput", folder: Path
) -> int:
    """Write predictions, pictures and `summary.json`; return the number of files skipped."""
    import numpy as np

    from pcam_lightning.config.build import build_fabric
    from pcam_lightning.metrics.abstention import certainty
    from pcam_lightning.predict.pictures import ContactSheet
    from pcam_lightning.predict.scoring import score
    from pcam_lightning.predict.tables import (
        DECISIONS,
        decide,
        draft_table,
        score_labels,
        write_tables,
    )

    start, options = time.monotonic(), config["predict"]
    threshold, rule = _threshold(options["threshold"], trained)
    by_tumour = options["sort"] == "tumour"
    sheet = ContactSheet(options["gallery"])
    features: dict[str, list[float]] = {}
    with draft_table(folder) as draft:
        fabric = build_fabric(config["trainer"])
        for scored in score(trained.network, source, config["data"]["batch_size"], fabric):
            draft.add(scored.patches, scored.logit)
            for name, values in scored.features.items():
                features.setdefault(name, []).extend(values.tolist())
            key = -scored.logit if by_tumour else certainty(scored.logit, threshold)
            sheet.add(scored.patches, scored.logit, key)
        seconds = time.monotonic() - start
        draft.close()
        _write_skipped(folder, source.skipped)
        logit, label = draft.logit, draft.label
        if not len(logit):
            name, reason = source.skipped[0]
            raise InputError(f"input={config['input']}: no patch to predict; {name}: {reason}")
        decision = decide(logit, threshold, options["abstain"])
        write_tables(folder, draft, decision, trained.temperature, trained.prior_offset)
    summary: dict[str, Any] = {
        "input": config["input"],
        "model": trained.source,
        "run": trained.run and trained.run.path,
        "patches": len(logit),
        "skipped": len(source.skipped),
        "threshold": {"value": threshold, "rule": rule},
        "temperature": trained.temperature,
        "prior_offset": trained.prior_offset,
        "backbone": trained.backbone,
        "decisions": {name: int(np.sum(decision == name)) for name in DECISIONS},
        "drift": _drift(
            trained, {name: np.asarray(each) for name, each in features.items()}, folder
        ),
        **({} if label is None else score_labels(label, logit, decision, threshold)),
        "seconds": time.monotonic() - start,
        "patches_per_second": len(logit) / seconds,
    }
    kind = "highest" if by_tumour else "most uncertain"
    title = f"{config['input']}: the {kind} of {len(logit):,} patches"
    sheet.draw(folder / "plots" / "contact_sheet.png", title)
    _draw_heat_maps(folder, source)
    write_json(folder / "summary.json", summary)
    _print(summary)
    return len(source.skipped)


def _threshold(given: float | None, trained: "TrainedModel") -> tuple[float, str]:
    """Return the threshold and where it is from."""
    if given is not None:
        return given, "predict.threshold"
    if trained.threshold is not None:
        return trained.threshold.value, trained.threshold.rule
    log.warning(
        "no threshold is stored for this model: 0.5 decides; "
        "`python -m pcam_lightning.evaluate run=FOLDER` chooses one on validation"
    )
    return 0.5, "default"


def _drift(
    trained: "TrainedModel", features: dict[str, Any], folder: Path
) -> dict[str, Any] | None:
    from pcam_lightning.metrics.drift import CAUSES, FEWEST, compare_features
    from pcam_lightning.predict.pictures import plot_drift

    known = trained.features
    if known is None:
        log.warning("no features of the training patches are stored: drift is not checked")
        return None
    found = compare_features(known, features)
    if not found:
        log.warning("fewer than %d patches: drift from training is not checked", FEWEST)
        return None
    picture = folder / "plots" / "drift.png"
    plot_drift(picture, known, features, found)
    drifted = {name: each for name, each in found.items() if each["drifted"]}
    for name, each in drifted.items():
        log.warning(
            "drift: %s has median %.3g, %.3g in training: %s? (%s)",
            name, each["median"], each["training_median"], CAUSES[name], picture,
        )  # fmt: skip
    return found


def _draw_heat_maps(folder: Path, source: "H5Input | ImageInput") -> None:
    import pandas as pd

    from pcam_lightning.predict.pictures import plot_heat_map

    if not source.thumbnails:
        return
    wanted = list(source.thumbnails)
    table = pd.read_parquet(folder / "predictions.parquet", filters=[("file", "in", wanted)])
    for number, (name, thumbnail) in enumerate(source.thumbnails.items()):
        tiles = table.loc[table["file"] == name]
        plot_heat_map(folder / "plots" / f"heat_map_{number}.png", thumbnail, tiles, name)


def _write_skipped(folder: Path, skipped: list[tuple[str, str]]) -> None:
    import pandas as pd

    from pcam_lightning.runs.tables import csv_bytes

    if not skipped:
        return
    table = pd.DataFrame(skipped, columns=["file", "reason"])
    atomic_write(folder / "skipped.csv", csv_bytes(table))
    for name, reason in skipped[:5]:
        log.warning("skipped %s: %s", name, reason)
    if len(skipped) > 5:
        log.warning("and %d more in skipped.csv", len(skipped) - 5)


def _print(summary: dict[str, Any]) -> None:
    counts = ", ".join(f"{count:,} {name}" for name, count in summary["decisions"].items())
    rule = summary["threshold"]
    print(f"{summary['patches']:,} patches: {counts}")
    print(f"threshold {rule['value']:.4g} ({rule['rule']})")
    if "metrics" in summary:
        scores = summary["metrics"]["metrics"]
        shown = ("auroc", "accuracy", "sensitivity", "specificity")
        print("  ".join(f"{name} {_number(scores[name]['value'])}" for name in shown))
    print(f"{summary['patches_per_second']:,.0f} patches per second")
    print_license(summary["backbone"])


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
