"""Threads of torch against the CPUs that this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from pcam_lightning.doctor.finding import Finding, green, yellow
from pcam_lightning.doctor.probe import TorchFacts
from pcam_lightning.slurm.local import cores


def examine(torch: TorchFacts) -> Iterator[Finding]:
    """Yield a finding about the number of threads."""
    limit, allowed = cgroup_cpus(), cores()
    usable = min(allowed, math.ceil(limit)) if limit else allowed
    group = f"{limit:g} by the cgroup" if limit else "no limit by the cgroup"
    fact = f"CPUs: {allowed} by affinity, {group}; OMP_NUM_THREADS="
    fact += os.environ.get("OMP_NUM_THREADS") or "(not set)"
    threads = torch.get("threads")
    if threads is None:
        yield yellow("threads", f"{fact}; torch does not start", None)
    elif threads > usable:
        fact += f"; torch uses {threads} threads on {usable} CPUs"
        yield yellow("threads", fact, f"export OMP_NUM_THREADS={usable}")
    else:
        yield green("threads", f"{fact}; torch uses {threads}")


def cgroup_cpus(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Return the smallest CPU limit of this process's control groups (v1 and v2); None if none."""
    limits: list[float] = []
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            tops = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [root / "cpu", root / controllers]
        else:
            continue
        for top in tops:
            # In a container, the path may be that of the host, which does not exist here.
            place = top / path.strip("/")
            for folder in (place, *place.parents):
                if folder.is_relative_to(top) and (limit := _limit(folder)):
                    limits.append(limit)
    return min(limits, default=None)


def _limit(folder: Path) -> float | None:
    """Return the CPU limit of one control group; None if it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            return int(quota) / int(period) if int(quota) > 0 else None
        except (OSError, ValueError):  # "max" is no number
            continue
    return None
