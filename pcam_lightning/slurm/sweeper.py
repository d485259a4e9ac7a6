"""Hydra's grid sweeper without its second composition of every job.

Import this module after Hydra has discovered its plugins (see `hydra_private.BASIC_SWEEPER`).
"""

from collections.abc import Sequence

from hydra.utils import get_class

from pcam_lightning.slurm.hydra_private import BASIC_SWEEPER
from pcam_lightning.slurm.launcher import CheckingLauncher


class GridSweeper(get_class(BASIC_SWEEPER)):
    """A sweeper that leaves the composition of jobs to a launcher that checks them."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Raise HydraException if a job cannot be composed, unless the launcher checks that."""
        if not isinstance(self.launcher, CheckingLauncher):
            super().validate_batch_is_legal(batch)
