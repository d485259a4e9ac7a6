"""Hydra plugins registered by this package: launchers, sweepers, and a resolver."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from omegaconf import OmegaConf

from pcam_lightning.search.sweeper import OptunaSweeper
from pcam_lightning.slurm.hydra_private import BASIC_SWEEPER
from pcam_lightning.slurm.launcher import LocalLauncher, SlurmLauncher
from pcam_lightning.slurm.ranks import ranks_per_node

# Hydra accepts sweepers and launchers only under names that begin with hydra_plugins., a namespace
# package. With these aliases the classes can be defined in this package.
PLUGINS: dict[str, type[Plugin]] = {
    "hydra_plugins.pcam_lightning.LocalLauncher": LocalLauncher,
    "hydra_plugins.pcam_lightning.SlurmLauncher": SlurmLauncher,
    "hydra_plugins.pcam_lightning.OptunaSweeper": OptunaSweeper,
}
"""The class of each `_target_` alias."""


def register() -> None:
    """Register the plugins in this process's Hydra."""
    known = Plugins.instance().class_name_to_class
    from pcam_lightning.slurm.sweeper import GridSweeper  # after the discovery of plugins

    known |= PLUGINS | {BASIC_SWEEPER: GridSweeper}
    # Hydra would merge hydra-submitit-launcher's configs of these names into the files in conf/.
    for name in ("submitit_slurm", "submitit_local"):
        ConfigStore.instance().repo["hydra"]["launcher"].pop(f"{name}.yaml", None)
    OmegaConf.register_new_resolver("ranks_per_node", ranks_per_node, replace=True)
