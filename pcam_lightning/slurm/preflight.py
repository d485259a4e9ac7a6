"""Preflight checks: find what would make a sweep's jobs fail before any is submitted."""

import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pcam_lightning.config.compose import Config, of_command, run_folder
from pcam_lightning.errors import InputError, PreflightError
from pcam_lightning.runs.resume import finished_summary
from pcam_lightning.runs.status import check_free
from pcam_lightning.slurm.disk import disk_problems
from pcam_lightning.slurm.job_config import JobConfig
from pcam_lightning.slurm.partitions import read_partitions
from pcam_lightning.slurm.ranks import ranks_per_node
from pcam_lightning.slurm.submitit_private import submission_script
from pcam_lightning.weights.source import find_source


def check(configs: Sequence[Config], resources: Mapping[str, Any], executor: Any) -> None:
    """Check the config of every job, and that Slurm accepts the request.

    Args:
        configs: the resolved config of each job, including `hydra`.
        resources: the launcher's parameters.
        executor: submitit's executor with these parameters.

    Raises:
        PreflightError: holds one line per problem; a problem that several jobs share appears once.
    """
    problems: list[str] = []
    plain = []
    for config in configs:
        try:
            plain.append(_checked(config))
        except InputError as error:
            problems.append(str(error))
    problems += _resource_problems(plain, resources)
    problems += _double_problems(configs)
    problems += disk_problems(plain, Path(configs[0]["hydra"]["sweep"]["dir"]))
    if "partition" in resources:
        problems += _slurm_problems(resources, executor)
    if problems:
        raise PreflightError(list(dict.fromkeys(problems)))


def settle_data(jobs: Sequence[JobConfig]) -> list[JobConfig]:
    """Return the jobs with the data set's present folder fixed in their configs."""
    from pcam_lightning.data.source import find_root, warn_of_demo

    keys = ("root", "default_root")
    settled, missing = [], set()
    for job in jobs:
        data, given = (config.get("data", {}) for config in (job.checked, job.given))
        if "on_missing" in data and all(data[key] == given[key] for key in keys):
            root = find_root(data)
            if root is None and data["default_root"] is not None:
                missing.add(data["default_root"])
            choice = {"root": root and str(root.absolute()), "default_root": None}
            job = replace(job, given=job.given | {"data": given | choice})
        settled.append(job)
    for folder in sorted(missing):
        warn_of_demo(folder)
    return settled


def _checked(config: Config) -> Config:
    """Return a job's config without `hydra`; raise InputError if its command would reject it."""
    from pcam_lightning.config import build

    folder = run_folder(config)
    plain = of_command(config)
    if finished_summary(plain, folder) is None:
        check_free(folder, resume=plain.get("ckpt_path") is not None)
    if "on_missing" in plain.get("data", {}):  # a data module; other commands read a run's data
        build.check_targets(plain)
        find_source(plain.get("model") or {})
        _check_data(plain["data"])
    if (checkpoint := plain.get("ckpt_path")) and not Path(checkpoint).is_file():
        raise InputError(f"ckpt_path={checkpoint}: no such file, expected a checkpoint")
    return plain


def _check_data(data: dict[str, Any]) -> None:
    from pcam_lightning.data.source import find_root

    # Jobs that start at the same time must not all download.
    root = find_root(data | {"on_missing": data["on_missing"].replace("download", "error")})
    if root is None:
        return
    # Lists are no arguments of a cached function.
    scale, keys = (tuple(v) if isinstance(v := data[key], list) else v for key in ("scale", "keys"))
    rows = _rows(root, keys, data["cache_dir"], scale)
    if data["batch_size"] > rows:
        raise InputError(
            f"data.batch_size={data['batch_size']}: more than the {rows} training patches in {root}"
        )


@cache
def _rows(
    root: Path, keys: tuple[str, ...] | None, cache_dir: str | None, scale: str | tuple[float, ...]
) -> int:
    """Return the number of training patches; raise InputError for damage or another scale."""
    from pcam_lightning.data.files import check_split, split_files
    from pcam_lightning.data.scale import check_scales

    splits = split_files(root, keys, cache_dir)
    rows = {split: check_split(files) for split, files in splits.items()}
    check_scales(splits, scale)
    return rows["train"]


