"""Implementations that each mode of the benchmark measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from tempfile import TemporaryDirectory
from typing import Literal

from pcam_lightning.benchmark import loader, step
from pcam_lightning.benchmark.case import Case
from pcam_lightning.benchmark.fit import StepGate, iterate_fit
from pcam_lightning.benchmark.naive_loop import NaiveLoop
from pcam_lightning.benchmark.roofline import Cost, cost_of
from pcam_lightning.benchmark.timer import Implementation, Sample
from pcam_lightning.benchmark.verdict import BARE
from pcam_lightning.config import build
from pcam_lightning.data import Batch
from pcam_lightning.errors import InputError
from pcam_lightning.runs.folder import move_folder

ONE_BATCH, OURS = f"{BARE}, one batch", "pcam_lightning"

Batches = Callable[[], Iterator[tuple[Batch, float]]]
"""Function that yields batches on the device, each with the seconds spent waiting for it."""


def implementations_of(mode: str, case: Case) -> dict[str, Implementation]:
    """Return a case's implementations by name; the first is the reference for ratios.

    Raises:
        InputError: the data has fewer rows than a batch, or the mode lacks a chosen name.
    """
    available = MODES[mode](case)
    names = case.config["benchmark"]["contenders"] or list(available)
    if unknown := [name for name in names if name not in available]:
        raise InputError(
            f"benchmark.contenders: {unknown[0]!r}; expected some of {', '.join(available)}"
        )
    return {name: available[name] for name in names}


def cost_of_case(mode: str, case: Case, fits: bool) -> tuple[int, Cost | None]:
    """Return the network's number of parameters, and the cost of a step.

    The cost is None if the mode does not measure steps or the case does not fit into memory.
    """
    model = build.build_module(case.config).model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if mode not in STEPS or not fits:
        return parameters, None
    run = partial(case.step(STEPS[mode]), step.resident_batch(case.batch_size, case.device))
    run()  # allocates memory that later steps reuse
    return parameters, cost_of(run)


def _set_up(case: Case) -> None:
    case.datamodule.setup()
    case.datamodule.train_dataloader()  # raises for a batch larger than the split


def _loader(case: Case) -> dict[str, Implementation]:
    _set_up(case)
    return loader.implementations(case.datamodule, case.dtype)


def _steps(
    case: Case, kind: Literal["forward", "training"], batches: Batches, name: str = ""
) -> Iterator[Sample]:
    """Run steps in plain PyTorch.

    With a name, compile the network and note the seconds of the first step under that name.
    """
    run = case.step(kind, compiled=bool(name))
    for number, (batch, waited) in enumerate(batches()):
        start = time.perf_counter()
        run(batch)
        if name and number == 0:
            case.notes[name] = {"compile_seconds": time.perf_counter() - start}
        yield Sample(len(batch.row), waited)


def _bare(
    case: Case, kind: Literal["forward", "training"], sources: dict[str, Batches]
) -> dict[str, Implementation]:
    """Return plain PyTorch steps for each source of batches, for the first also compiled if set."""
    implementations: dict[str, Implementation] = {}
    for name, batches in sources.items():
        implementations[name] = partial(_steps, case, kind, batches)
    if case.config["compile"]:
        name, batches = next(iter(sources.items()))
        compiled = f"{name}, compiled"
        implementations[compiled] = partial(_steps, case, kind, batches, compiled)
    return implementations


def _one_batch(case: Case) -> Iterator[tuple[Batch, float]]:
    return repeat((step.resident_batch(case.batch_size, case.device), 0.0))


def _forward(case: Case) -> dict[str, Implementation]:
    return _bare(case, "forward", {"forward": partial(_one_batch, case)})


def _train(case: Case) -> dict[str, Implementation]:
    _set_up(case)
    sources: dict[str, Batches] = {BARE: case.batches, ONE_BATCH: partial(_one_batch, case)}
    return _bare(case, "training", sources) | {OURS: partial(_fit, case)}


def _end_to_end(case: Case) -> dict[str, Implementation]:
    _set_up(case)

    def naive_loop() -> Iterator[Sample]:
        files = case.datamodule.files
        rate, device = case.config["optimizer"]["lr"], case.device.type
        model = build.build_module(case.config).model
        loop = NaiveLoop(files("train"), files("valid"), model, case.batch_size, rate, device)
        return loop.epochs()

    return {"naive loop": naive_loop, OURS: partial(_fit, case, per="epoch")}


def _fit(case: Case, per: Literal["step", "epoch"] = "step") -> Iterator[Sample]:
    """Run a fit with Lightning in a temporary folder."""
    parts = {name: case.config[name] for name in ("callbacks", "logger", "trainer")}
    if per == "step":
        parts["trainer"] = parts["trainer"] | {"limit_val_batches": 1}
        # Scores of one batch, which may have one class only, must not select or stop anything.
        parts["callbacks"] = parts["callbacks"] | {"checkpoint": None, "early_stopping": None}

    def fit(gate: StepGate, folder: str) -> None:
        trainer = build.build_trainer(move_folder(parts, case.config["run_dir"], folder))
        trainer.callbacks.append(gate)  # type: ignore[attr-defined]
        module = build.build_module(case.config)
        trainer.fit(module, datamodule=case.datamodule)

    with TemporaryDirectory(dir=case.config["run_dir"]) as folder:
        yield from iterate_fit(lambda gate: fit(gate, folder), StepGate(per))


STEPS: dict[str, Literal["forward", "training"]] = {"forward": "forward", "train": "training"}
"""Kind of step of the modes that measure steps."""

MODES: dict[str, Callable[[Case], dict[str, Implementation]]] = {
    "train": _train,
    "forward": _forward,
    "loader": _loader,
    "end_to_end": _end_to_end,
}

WINDOWS = {
    "train": "training steps, files in the page cache; the time between epochs is excluded",
    "forward": "forward passes in inference mode, of one batch in the device's memory",
    "end_to_end": "whole epochs of training and validation, files in the page cache",
    "loader": "shuffled batches in host memory, normalized to floats",
    "startup": "from the start of a process to its end, files in the page cache",
}
"""Measured work, by mode. Warm-up is always excluded."""
