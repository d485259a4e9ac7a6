"""The examination: findings of all areas."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pcam_lightning.config.compose import Config
from pcam_lightning.doctor import (
    cluster,
    data,
    disk,
    gpu,
    job,
    locks,
    packages,
    threads,
    tracking,
)
from pcam_lightning.doctor.finding import Finding, red
from pcam_lightning.doctor.probe import probe_torch
from pcam_lightning.errors import one_line

Findings = dict[str, list[Finding]]
"""Findings by area."""


def examine(config: Config, folder: Path | None) -> Findings:
    """Return the findings of all areas; an area that cannot be examined is a red finding.

    Args:
        config: the command's config.
        folder: the run folder, for the logs of test jobs; None if it cannot be written.
    """
    section, outputs = config["doctor"], Path(config["doctor"]["outputs"])
    torch = probe_torch()
    areas: dict[str, Callable[[], Iterable[Finding]]] = {
        "packages": lambda: packages.examine(torch),
        "GPU": lambda: gpu.examine(torch),
        "CPU": lambda: threads.examine(torch),
        "data": lambda: data.examine(config["data"], section["digests"]),
        "disk": lambda: [*disk.examine(outputs), *locks.examine(outputs)],
        "Slurm": lambda: _examine_cluster(config, folder),
        "tracking": lambda: tracking.examine(),
        "weights": lambda: tracking.examine_weights(torch.get("weights")),
    }
    return {area: list(_guarded(area, examine)) for area, examine in areas.items()}


def _examine_cluster(config: Config, folder: Path | None) -> Iterator[Finding]:
    section, chosen = config["doctor"], config["cluster"]
    partitions = cluster.read_partitions() if cluster.is_cluster() else None
    yield from cluster.examine(partitions, chosen)
    if not section["submit"] or (cluster.is_cluster() and partitions is None):
        return
    if partitions is None:
        yield red("job", "doctor.submit=true: this machine cannot submit to Slurm", None)
    elif folder is None:
        yield red("job", "doctor.submit=true: no folder for the log can be written", None)
    else:
        yield from job.examine(folder.absolute(), chosen, partitions, section["wait_s"])


def _guarded(area: str, examine: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of an area, and an exception as a red one: the other areas matter."""
    try:
        yield from examine()
    except Exception as error:
        fact = f"cannot be examined: {type(error).__name__}: {one_line(error)}"
        yield red(area, fact, "pip install --force-reinstall -e .")
