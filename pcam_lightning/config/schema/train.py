"""Schema of the command train."""

from pydantic import model_validator

from pcam_lightning.config.schema.fields import Instantiable, Name, Seed
from pcam_lightning.config.schema.groups import (
    Augment,
    Callback,
    Data,
    Model,
    Optimizer,
    Scheduler,
    Trainer,
)
from pcam_lightning.config.schema.slurm import SlurmCommand

MONITORED = {
    "val/auroc": "max",
    "val/average_precision": "max",
    "val/accuracy": "max",
    "val/f2": "max",
    "val/loss": "min",
    "train/loss": "min",
}
"""Metrics that are known at the end of every validation, and their better direction."""

_LIBRARIES = ("lightning.", "pcam_lightning.")


class Train(SlurmCommand):
    compile: bool
    seed: Seed
    experiment_name: Name
    run_dir: str
    resume: bool
    ckpt_path: str | None
    data: Data
    model: Model
    augment: Augment
    optimizer: Optimizer
    scheduler: Scheduler
    trainer: Trainer
    callbacks: dict[str, Callback | None]
    logger: dict[str, Instantiable | None]

    @model_validator(mode="after")
    def _check_fused_optimizer(self) -> "Train":
        scaled = self.trainer.precision in ("16", "16-mixed", 16)
        if scaled and self.trainer.gradient_clip_val is not None and self.optimizer.fused:
            raise ValueError(
                "trainer.precision=16-mixed cannot clip the gradients of a fused optimizer; "
                "expected optimizer.fused=false, trainer.gradient_clip_val=null or "
                "trainer.precision=bf16-mixed"
            )
        return self

    @model_validator(mode="after")
    def _check_limits(self) -> "Train":
        trainer = self.trainer
        if trainer.max_epochs == trainer.max_steps == -1 and trainer.max_time is None:
            raise ValueError(
                "trainer.max_epochs=-1: training would never end, expected a limit "
                "+trainer.max_steps=N or +trainer.max_time=DD:HH:MM:SS"
            )
        interval = trainer.val_check_interval
        if trainer.check_val_every_n_epoch is None and not isinstance(interval, int | str):
            raise ValueError(
                "trainer.check_val_every_n_epoch=null: no validation would take place, expected "
                "+trainer.val_check_interval=K, a number of batches"
            )
        return self

    @model_validator(mode="after")
    def _check_monitored_metrics(self) -> "Train":
        callbacks = {name: part for name, part in self.callbacks.items() if part is not None}
        # A callback of the user may log other metrics.
        known = all(part.target.startswith(_LIBRARIES) for part in callbacks.values())
        for name, part in callbacks.items():
            kind, given = part.target.rpartition(".")[2], part.model_extra or {}
            if kind not in ("BestCheckpoint", "ModelCheckpoint", "EarlyStopping"):
                continue
            key, monitor = f"callbacks.{name}", str(given.get("monitor"))
            mode = given.get("mode", "min")
            needed = monitor != "None" or kind == "EarlyStopping"
            if needed and known and monitor not in MONITORED:
                raise ValueError(
                    f"{key}.monitor={monitor}: no such metric, expected one of "
                    f"{', '.join(MONITORED)}"
                )
            if monitor in MONITORED and mode != MONITORED[monitor]:
                raise ValueError(
                    f"{key}.mode={mode}: the worst {monitor} would count as the best, expected "
                    f"{key}.mode={MONITORED[monitor]}"
                )
            kept, filename = given.get("save_top_k", 1), str(given.get("filename") or "{epoch}")
            if kept not in (0, 1) and "{" not in filename:
                raise ValueError(
                    f"{key}.save_top_k={kept}: all would overwrite {filename}.ckpt, expected "
                    f"{key}.save_top_k=1, or {key}.filename='{filename}-{{epoch}}'"
                )
        return self
