"""Measurement of all implementations of all cases of a benchmark."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pcam_lightning.benchmark.case import cases
from pcam_lightning.benchmark.memory import no_more_than_available, peak_memory
from pcam_lightning.benchmark.modes import BARE, OURS, cost_of_case, implementations_of
from pcam_lightning.benchmark.roofline import peak_of, synchronize
from pcam_lightning.benchmark.timer import measure, relative_speed, spread
from pcam_lightning.runs.hardware import read_hardware


def measure_cases(config: dict[str, Any], model: str, root: Path) -> list[dict[str, Any]]:
    """Measure, and return a row for each implementation of each case.

    `case.cases` describes the arguments and the errors raised.
    """
    cpu, rows, peaks = read_hardware()["cpu"], [], {}
    repeats, seconds = config["benchmark"]["repeats"], config["benchmark"]["seconds"]
    # Build all cases before measuring any, so that invalid input fails at once.
    prepared = [
        (each, implementations_of(config["mode"], each)) for each in cases(config, model, root)
    ]
    for case, implementations in prepared:
        device = case.device
        on_gpu = device.type == "cuda"
        limits = no_more_than_available(device)
        with _no_epoch_lines(), limits, closing(case.datamodule), peak_memory(device) as memory:
            windows = measure(implementations, repeats, seconds, partial(synchronize, device))
        parameters, cost = cost_of_case(config["mode"], case, any(windows.values()))
        if cost and (device, case.dtype) not in peaks:
            peaks[device, case.dtype] = peak_of(device, case.dtype)
        for (name, measured), ratio in zip(windows.items(), relative_speed(windows), strict=True):
            speed = spread(measured)
            row = {
                "contender": name,
                "model": case.model,
                "parameters": parameters,
                "batch_size": case.batch_size,
                "precision": case.precision,
                "dtype": str(case.dtype).removeprefix("torch."),
                "device": device.type,
                "device_name": torch.cuda.get_device_name(device) if on_gpu else cpu,
                "threads": torch.get_num_threads(),
                **speed,
                "of_first": ratio,
                **memory,
                **case.notes.get(name, {}),
            }
            if config["mode"] == "train" and name == OURS and BARE in windows and ratio is not None:
                row["overhead"] = 1 - ratio
            if cost and speed["milliseconds"]:
                each, peak = speed["milliseconds"] / 1e3, peaks[device, case.dtype]
                row |= {
                    "flops_per_patch": cost.flops / case.batch_size,
                    "bytes_per_patch": cost.bytes / case.batch_size,
                    "peak_flops": peak.flops,
                    "peak_bandwidth": peak.bytes,
                    "share_of_flops": cost.flops / each / peak.flops,
                    "share_of_bandwidth": cost.bytes / each / peak.bytes,
                }
            rows.append(row)
    return rows


@contextmanager
def _no_epoch_lines() -> Iterator[None]:
    """Hide the line that a fit logs for each epoch."""
    logger = logging.getLogger("pcam_lightning.engine.callbacks")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
