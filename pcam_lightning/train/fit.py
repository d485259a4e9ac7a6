"""One training run, from a checked config to the files of its folder."""

import logging
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.cli.command import Config, save_resolved
from pcam_lightning.cli.licenses import print_license
from pcam_lightning.errors import InputError
from pcam_lightning.files import write_json
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.process import is_first_rank
from pcam_lightning.runs.resume import check_resumable, choose_checkpoint, remove_leftovers
from pcam_lightning.runs.status import recording
from pcam_lightning.runs.stop_signals import stop_signals

if TYPE_CHECKING:
    from lightning import Trainer

    from pcam_lightning.data import PCamDataModule
    from pcam_lightning.engine.module import PCamClassifier

log = logging.getLogger(__name__)


def train(config: Config, fingerprint: str | None = None) -> Path:
    """Fit, score the best checkpoint, write the run folder, and return its `summary.json`.

    Args:
        config: config of `train`, checked against its schema; replaces `trainer.precision=auto`.
        fingerprint: expected fingerprint of the data. None accepts any data; but a run that
            continues expects its own.

    Raises:
        InputError: the config, its data or its checkpoint cannot be used; nothing was trained.
        Diverged: training produced numbers that are not finite; earlier checkpoints survive.
        Preempted: a signal asked to stop; all progress is saved.
    """
    folder = Path(config["run_dir"])
    fingerprint = check_resumable(config, folder) or fingerprint
    checkpoint = choose_checkpoint(config, folder)
    if not is_first_rank():
        with stop_signals.listening():
            return _train(config, folder, {}, None, checkpoint)
    manifest = collect_manifest(
        command=sys.orig_argv, seed=config["seed"], dataset={}, config=config
    )
    begins_elsewhere = checkpoint is not None and checkpoint == config["ckpt_path"]
    with stop_signals.listening(), recording(folder, manifest, resume=begins_elsewhere):
        remove_leftovers(folder, checkpoint)
        path = _train(config, folder, manifest, fingerprint, checkpoint)
    from pcam_lightning.results.issues import print_issues

    print_issues(folder)
    return path


def _train(
    config: Config,
    folder: Path,
    manifest: dict[str, Any],
    fingerprint: str | None,
    checkpoint: str | None,
) -> Path:
    # Heavy imports come after the checks that need none.
    from pcam_lightning.config import build
    from pcam_lightning.config.construct import settings_reported
    from pcam_lightning.config.loggers import finish_loggers
    from pcam_lightning.config.precision import choose_precision
    from pcam_lightning.data.identity import is_fingerprint
    from pcam_lightning.data.source import find_source
    from pcam_lightning.engine.checkpoints import check_checkpoint
    from pcam_lightning.engine.determinism import determinism
    from pcam_lightning.metrics.interval_text import describe_interval
    from pcam_lightning.train import limits
    from pcam_lightning.train.result import score_best

    start = time.monotonic()
    build.check_targets(config)
    config["trainer"]["precision"] = choose_precision(config["trainer"])
    if is_first_rank():
        save_resolved(config, folder)
    trainer = build.build_trainer(config)
    module = build.build_module(config)
    module.compiled = config["compile"]
    check_checkpoint(checkpoint, module, trainer.max_steps)
    source = find_source(config["data"])
    datamodule = build.build_datamodule(config, source.root)
    datamodule.setup()
    if fingerprint is not None and not is_fingerprint(datamodule.splits, fingerprint):
        raise InputError(
            f"{source.root}: data with fingerprint {datamodule.fingerprint}, expected the data of "
            f"the run, with fingerprint {fingerprint}"
        )
    limits.check_batches(trainer, datamodule)
    limits.check_classes(config["callbacks"], trainer, datamodule)
    log.info("dataset: %s, in %s", source.name, source.root)
    log.info("run: %s", os.path.relpath(folder))
    if trainer.is_global_zero:
        for split, ids in datamodule.slides.items():
            slides = None if ids is None else len(set(ids))
            log.info("intervals on %s %s", split, describe_interval(slides))
        dataset = {
            "name": source.name,
            "root": source.root,
            "fingerprint": datamodule.fingerprint,
            "files": datamodule.digests,
        }
        facts = {"dataset": dataset, "determinism": determinism(trainer.world_size)}
        facts |= {"backbone": module.backbone} if module.backbone else {}
        write_json(folder / "manifest.json", manifest | facts)

    with build.ranks_end_together(trainer), closing(datamodule):
        with settings_reported():
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
            best = score_best(trainer, module, datamodule)
        finish_loggers(trainer.loggers)
        if trainer.is_global_zero:
            facts = {
                "experiment_name": config["experiment_name"],
                "seed": config["seed"],
                "best_checkpoint": os.path.relpath(best, folder) if best else None,
                "seconds": time.monotonic() - start,
            }
            _write_result(folder, source.name, trainer, module, datamodule, facts)
    return folder / "summary.json"


def _write_result(
    folder: Path,
    dataset_name: str,
    trainer: "Trainer",
    module: "PCamClassifier",
    datamodule: "PCamDataModule",
    facts: dict[str, Any],
) -> None:
    # matplotlib and scipy are imported here, not before the first step.
    from pcam_lightning.cli.terminal import Terminal
    from pcam_lightning.results.files import write_result
    from pcam_lightning.results.terminal import print_result
    from pcam_lightning.train.history import plot_history
    from pcam_lightning.train.result import training_speed
    from pcam_lightning.weights.license import license_facts
    from pcam_lightning.weights.state import weights_digest

    network = module.model
    facts = {
        **facts,
        **training_speed(trainer),
        "weights_digest": weights_digest(network.state_dict()),
        "backbone": license_facts(module.backbone),
    }
    plot_history(folder, datamodule, dataset_name)
    summary = write_result(folder, dataset_name, datamodule, network, module.predictions, facts)
    print_result(folder, summary, datamodule.sampler == "balanced")
    print_license(summary["backbone"])
    logs = os.path.relpath(folder)
    Terminal().print(f"curves: tensorboard --logdir {logs}", soft_wrap=True)
