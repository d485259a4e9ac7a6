"""The Slurm cluster: its controller, partitions and limits."""

import getpass
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcam_lightning.doctor.finding import Finding, green, red, yellow
from pcam_lightning.errors import one_line
from pcam_lightning.slurm.queue import ask

COLUMNS = "%P|%a|%l|%D|%c|%m|%G|%T"
"""Columns of sinfo: partition, availability, time limit, nodes, CPUs, MB, GPUs, state of nodes."""
UNUSABLE = ("down", "drain", "fail", "maint", "unknown", "not_responding", "powered_down")


@dataclass(frozen=True)
class Partition:
    """A partition, from the lines that sinfo prints about its groups of equal nodes."""

    name: str
    is_default: bool
    lines: tuple[Sequence[str], ...]

    @property
    def has_gpus(self) -> bool:
        return any("gpu" in line[6] for line in self.lines)

    @property
    def usable_nodes(self) -> int:
        return sum(
            int(line[3]) for line in self.lines
            if line[1] == "up" and not any(word in line[7] for word in UNUSABLE)
            and not line[7].endswith("*")  # does not respond
        )  # fmt: skip

    @property
    def fact(self) -> str:
        """One line: time limit, nodes with their CPUs, memory and GPUs, and states."""
        groups = dict.fromkeys(
            f"{line[3]} x {line[4]} CPUs, {_gigabytes(line[5])} GB"
            f"{'' if line[6] == '(null)' else f', {line[6]}'} ({line[7]})"
            for line in self.lines
        )
        mark = ", default" * self.is_default
        return one_line(f"limit {self.lines[0][2]}{mark}; nodes: {'; '.join(groups)}")


def is_cluster() -> bool:
    """Return whether this machine has the commands of Slurm."""
    return any(map(shutil.which, ("sbatch", "sinfo")))


def read_partitions() -> dict[str, Partition] | None:
    """Return the partitions by name; None if Slurm does not answer."""
    listed = ask("sinfo", "--noheader", f"--format={COLUMNS}")
    if listed is None:
        return None
    rows: dict[str, list[Sequence[str]]] = {}
    for line in listed.splitlines():
        words = line.split("|")
        if len(words) == 8:
            rows.setdefault(words[0].strip(), []).append(words)
    return {
        name.rstrip("*"): Partition(name.rstrip("*"), name.endswith("*"), tuple(lines))
        for name, lines in rows.items()
    }


def examine(
    partitions: dict[str, Partition] | None, cluster: Mapping[str, Any]
) -> Iterator[Finding]:
    """Yield findings about Slurm.

    Args:
        partitions: as from `read_partitions`.
        cluster: section `cluster` of the config, whose partitions have to exist.
    """
    if not is_cluster():
        yield green("Slurm", "not on a cluster; hydra/launcher=submitit_local runs sweeps here")
        return
    if partitions is None:
        yield red("Slurm", "the controller does not answer (sinfo)", "scontrol ping; sinfo")
        return
    version = (ask("sinfo", "--version") or "").strip()
    yield green("Slurm", one_line(f"{version} answers, {len(partitions)} partitions"))
    for partition in partitions.values():
        yield _usable(f"partition {partition.name}", partition)
    for kind in ("cpu", "gpu"):
        yield _examine_choice(kind, cluster, partitions)
    yield from _examine_limits()


def _usable(name: str, partition: Partition) -> Finding:
    if partition.usable_nodes:
        return green(name, partition.fact)
    mend = f"sinfo --partition={partition.name} --list-reasons"
    return yellow(name, f"no node can start a job; {partition.fact}", mend)


def chosen(kind: str, cluster: Mapping[str, Any], partitions: Mapping[str, Partition]) -> list[str]:
    """Return the names of the partitions for jobs of a kind, "cpu" or "gpu"."""
    if named := cluster[kind]["partition"]:
        return str(named).split(",")
    return [each.name for each in partitions.values() if each.is_default]


def _examine_choice(
    kind: str, cluster: Mapping[str, Any], partitions: Mapping[str, Partition]
) -> Finding:
    """Return a finding about the partition of `hydra/launcher=slurm_gpu` or `slurm_cpu`."""
    key = f"cluster.{kind}.partition"
    name = f"slurm_{kind}"
    value = f"cluster={cluster['name']}: {key}={cluster[kind]['partition'] or 'null'}"
    names = chosen(kind, cluster, partitions)
    mend = f"{key}=NAME   # one of {', '.join(partitions)}; or a file conf/cluster/NAME.yaml"
    if not names:
        return red(name, f"{value}, but Slurm has no default partition", mend)
    if unknown := [each for each in names if each not in partitions]:
        return red(name, f"{value}, but there is no partition {unknown[0]}", mend)
    if kind == "gpu" and not any(partitions[each].has_gpus for each in names):
        return yellow(name, f"{value}: {', '.join(names)} has no GPUs", mend)
    return green(name, f"{value}: {', '.join(names)} exists")


def _examine_limits() -> Iterator[Finding]:
    """Yield findings about the limits of jobs and about accounting."""
    config = ask("scontrol", "show", "config") or ""
    size = re.search(r"MaxArraySize\s*=\s*(\d+)", config)
    storage = re.search(r"AccountingStorageType\s*=\s*(\S+)", config)
    if size:
        yield green("MaxArraySize", f"{size[1]} jobs in one array; larger sweeps have several")
    if storage is None or storage[1] in ("(null)", "accounting_storage/none"):
        yield green("accounting", "none; the states of ended jobs come from their run folders")
        return
    columns = "format=account,partition,maxjobs,maxsubmitjobs"
    limits = ask("sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", columns)
    if limits is None:
        yield yellow("accounting", f"{storage[1]} does not answer", "sacctmgr ping")
        return
    rows = [line.split("|") for line in limits.splitlines() if line.count("|") == 3]
    if not rows:
        yield yellow("accounting", "this user has no account", "sacctmgr show assoc user=$USER")
    for account, partition, jobs, submitted in rows:
        place = f", partition {partition}" * bool(partition)
        fact = f"account {account}{place}: MaxJobs {jobs or 'none'}, MaxSubmitJobs "
        yield green("accounting", one_line(fact + (submitted or "none")))


def _gigabytes(megabytes: str) -> str:
    digits = megabytes.rstrip("+")
    return f"{int(digits) / 1000:.0f}" if digits.isdigit() else megabytes