def _resource_problems(
    configs: Sequence[dict[str, Any]], resources: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a line for each resource that differs between the trainer and the job."""
    tasks, gpus = resources["tasks_per_node"], resources.get("gpus_per_node") or 0
    for trainer in (config["trainer"] for config in configs if "trainer" in config):
        devices = trainer.get("devices", 1)  # some commands use one, without a key
        ranks = ranks_per_node(devices)
        if ranks != tasks:
            yield (
                f"trainer.devices={devices}, hydra.launcher.tasks_per_node={tasks}: "
                f"expected as many tasks as devices, such as trainer=ddp trainer.devices={tasks}"
            )
        nodes = trainer.get("num_nodes", 1)
        if nodes != resources["nodes"]:
            yield (
                f"trainer.num_nodes={nodes}, hydra.launcher.nodes="
                f"{resources['nodes']}: expected the same"
            )
        asked = gpus or resources.get("gres")
        if trainer["accelerator"] in ("gpu", "cuda") and not asked and "partition" in resources:
            yield (
                f"trainer.accelerator={trainer['accelerator']}: the job asks for no GPU, expected "
                "hydra/launcher=slurm_gpu or hydra.launcher.gpus_per_node=1"
            )
        if isinstance(gpus, int) and 0 < gpus < ranks:
            yield (
                f"hydra.launcher.gpus_per_node={gpus}: expected {ranks}, one for each of "
                f"trainer.devices={devices}"
            )
    if resources.get("runs_per_job", 1) > 1 and tasks > 1:
        yield (
            f"hydra.launcher.runs_per_job={resources['runs_per_job']}: expected "
            f"hydra.launcher.tasks_per_node=1, not {tasks}"
        )
    delay = resources.get("signal_delay_s")
    # Slurm checks time limits twice a minute and may send the signal up to 30 s early.
    if delay is not None and 60 * resources["timeout_min"] <= delay + 30:
        yield (
            f"hydra.launcher.timeout_min={resources['timeout_min']}: Slurm would send the "
            f"signal to save at once, signal_delay_s={delay} before the end; expected a limit of "
            f"more than {delay + 30} s or a shorter delay"
        )


def _double_problems(configs: Sequence[Config]) -> Iterator[str]:
    """Yield a line if two jobs would write to the same run."""
    folders = Counter(run_folder(config) for config in configs)
    if (most := folders.most_common(1)[0])[1] > 1:
        yield (
            f"hydra.sweep.subdir: {most[1]} jobs would write to {most[0]}; expected a folder for "
            "each, such as ${hydra.job.num}"
        )


def _slurm_problems(resources: Mapping[str, Any], executor: Any) -> Iterator[str]:
    """Yield a line for each objection of Slurm to the request; nothing is queued."""
    partitions = read_partitions()
    if partitions is None:
        yield "sinfo gives no answer: expected a machine that can submit to Slurm"
        return
    wanted = (resources.get("partition") or "").split(",") if resources.get("partition") else []
    if unknown := [name for name in wanted if name not in partitions]:
        choices = ", ".join(sorted(partitions))
        yield f"hydra.launcher.partition={unknown[0]}: expected one of {choices}"
        return
    found = False
    for name, partition in partitions.items():
        if name in wanted or (not wanted and partition.is_default):
            for problem in partition.problems(resources):
                found = True
                yield problem
    if not found:
        yield from _sbatch_problems(executor)


def _sbatch_problems(executor: Any) -> Iterator[str]:
    """Yield sbatch's error message if it would reject the request."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.sh"
        script.write_text(submission_script(executor))
        done = subprocess.run(
            ["sbatch", "--test-only", str(script)], capture_output=True, text=True, timeout=60
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reasons = [line.split("error: ")[-1].removeprefix("allocation failure: ") for line in lines]
        yield f"Slurm rejects the request: {'; '.join(dict.fromkeys(reasons))}"
