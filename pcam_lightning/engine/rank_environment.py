"""Environment of a trainer's ranks: who starts them, and checks of their number."""

import os

from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from pcam_lightning.errors import InputError
from pcam_lightning.runs.process import is_first_rank, is_interactive_job, is_srun_rank, read_rank


class SrunEnvironment(SLURMEnvironment):
    """Environment of ranks that `srun` started; `check_ranks` checks them.

    Lightning's own class (2.6) rejects `srun --ntasks=2` and reads the variables of the job instead
    of the step. Its requeue would compete with `engine.callbacks.preemption_checkpoint`.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_variables() -> None:
        pass

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        pass


def rank_environment() -> LightningEnvironment | SrunEnvironment | None:
    """Return Lightning's plugin for the ranks of this process; None if its own choice is right.

    Lightning (2.6) treats every process of a Slurm job as a rank that Slurm started, including job
    scripts and interactive shells.
    """
    if "RANK" in os.environ:
        return None
    if is_srun_rank():
        return SrunEnvironment()
    return LightningEnvironment() if "SLURM_NTASKS" in os.environ else None


def check_ranks(trainer: Trainer) -> None:
    """Check that the started ranks match a trainer.

    Raises:
        InputError: the number differs, this process is no rank of the trainer, or nothing starts
            the other ranks, so that the first would wait forever.
    """
    devices, nodes = trainer.num_devices, trainer.num_nodes
    ranks = devices * nodes
    needed = f"trainer.devices={devices} trainer.num_nodes={nodes}: {ranks} rank(s)"
    rank = read_rank()
    started = f"{rank.started} were started"
    if rank.nodes is not None:
        started += f" on {rank.nodes} node(s)"
    if rank.started not in (None, ranks) or rank.nodes not in (None, nodes):
        raise InputError(f"{needed}, while {started}; expected the same numbers")
    limit = {"LOCAL_RANK": devices, "NODE_RANK": nodes}.get(rank.variable, ranks)
    if rank.number >= limit or trainer.is_global_zero != is_first_rank():
        raise InputError(
            f"{needed}, while this process has {rank.variable}={rank.number}; expected the "
            "variables of torchrun or srun, or none"
        )
    if rank.variable not in ("RANK", "SLURM_PROCID"):
        _check_local(needed, ranks, nodes)


def _check_local(needed: str, ranks: int, nodes: int) -> None:
    """Check that Lightning can start all ranks itself."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    outside = not {"SLURM_STEP_ID", "LOCAL_RANK"} & os.environ.keys()
    if ranks > 1 and tasks != "1" and outside and not is_interactive_job():
        raise InputError(
            f"{needed}, while this Slurm job of {tasks} tasks has not started them; expected the "
            "command behind srun, or a job of one task"
        )
    if nodes > 1 and not {"NODE_RANK", "GROUP_RANK", "MASTER_ADDR"} & os.environ.keys():
        raise InputError(
            f"{needed}, while nothing starts those of other nodes; expected the command behind "
            "srun or torchrun, or MASTER_ADDR and NODE_RANK"
        )
