"""Columns that grow a batch at a time."""

import subprocess
import sys

import pytest
import torch

from pcam_lightning.engine.columns import Columns


@pytest.mark.parametrize("capacity", [1, 3, 7, 100])
def test_they_are_what_was_added(capacity: int) -> None:
    rng = torch.Generator().manual_seed(0)
    columns = Columns(capacity)
    assert columns.pop() == []
    for _ in range(2):
        batches = [
            (torch.randint(9, (n,), generator=rng), torch.rand(n, 2, generator=rng))
            for n in (4, 1, 8, 2)
        ]
        for batch in batches:
            columns.add(*batch)
        found = columns.pop()
        for values, parts in zip(found, zip(*batches, strict=True), strict=True):
            assert values.dtype == parts[0].dtype and torch.equal(values, torch.cat(parts))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    # In a process of its own: the settings of malloc hold for the whole process.
    program = """
import torch
from pcam_lightning.engine.columns import Columns
from pcam_lightning.engine.malloc import keep_freed_memory
from pcam_lightning.models import MLP
keep_freed_memory()
network, columns = MLP().eval(), Columns()
def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
with torch.inference_mode():
    for batch in range(200):
        columns.add(network(torch.zeros(64 + batch % 7, 96, 96, 3, dtype=torch.uint8)))
        if batch == 20:
            before = resident()
print(resident() - before)
"""
    found = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert int(found) < 50_000  # kB; kept in a list, these batches take 120 MB more
