"""Hydra's own sweeper, which composes the jobs of our launchers once instead of twice.

Import it after Hydra has discovered its plugins, since that executes the module of the base class
again (hydra-core 1.3).
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from pcam_lightning.slurm.launcher import CheckingLauncher


class GridSweeper(BasicSweeper):
    """A sweeper that does not compose jobs before a launcher that does so itself."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Raise HydraException if a job cannot be composed and the launcher would not notice."""
        if not isinstance(self.launcher, CheckingLauncher):
            super().validate_batch_is_legal(batch)
