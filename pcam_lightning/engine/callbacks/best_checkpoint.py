"""Callback that keeps the best checkpoint, also when a run is moved or extended."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from pcam_lightning.errors import InputError
from pcam_lightning.files import atomic_write
from pcam_lightning.runs.contents import read_manifest

log = logging.getLogger(__name__)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint` that keeps the best score so far in any folder.

    `ModelCheckpoint` (2.6) drops the best score of a checkpoint from another folder, so that the
    next epoch becomes the best, and it trusts the best checkpoint's path in the file. Here the best
    checkpoint always lies in `dirpath`. A run that starts from another run's checkpoint gets a copy
    of that run's best checkpoint.
    """

    _kept = False

    @property
    def state_key(self) -> str:
        # The key of `ModelCheckpoint`, so that each class can load the other's state.
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state is None or not state["best_k_models"]:
            return
        source = Path(str(trainer.ckpt_path)).parent
        fault = None
        if trainer.is_global_zero:
            if trainer.state.fn == TrainerFn.FITTING and source.resolve() != self._folder.resolve():
                fault = self._copy(source, state, getattr(trainer, "datamodule", None))
            missing = [path for path in self._here(state) if not Path(path).is_file()]
            fault = fault or (f"{missing[0]} does not exist" if missing else None)
            if fault:
                log.warning("The best score so far is not kept: %s.", fault)
        self._kept = trainer.strategy.broadcast(fault is None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state with its paths moved to this folder, if its checkpoints are there."""
        if not self._kept:
            return
        paths = {name: state_dict[name] for name in ("best_model_path", "kth_best_model_path")}
        here = {name: str(self._folder / Path(path).name) for name, path in paths.items() if path}
        here |= {"dirpath": self.dirpath, "best_k_models": self._here(state_dict)}
        super().load_state_dict(state_dict | here | {"last_model_path": ""})

    @property
    def _folder(self) -> Path:
        return Path(str(self.dirpath))

    def _here(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the best checkpoints by their paths in this folder."""
        scores = state["best_k_models"].items()
        return {str(self._folder / Path(path).name): score for path, score in scores}

    def _copy(self, source: Path, state: dict[str, Any], data: Any) -> str | None:
        """Copy the best checkpoints of another run to this folder; return the obstacle, if any."""
        try:
            dataset = read_manifest(source.parent / "manifest.json").get("dataset") or {}
        except (InputError, OSError):
            return f"{source.parent}/manifest.json names no data for that score"
        if dataset.get("fingerprint") != getattr(data, "fingerprint", None):
            return "the score was reached on other data"
        for path, score in self._here(state).items():
            best = source / Path(path).name
            if not best.is_file():
                return f"{best} does not exist"
            try:
                saved = torch.load(best, weights_only=True, map_location="cpu", mmap=True)
                reached = saved["callbacks"][self.state_key]["current_score"]
                later = not bool(torch.as_tensor(reached == torch.as_tensor(score).cpu()))
            except Exception as error:  # torch raises many types for a damaged file
                return f"{best} cannot be read ({' '.join(str(error).split())[:200]})"
            if later:
                return f"{best} was written after the checkpoint"
            atomic_write(Path(path), best.read_bytes())
        return None
