"""Fit a classifier, score its best checkpoint on validation and test, and write the run folder.

python -m pcam_lightning.train model=cnn optimizer=adam
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from pcam_lightning.command import Config, command, data_root_is_named, save_resolved
from pcam_lightning.errors import Preempted
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.process import is_first_rank
from pcam_lightning.runs.record import recording, write_json
from pcam_lightning.runs.resume import check_resumable, choose_checkpoint

log = logging.getLogger(__name__)


@command("train")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    if not is_first_rank():
        return train(config, folder, {})
    check_resumable(config, folder)
    manifest = collect_manifest(
        command=sys.orig_argv, seed=config["seed"], dataset={}, config=config
    )
    with recording(folder, manifest, resume=config["ckpt_path"] is not None) as record:
        try:
            return train(config, folder, manifest)
        except Preempted as stop:
            record.preempt(str(stop))
            raise


def train(config: Config, folder: Path, manifest: dict[str, Any]) -> Path:
    """One run from a checked config to its `summary.json`, whose path is returned.

    Raises:
        InputError: the config asks for what is not there; nothing has been trained.
    """
    # Heavy imports wait until the config is known to be sound.
    from pcam_lightning import assembly, result
    from pcam_lightning.checkpoint_io import check_checkpoint
    from pcam_lightning.data.source import find_source

    start = time.monotonic()
    assembly.check_targets(config)
    config["trainer"]["precision"] = assembly.choose_precision(config["trainer"])
    if is_first_rank():
        save_resolved(config, folder)
    trainer = assembly.build_trainer(config)
    module = assembly.build_module(config)
    checkpoint = check_checkpoint(choose_checkpoint(config, folder), module)
    data = config["data"]
    source = find_source(data["root"], data["demo"], data["on_missing"], data_root_is_named())
    datamodule = assembly.build_datamodule(config, source.root)
    datamodule.setup()
    assembly.normalise(module, datamodule)
    log.info("dataset: %s, in %s", source.name, source.root)
    log.info("run: %s", os.path.relpath(folder))
    if trainer.is_global_zero:
        dataset = {
            "name": source.name,
            "root": source.root,
            "fingerprint": datamodule.fingerprint,
        }
        write_json(folder / "manifest.json", manifest | {"dataset": dataset})

    with assembly.ranks_end_together(trainer):
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        best = assembly.score_best(trainer, module, datamodule)

    path = folder / "summary.json"
    if trainer.is_global_zero:
        facts = {
            "experiment_name": config["experiment_name"],
            "seed": config["seed"],
            "best_checkpoint": os.path.relpath(best, folder) if best else None,
            "training_patches_per_second": assembly.training_speed(trainer),
            "weights_digest": result.weights_digest(module.model.state_dict()),
            "seconds": time.monotonic() - start,
        }
        summary = result.write_result(folder, source.name, datamodule, module.predictions, facts)
        result.print_result(folder, summary)
    return path


if __name__ == "__main__":
    main()
