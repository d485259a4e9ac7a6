"""What each mode of the benchmark lets run side by side."""

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
from pcam_lightning.config.compose import Config
from pcam_lightning.data import Batch
from pcam_lightning.data.cache import mapped_in_place
from pcam_lightning.data.files import check_split
from pcam_lightning.data.scale import check_scales
from pcam_lightning.errors import InputError
from pcam_lightning.runs.folder import move_folder

ONE_BATCH, OURS = f"{BARE}, one batch", "pcam_lightning"

Batches = Callable[[], Iterator[tuple[Batch, float]]]
"""Batches on the device, each with the seconds that it was waited for."""


def contenders_of(mode: str, case: Case) -> dict[str, Implementation]:
    """Name to contender of a case; the first is what the others are held against.

    Raises:
        InputError: the data does not suffice, or one is wanted that the mode does not have.
    """
    found = MODES[mode](case)
    wanted = case.config["benchmark"]["contenders"] or list(found)
    if unknown := [name for name in wanted if name not in found]:
        raise InputError(
            f"benchmark.contenders: {unknown[0]!r}; expected some of {', '.join(found)}"
        )
    return {name: found[name] for name in wanted}


def cost_of_case(mode: str, case: Case, fits: bool) -> tuple[int, Cost | None]:
    """How many parameters the network has, and what a step of the mode has to do, where the mode
    has steps and the case fits into memory."""
    model = build.build_module(case.config).model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if mode not in STEPS or not fits:
        return parameters, None
    run = partial(case.step(STEPS[mode]), step.resident_batch(case.batch_size, case.device))
    run()  # what is allocated once is not part of a step
    return parameters, cost_of(run)


def _set_up(case: Case) -> None:
    case.datamodule.setup()
    case.datamodule.train_dataloader()  # refuses a batch larger than the split


def _loader(case: Case) -> dict[str, Implementation]:
    _set_up(case)
    return loader.contenders(case.datamodule, case.dtype)


def _conversion(case: Case) -> dict[str, Implementation]:
    files = case.datamodule.files("train")
    check_split(files)
    scale = check_scales(files.root, case.datamodule.scale)
    if scale.is_bytes and mapped_in_place(files):
        raise InputError(
            f"{files.images}: mapped as it is, there is nothing to convert; expected a float, "
            "chunked or compressed file, such as data=demo data.demo.dtype=float32"
        )
    return loader.conversion(files, scale)


def _steps(
    case: Case, kind: Literal["forward", "training"], batches: Batches, name: str = ""
) -> Iterator[Sample]:
    """Steps in plain PyTorch; compiled if a name is given, with a note of how long that took."""
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
    """Plain PyTorch with batches of each source and, if the config asks for it, compiled."""
    contenders: dict[str, Implementation] = {}
    for name, batches in sources.items():
        contenders[name] = partial(_steps, case, kind, batches)
    if case.config["compile"]:
        name, batches = next(iter(sources.items()))
        compiled = f"{name}, compiled"
        contenders[compiled] = partial(_steps, case, kind, batches, compiled)
    return contenders


def _one_batch(case: Case) -> Iterator[tuple[Batch, float]]:
    return repeat((step.resident_batch(case.batch_size, case.device), 0.0))


def _forward(case: Case) -> dict[str, Implementation]:
    return _bare(case, "forward", {"forward": partial(_one_batch, case)})


def _train(case: Case) -> dict[str, Implementation]:
    _set_up(case)
    sources: dict[str, Batches] = {BARE: case.batches, ONE_BATCH: partial(_one_batch, case)}
    contenders = _bare(case, "training", sources)
    contenders[OURS] = partial(_fit, case, case.config["callbacks"])
    return contenders


def _end_to_end(case: Case) -> dict[str, Implementation]:
    _set_up(case)

    def usual() -> Iterator[Sample]:
        files = case.datamodule.files
        rate, device = case.config["optimizer"]["lr"], case.device.type
        model = build.build_module(case.config).model
        loop = NaiveLoop(files("train"), files("valid"), model, case.batch_size, rate, device)
        return loop.epochs()

    ours = partial(_fit, case, case.config["callbacks"], per="epoch")
    return {"usual loop": usual, OURS: ours}


def _callbacks(case: Case) -> dict[str, Implementation]:
    """Fits without callbacks, with one, and with all of the config."""
    _set_up(case)
    callbacks = {name: part for name, part in case.config["callbacks"].items() if part}
    chosen = {"no callbacks": {}} | {
        name: {name: callbacks[name]}
        for name in ("gradient_norm", "last_checkpoint")
        if name in callbacks
    }
    if "last_checkpoint" in callbacks:
        always = callbacks["last_checkpoint"] | {"every_minutes": 0.0}
        chosen["last_checkpoint, at every step"] = {"last_checkpoint": always}
    chosen["all callbacks"] = callbacks
    return {name: partial(_fit, case, parts) for name, parts in chosen.items()}


def _fit(case: Case, callbacks: Config, per: Literal["step", "epoch"] = "step") -> Iterator[Sample]:
    """A fit by Lightning, in a folder of its own that is gone afterwards."""
    trainer = case.config["trainer"] | {
        "enable_checkpointing": bool({"checkpoint", "last_checkpoint"} & callbacks.keys()),
        "enable_progress_bar": "progress" in callbacks,
    }
    if per == "step":
        trainer["limit_val_batches"] = 1

    def fit(gate: StepGate, folder: str) -> None:
        parts = {"callbacks": callbacks, "logger": case.config["logger"], "trainer": trainer}
        runner = build.build_trainer(move_folder(parts, case.config["run_dir"], folder))
        runner.callbacks.append(gate)  # type: ignore[attr-defined]
        module = build.build_module(case.config)
        build.normalize(module, case.datamodule)
        runner.fit(module, datamodule=case.datamodule)

    with TemporaryDirectory(dir=case.config["run_dir"]) as folder:
        yield from iterate_fit(lambda gate: fit(gate, folder), StepGate(per))


STEPS: dict[str, Literal["forward", "training"]] = {"forward": "forward", "train": "training"}
"""Modes that measure steps, and what kind of step."""

MODES: dict[str, Callable[[Case], dict[str, Implementation]]] = {
    "train": _train,
    "forward": _forward,
    "loader": _loader,
    "end_to_end": _end_to_end,
    "conversion": _conversion,
    "callbacks": _callbacks,
}

WINDOWS = {
    "train": "training steps, files in the page cache; what happens between epochs is left out",
    "forward": "passes through the network in inference mode, of one batch in the device's memory",
    "end_to_end": "whole epochs of training and validation, files in the page cache",
    "loader": "shuffled batches in host memory",
    "conversion": "whole files, read from the disk",
    "callbacks": "training steps, files in the page cache; what happens between epochs is left out",
    "startup": "from the start of a process to its end, files in the page cache",
}
"""What is inside a measurement, by mode. Warm-up is always outside."""
