"""The rank of a process is what Lightning takes it for, or the run is refused."""

import os

import pytest
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from pcam_lightning.engine.rank_environment import check_ranks, rank_environment
from pcam_lightning.errors import InputError
from pcam_lightning.runs.process import is_first_rank

JOB = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = JOB | {"SLURM_STEP_ID": "0"}
TWO = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
SECOND = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "GROUP_RANK": "0"}
TORCHRUN |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # trainers of other ranks change it
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)

    def give(chosen: dict[str, str]) -> None:
        for name, value in chosen.items():
            monkeypatch.setenv(name, value)

    return give


def trainer(devices: int, nodes: int = 1) -> Trainer:
    plugin = rank_environment()
    return Trainer(
        accelerator="cpu",
        devices=devices,
        num_nodes=nodes,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        plugins=[plugin] if plugin else [],
    )


# Devices, and the rank that both sides see.
@pytest.mark.parametrize(
    ("chosen", "devices", "rank", "kind"),
    [
        ({}, 1, 0, None),
        ({}, 2, 0, LightningEnvironment),
        ({"LOCAL_RANK": "1"}, 2, 1, LightningEnvironment),
        (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1"}, 2, 1, None),
        # Interactive shells and job scripts: Lightning starts the ranks.
        (JOB | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 2, 0, LightningEnvironment),
        (
            JOB | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "LOCAL_RANK": "1"},
            2,
            1,
            LightningEnvironment,
        ),
        (JOB | {"SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"}, 2, 0, LightningEnvironment),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, 2, 0, LightningEnvironment),
        (STEP | TWO | {"SLURM_PROCID": "0", "SLURM_PTY_PORT": "1"}, 2, 0, LightningEnvironment),
        (JOB | TWO | {"SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"}, 1, 0, None),
        # srun starts them, in a job of any name and with --ntasks.
        (STEP | TWO | SECOND, 2, 1, SLURMEnvironment),
        (STEP | TWO | SECOND | {"SLURM_JOB_NAME": "interactive"}, 2, 1, SLURMEnvironment),
        (JOB | {"SLURM_NTASKS": "2"} | SECOND, 2, 1, SLURMEnvironment),
        # torchrun behind srun.
        (STEP | TWO | SECOND | TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, 2, 0, None),
    ],
)
def test_the_rank_is_that_of_lightning(variables, chosen, devices, rank, kind) -> None:
    variables(chosen)
    runner = trainer(devices)
    check_ranks(runner)
    assert (runner.global_rank, runner.world_size) == (rank, devices)
    assert is_first_rank() == (rank == 0)
    if kind:
        assert isinstance(runner.strategy.cluster_environment, kind)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chosen", "devices", "nodes", "named"),
    [
        ({"RANK": "1"}, 1, 1, "RANK=1"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 2, 1, "RANK=1"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 1, 1, "2 were started"),
        ({"RANK": "x"}, 1, 1, "RANK=x"),
        ({"LOCAL_RANK": "1"}, 1, 1, "LOCAL_RANK=1"),
        ({"LOCAL_RANK": "5"}, 2, 1, "LOCAL_RANK=5"),
        ({"NODE_RANK": "1"}, 2, 1, "NODE_RANK=1"),
        (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1"}, 1, 1, "2 were started"),
        (STEP | TWO | {"SLURM_PROCID": "0"}, 1, 1, "2 were started"),
        (STEP | TWO | SECOND, 1, 1, "2 were started"),
        (JOB | {"SLURM_NTASKS": "2"} | SECOND, 1, 1, "2 were started"),
        (STEP | TWO | SECOND, 4, 1, "2 were started"),
        (STEP | TWO | SECOND | {"SLURM_STEP_NUM_NODES": "2"}, 2, 1, "on 2 node(s)"),
        # No srun, in a job of several tasks or nodes.
        (JOB | TWO | {"SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"}, 2, 1, "job of 2 tasks"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, 2, 1, "job of 2 tasks"),
        (JOB | {"SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"}, 1, 2, "other nodes"),
    ],
)
def test_other_ranks_than_were_started_are_refused(
    variables, chosen, devices, nodes, named
) -> None:
    variables(chosen)
    with pytest.raises(InputError) as refused:
        check_ranks(trainer(devices, nodes))
    assert named in str(refused.value) and "\n" not in str(refused.value)
