"""Repeat a finished run from its folder, and check that the result is bit-identical.

python -m pcam_lightning.reproduce run=FOLDER
"""

import logging
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.config import schema
from pcam_lightning.config.compose import CONF
from pcam_lightning.config.targets import check_foreign
from pcam_lightning.data.source import recorded_root
from pcam_lightning.errors import CheckFailed, InputError, one_line
from pcam_lightning.files import write_json
from pcam_lightning.runs import Run
from pcam_lightning.runs.folder import move_folder
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.process import is_first_rank
from pcam_lightning.runs.status import recording
from pcam_lightning.train.fit import train

log = logging.getLogger(__name__)

CALLED = ("model", "augment", "optimizer", "scheduler", "trainer", "callbacks", "logger")
"""Sections of a config that are instantiated as a whole."""


@command("reproduce")
def main(config: Config) -> Path:
    folder, run = Path(config["run_dir"]), Run(config["run"])
    if run.state != "finished":
        raise InputError(f"{run.path}: this run is {run.state}, expected a finished one")
    dataset = run.manifest.get("dataset", {})
    twin = twin_config(run, folder / "twin", config["trust"])

    def make_twin() -> Path:
        return train(twin, dataset.get("fingerprint"))

    if not is_first_rank():
        return make_twin()
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset=dataset)
    with recording(folder, manifest):
        save_resolved(config, folder)
        warn(run, manifest)
        make_twin()
        summary = judge(folder, run, Run(folder / "twin"))
    print(one_line(summary["verdict"], 1000))
    if not summary["identical"]:
        raise CheckFailed(summary["verdict"], folder / "summary.json")
    return folder / "summary.json"


def twin_config(run: Run, folder: Path, trusted: Collection[str] = ()) -> Config:
    """Return the config of a run for a repetition in another folder, without remote loggers.

    The run is not trusted: its config may only call targets of `conf/`, write into `folder`, and
    read the recorded data.

    Args:
        run: a finished run of train.
        folder: folder of the repetition.
        trusted: other targets that the config may call.

    Raises:
        InputError: the run's manifest is missing, damaged or of another command, or its config
            would call or write more than that.
    """
    manifest, where = run.manifest, f"{run.path}/manifest.json"
    if "config" not in manifest:
        raise InputError(f"{where}: no config, expected a run of train")
    config = manifest["config"]
    try:
        schema.check("train", config)
    except InputError as error:
        raise InputError(f"{where}: config.{error}") from None
    config = move_folder(config, config["run_dir"], folder)
    config["run_dir"] = str(folder)
    data = config["data"] | recorded_root(manifest.get("dataset", {}))
    data["demo"] = data["demo"] | {"parent": _demo_parent()}
    if data["cache_dir"] is not None:
        data["cache_dir"] = str(folder / "cache")
    config["data"] = data
    config["logger"] = {
        name: part
        for name, part in config["logger"].items()
        if part and part["_target_"] == "pcam_lightning.engine.loggers.CSVLogger"
    }
    check_foreign(config, CALLED, where, folder, trusted)
    # The schema checks the other keys of `data`.
    check_foreign({"data": {"_target_": data["_target_"]}}, ["data"], where, folder, trusted)
    return config


def _demo_parent() -> str:
    return OmegaConf.load(CONF / "data" / "pcam.yaml").demo.parent


def warn(run: Run, manifest: dict[str, Any]) -> None:
    """Log, before training, the code, packages and hardware that have changed since the run."""
    from pcam_lightning.provenance.record import Provenance, differences

    for each in differences([Provenance.of(run), Provenance.now(manifest)]):
        if each.matters and each.kind not in ("config", "data", "determinism"):
            before, after = map(one_line, each.values)
            log.warning("%s %s: then %s, now %s", each.kind, one_line(each.name), before, after)


def judge(folder: Path, run: Run, twin: Run) -> dict[str, Any]:
    """Compare a run with its repetition; write and return the summary."""
    from pcam_lightning.compare.report import first_place, write_comparison

    report = write_comparison(folder, [run, twin])
    pair = report["pairs"][0]
    parted = pair["parted"] or {}
    other = [split for split, compared in pair["metrics"].items() if not compared["identical"]]
    identical = pair["same_weights"] and not first_place(parted) and not other
    steps = f"{parted['steps']:,} steps, " if parted else ""
    summary = {
        "run": str(run.path),
        "identical": bool(identical),
        "verdict": f"identical: {steps}weights and predictions, bit for bit"
        if identical
        else report["verdict"][0],
        "weights_digests": report["weights_digests"],
        "parted": pair["parted"],
    }
    write_json(folder / "summary.json", summary)
    return summary


if __name__ == "__main__":
    main()
