"""Partitions of the cluster, and what of a request they cannot give."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pcam_lightning.slurm.ends import seconds_of
from pcam_lightning.slurm.queue import ask


@dataclass
class Partition:
    """A partition of a Slurm cluster.

    Attributes:
        name: its name.
        is_default: True if Slurm uses it for jobs that name no partition.
        is_up: True if it accepts and starts jobs.
        limit_min: longest time limit of a job in minutes; None for no limit.
        nodes: number of nodes.
        cpus: largest number of CPU cores of a node.
        memory_gb: largest memory of a node, in GiB.
        gpus: largest number of GPUs of a node.
    """

    name: str
    is_default: bool
    is_up: bool
    limit_min: int | None
    nodes: int = 0
    cpus: int = 0
    memory_gb: float = 0
    gpus: int = 0

    def problems(self, resources: Mapping[str, Any]) -> Iterator[str]:
        """Yield a line for each parameter of the launcher that this partition cannot give."""
        asked, tasks = resources.get, resources["tasks_per_node"]
        if not self.is_up:
            yield f"hydra.launcher.partition={self.name}: it is not up now"
        if self.limit_min is not None and resources["timeout_min"] > self.limit_min:
            yield (
                f"hydra.launcher.timeout_min={resources['timeout_min']}: partition {self.name} "
                f"allows {self.limit_min} minutes at most"
            )
        if self.nodes and resources["nodes"] > self.nodes:
            yield self._problem("nodes", resources["nodes"], f"{self.nodes} nodes")
        if self.cpus and (cpus := (asked("cpus_per_task") or 1) * tasks) > self.cpus:
            of_tasks = (
                f"with tasks_per_node={tasks}, {cpus} CPU cores a node; " if tasks > 1 else ""
            )
            most = f"nodes of at most {self.cpus} CPU cores"
            yield self._problem("cpus_per_task", asked("cpus_per_task"), most, of_tasks)
        if self.memory_gb and (asked("mem_gb") or 0) > self.memory_gb:
            most = f"nodes of at most {int(self.memory_gb)} GB"
            yield self._problem("mem_gb", asked("mem_gb"), most)
        gpus = asked("gpus_per_node") or 0
        if self.nodes and isinstance(gpus, int) and gpus > self.gpus:
            most = f"nodes of at most {self.gpus} GPUs" if self.gpus else "no GPU"
            yield self._problem("gpus_per_node", gpus, most)

    def _problem(self, key: str, value: Any, most: str, note: str = "") -> str:
        return f"hydra.launcher.{key}={value}: {note}partition {self.name} has {most}"


def read_partitions() -> dict[str, Partition] | None:
    """Return the partitions of the cluster by name; None if Slurm does not answer."""
    shown = ask("scontrol", "--oneliner", "show", "partition")
    listed = ask("sinfo", "--noheader", "--format=%R|%c|%m|%G|%D")
    if shown is None or listed is None:
        return None
    partitions = {}
    for line in shown.splitlines():
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if name := facts.get("PartitionName"):
            seconds = seconds_of(facts.get("MaxTime"))
            partitions[name] = Partition(
                name,
                facts.get("Default") == "YES",
                facts.get("State") == "UP",
                None if seconds is None else int(seconds // 60),
            )
    for line in listed.splitlines():  # a line for each kind of node
        name, *values = (word.strip() for word in line.split("|"))
        if name in partitions and len(values) == 4:
            cpus, memory, gres, nodes = values
            each = partitions[name]
            each.nodes += _number(nodes)
            each.cpus = max(each.cpus, _number(cpus))
            each.memory_gb = max(each.memory_gb, _number(memory) / 1024)
            counts = re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres)
            each.gpus = max(each.gpus, sum(map(int, counts)))
    return partitions


def _number(text: str) -> int:
    """Return a number such as `16`, or `16+` for nodes that differ."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0
