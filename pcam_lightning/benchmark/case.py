"""One combination of model, device, precision and batch size, and what can be measured of it."""

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
    """Of the command, with the values of this combination in their places."""
    datamodule: PCamDataModule
    """Not yet set up."""
    notes: dict[str, dict[str, float]] = field(default_factory=dict)
    """What else is to be known of a contender, by its name."""

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
        """One without callbacks and loggers, for what it knows of devices and precision."""
        trainer = self.config["trainer"] | {"enable_checkpointing": False}
        return build.build_trainer({"callbacks": {}, "logger": {}, "trainer": trainer})

    def step(
        self, kind: Literal["forward", "training"], compiled: bool = False
    ) -> Callable[[Batch], None]:
        """A step of a new network in plain PyTorch, on the device and in the precision."""
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
        """Training batches on the device, epoch after epoch, and the seconds each was waited for.

        From the loader that a fit has.
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
    """Every combination of the lists in `config["benchmark"]`, sizes of a batch innermost.

    Where a list is null, the value of the key that it varies stands alone.

    Args:
        config: of the command.
        model: the name of its model, such as "cnn".
        root: the folder of the data.

    Raises:
        InputError: a model that there is none of, or a device that this machine does not have.
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
        case.trainer()  # refuses devices that are not there
        yield case
