"""What Hydra is given of ours: launchers, sweepers, and resolvers for their configs."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from omegaconf import OmegaConf

from pcam_lightning.search.sweeper import OptunaSweeper
from pcam_lightning.slurm.launcher import LocalLauncher, SlurmLauncher
from pcam_lightning.slurm.ranks import ranks_per_node

# Hydra takes sweepers and launchers only under names that begin with hydra_plugins., a namespace
# package at the top of some installed folder; under an alias they can live where they belong.
PLUGINS: dict[str, type[Plugin]] = {
    "hydra_plugins.pcam_lightning.LocalLauncher": LocalLauncher,
    "hydra_plugins.pcam_lightning.SlurmLauncher": SlurmLauncher,
    "hydra_plugins.pcam_lightning.OptunaSweeper": OptunaSweeper,
}
"""The name that a `_target_` has to be given, and the class that it stands for."""


def register() -> None:
    """Make them known to this process's Hydra."""
    known = Plugins.instance().class_name_to_class
    from pcam_lightning.slurm.sweeper import GridSweeper

    known |= PLUGINS | {"hydra._internal.core_plugins.basic_sweeper.BasicSweeper": GridSweeper}
    # Hydra would hold configs of these names in conf/ against the stock ones, with a warning.
    for name in ("submitit_slurm", "submitit_local"):
        ConfigStore.instance().repo["hydra"]["launcher"].pop(f"{name}.yaml", None)
    OmegaConf.register_new_resolver("ranks_per_node", ranks_per_node, replace=True)
