"""Measure the speed of steps, epochs, loaders and start-up, and report what limits it.

python -m pcam_lightning.benchmark trainer.precision=bf16
"""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.files import write_json
from pcam_lightning.runs import Run
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording


@command("benchmark")
def main(config: Config) -> Path:
    folder, against = Path(config["run_dir"]), config["benchmark"]["against"]
    earlier = None if against is None else Run(against)
    manifest = collect_manifest(command=sys.orig_argv, seed=config["seed"], dataset={})
    with recording(folder, manifest):
        return benchmark(config, folder, manifest, earlier)


def benchmark(config: Config, folder: Path, manifest: dict[str, Any], earlier: Run | None) -> Path:
    """Measure, print, write tables and plots, and return the path of `summary.json`."""
    import torch

    from pcam_lightning.benchmark import plots, report
    from pcam_lightning.benchmark.against import compare_to_baseline
    from pcam_lightning.benchmark.modes import WINDOWS
    from pcam_lightning.benchmark.runner import measure_cases
    from pcam_lightning.benchmark.verdict import verdicts
    from pcam_lightning.config import build
    from pcam_lightning.config.precision import choose_precision
    from pcam_lightning.data.source import find_source

    build.check_targets(config)
    config["trainer"]["precision"] = choose_precision(config["trainer"])
    save_resolved(config, folder)
    source = find_source(config["data"])
    dataset = {"name": source.name, "root": source.root}
    manifest |= {"dataset": dataset, "determinism": {"threads": torch.get_num_threads()}}
    write_json(folder / "manifest.json", manifest)
    model = HydraConfig.get().runtime.choices["model"]
    startup = config["mode"] == "startup"
    rows = (_startup if startup else measure_cases)(config, model, source.root)
    slurm = manifest["slurm"] or {}
    rows = [row | {key: slurm.get(key) for key in ("partition", "node", "job_id")} for row in rows]

    summary = {
        "dataset": source.name,
        "mode": config["mode"],
        "unit": "seconds" if startup else "patches/s",
        "window": WINDOWS[config["mode"]],
        **{key: config["benchmark"][key] for key in ("repeats", "seconds")},
        "rows": rows,
        "saturation": [] if startup else report.saturation_points(rows),
        "said": [] if startup else verdicts(rows),
    }
    if earlier is not None:
        summary["against"] = compare_to_baseline(
            rows, earlier, manifest | {"config": config}, config["benchmark"]["run_noise"]
        )
        summary["said"] += summary["against"]["said"]
    report.write_tables(folder, rows, summary["unit"])
    if not startup:
        plots.draw(folder / "plots", rows, f"dataset: {source.name}, mode={config['mode']}")
    write_json(folder / "summary.json", summary)
    report.print_report(rows, summary)
    return folder / "summary.json"


def _startup(config: Config, model: str, root: Path) -> list[dict[str, Any]]:
    from pcam_lightning.benchmark.startup import time_commands

    batch_size = config["data"]["batch_size"]
    arguments = [f"model={model}", f"data.root={root}", f"data.batch_size={batch_size}"]
    return time_commands(arguments, config["benchmark"]["repeats"])


if __name__ == "__main__":
    main()
