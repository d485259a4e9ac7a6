"""The checkpoint with the best validation score, kept where a run moves or is prolonged."""

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
    """Lightning's `ModelCheckpoint`, which keeps the best score so far in whatever folder it is.

    The stock one (2.6) forgets it where a checkpoint was written in another folder, so that the
    first epoch after that becomes the best one, and takes the path of the best checkpoint from the
    file. Here the best checkpoint is always the one in `dirpath`; a run that begins from a
    checkpoint of another run is given a copy of that run's.
    """

    _kept = False

    @property
    def state_key(self) -> str:
        # That of the stock class, so that either can load the other's state.
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
            fault = fault or (f"{missing[0]} is not there" if missing else None)
            if fault:
                log.warning("The best score so far is not kept: %s.", fault)
        self._kept = trainer.strategy.broadcast(fault is None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state with its paths in this folder, unless its checkpoints are not there."""
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
        """Copy the best checkpoints of another run here; return what stands against it, if so."""
        try:
            dataset = read_manifest(source.parent / "manifest.json").get("dataset") or {}
        except (InputError, OSError):
            return f"{source.parent}/manifest.json does not tell on which data it was reached"
        if dataset.get("fingerprint") != getattr(data, "fingerprint", None):
            return "it was reached on other data"
        for path, score in self._here(state).items():
            best = source / Path(path).name
            if not best.is_file():
                return f"{best} is not there"
            try:
                saved = torch.load(best, weights_only=True, map_location="cpu", mmap=True)
                reached = saved["callbacks"][self.state_key]["current_score"]
                later = not bool(torch.as_tensor(reached == torch.as_tensor(score).cpu()))
            except Exception as error:  # what torch raises for a damaged file has many types
                return f"{best} cannot be read ({' '.join(str(error).split())[:200]})"
            if later:
                return f"{best} was written after the checkpoint"
            atomic_write(Path(path), best.read_bytes())
        return None
