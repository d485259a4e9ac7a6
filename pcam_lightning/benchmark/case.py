"""Combinations of model, device, precision and batch size, and the steps to measure for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Literal

import torch
from lightning import Trainer

from pcam_lightning.benchmark import step
from pcam_lightning.config import build
from pcam_lightning.config.compose import Config, choice
from pcam_lightning.config.precision import choose_precision, compute_dtype
from pcam_lightning.data import Batch, PCamDataModule


@dataclass(frozen=True)
class Case:
    """One combination of model, device, precision and batch size."""

    model: str
    config: Config
    """The command's config with the values of this combination."""
    datamodule: PCamDataModule
    """Not yet set up."""
    notes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Further columns of an implementation's row, by the name of the implementation."""

    @property
    def batch_size(self) -> int:
        return self.config["data"]["batch_size"]

    @property
    def precision(self) -> str:
        return str(self.config["trainer"]["precision"])

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self.precision)

    @property
    def device(self) -> torch.device:
        on_gpu = self.config["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if on_gpu else "cpu")

    def trainer(self) -> Trainer:
        """Return a trainer without callbacks and loggers, for its device and precision plugin."""
        trainer = self.config["trainer"] | {"enable_checkpointing": False}
        return build.build_trainer({"callbacks": {}, "logger": {}, "trainer": trainer})

    def step(
        self, kind: Literal["forward", "training"], compiled: bool = False
    ) -> Callable[[Batch], None]:
        """Return a step in plain PyTorch of a new network, on this device, in this precision."""
        precision = self.trainer().precision_plugin
        module = build.build_module(self.config)
        if compiled:
            module.model.compile()
        precision.convert_module(module)  # in place
        module.to(self.device)
        if kind == "forward":
            return step.forward(module, precision)
        return step.training(module, precision, self.config["trainer"]["gradient_clip_val"])

    def batches(self) -> Iterator[tuple[Batch, float]]:
        """Yield training batches on the device and the seconds spent waiting for each, endlessly.

        The loader is the one that a fit uses.
        """
        self.datamodule.trainer = self.trainer()
        loader = self.datamodule.train_dataloader()
        for epoch in count():
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            waited = loader.waited
            for batch in loader:
                on_device = Batch(*(part.to(self.device, non_blocking=True) for part in batch))
                yield on_device, loader.waited - waited
                waited = loader.waited


def cases(config: Config, model: str, root: Path) -> Iterator[Case]:
    """Yield every combination of the lists in `config["benchmark"]`, batch sizes innermost.

    A list that is null stands for the single value in the rest of the config.

    Args:
        config: the command's config.
        model: the name of the config's model, such as "cnn".
        root: the folder of the data.

    Raises:
        InputError: a model does not exist, or the machine lacks a device.
    """
    lists, trainer = config["benchmark"], config["trainer"]
    for name, device, precision, batch_size in product(
        lists["models"] or [None],
        lists["devices"] or [trainer["accelerator"]],
        lists["precisions"] or [trainer["precision"]],
        lists["batch_sizes"] or [config["data"]["batch_size"]],
    ):
        chosen = trainer | {"accelerator": device, "precision": precision}
        chosen["precision"] = choose_precision(chosen)
        combination = config | {
            "model": choice("model", name) if name else config["model"],
            "data": config["data"] | {"batch_size": batch_size},
            "trainer": chosen,
        }
        datamodule = build.build_datamodule(combination, root)
        case = Case(name or model, combination, datamodule)
        case.trainer()  # raises for a device that the machine lacks
        yield case
