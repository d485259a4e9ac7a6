"""Measure speed side by side: of this loader, the usual ones and a memory copy; or of callbacks.

python -m pcam_lightning.benchmark trainer.precision=bf16
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pcam_lightning.command import Config, command, data_root_is_named, save_resolved
from pcam_lightning.errors import InputError
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.record import recording, write_json


@command("benchmark")
def main(config: Config) -> Path:
    folder = Path(config["run_dir"])
    manifest = collect_manifest(command=sys.orig_argv, seed=config["seed"], dataset={})
    with recording(folder, manifest):
        return benchmark(config, folder, manifest)


def benchmark(config: Config, folder: Path, manifest: dict[str, Any]) -> Path:
    """Measure, print a table, and write `summary.json`, whose path is returned."""
    import torch

    from pcam_lightning import assembly
    from pcam_lightning.benchmarking.clock import of_first, patches_per_second, spread
    from pcam_lightning.data.source import find_source

    assembly.check_targets(config)
    config["trainer"]["precision"] = assembly.choose_precision(config["trainer"])
    save_resolved(config, folder)
    data = config["data"]
    source = find_source(data["root"], data["demo"], data["on_missing"], data_root_is_named())
    dataset = {"name": source.name, "root": source.root}
    write_json(folder / "manifest.json", manifest | {"dataset": dataset})
    datamodule = assembly.build_datamodule(config, source.root)
    if config["mode"] == "conversion":
        facts, racers = _conversion(datamodule)
    elif config["mode"] == "callbacks":
        facts, racers = _callbacks(datamodule, config)
    else:
        facts, racers = _loaders(datamodule, config)
    speeds = patches_per_second(racers, config["repeats"], config["seconds"])
    rows = [
        {"contender": name, **spread(measured), "of_first": ratio}
        for (name, measured), ratio in zip(speeds.items(), of_first(speeds), strict=True)
    ]
    summary = {
        "dataset": source.name,
        "mode": config["mode"],
        "unit": "training patches per second",
        **facts,
        "threads": torch.get_num_threads(),
        "repeats": config["repeats"],
        "seconds": config["seconds"],
        "rows": rows,
    }
    write_json(folder / "summary.json", summary)
    print_rows(summary)
    return folder / "summary.json"


def _loaders(datamodule: Any, config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    from pcam_lightning import assembly
    from pcam_lightning.benchmarking.loader import contenders

    datamodule.setup()
    datamodule.train_dataloader()  # refuses a batch larger than the split before anything runs
    dtype = assembly.compute_dtype(config["trainer"]["precision"])
    facts = {
        "window": "shuffled batches in host memory; the first measurement of each is not counted",
        "batch_size": datamodule.batch_size,
        "num_workers": datamodule.num_workers,
        "normalised_dtype": str(dtype).removeprefix("torch."),
        "patches": len(datamodule.datasets["train"]),
    }
    return facts, contenders(datamodule, dtype)


def _conversion(datamodule: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from pcam_lightning.benchmarking.loader import conversion
    from pcam_lightning.data.cache import mapped_in_place
    from pcam_lightning.data.files import check_split

    files = datamodule.files("train")
    patches = check_split(files)
    if mapped_in_place(files):
        raise InputError(
            f"{files.images}: mapped as it is, there is nothing to convert; expected a float, "
            "chunked or compressed file, such as data=demo data.demo.dtype=float32"
        )
    facts = {
        "window": "whole files, read from the disk; the first pass of each is not counted",
        "patches": patches,
    }
    return facts, conversion(files)


def _callbacks(datamodule: Any, config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fits without callbacks, with one, and with all of the config."""
    from pcam_lightning import assembly
    from pcam_lightning.benchmarking.fit import Gate, steps

    datamodule.setup()
    callbacks = {name: part for name, part in config["callbacks"].items() if part}

    def contender(chosen: dict[str, Config]) -> Callable[[], Iterator[int]]:
        trainer = config["trainer"] | {
            "limit_val_batches": 1,
            "enable_checkpointing": bool({"checkpoint", "last_checkpoint"} & chosen.keys()),
            "enable_progress_bar": "progress" in chosen,
        }

        def fit(gate: Gate, folder: str) -> None:
            parts = {"callbacks": chosen, "logger": config["logger"], "trainer": trainer}
            runner = assembly.build_trainer(_moved(parts, config["run_dir"], folder))
            runner.callbacks.append(gate)  # type: ignore[attr-defined]
            module = assembly.build_module(config)
            assembly.normalise(module, datamodule)
            runner.fit(module, datamodule=datamodule)

        def run() -> Iterator[int]:
            with TemporaryDirectory(dir=config["run_dir"]) as folder:
                for _ in steps(lambda gate: fit(gate, folder)):
                    yield datamodule.batch_size

        return run

    chosen = {"no callbacks": {}} | {
        name: {name: callbacks[name]}
        for name in ("gradient_norm", "last_checkpoint")
        if name in callbacks
    }
    if "last_checkpoint" in callbacks:
        always = callbacks["last_checkpoint"] | {"every_minutes": 0.0}
        chosen["last_checkpoint, at every step"] = {"last_checkpoint": always}
    chosen["all callbacks"] = callbacks
    facts = {
        "window": "training steps, and the end of an epoch where one falls into a measurement",
        "batch_size": datamodule.batch_size,
        "precision": config["trainer"]["precision"],
        "patches": len(datamodule.datasets["train"]),
    }
    return facts, {name: contender(parts) for name, parts in chosen.items()}


def _moved(value: Any, old: str, new: str) -> Any:
    """A config with one folder in the place of another."""
    if isinstance(value, dict):
        return {key: _moved(each, old, new) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, old, new) for each in value]
    return value.replace(old, new) if isinstance(value, str) else value


def print_rows(summary: dict[str, Any]) -> None:
    """The table on the terminal: medians, spread, ratio to the first row, round by round."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    sizes = f"{summary['patches']:,} patches"
    if "batch_size" in summary:
        sizes += f", batches of {summary['batch_size']}"
    table = Table(box=SIMPLE, title=f"dataset: {summary['dataset']}, {sizes}", title_justify="left")
    table.add_column("patches per second", no_wrap=True)
    for column in ("median", "lowest", "highest", "of first"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in summary["rows"]:
        numbers = [f"{row[key]:,.0f}" for key in ("median", "low", "high")]
        table.add_row(row["contender"], *numbers, f"{row['of_first']:.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
