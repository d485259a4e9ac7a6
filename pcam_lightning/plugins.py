"""What Hydra is given of ours: launchers, and a resolver for their configs."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf


def register() -> None:
    """Make them known under names that Hydra accepts as `_target_`.

    Hydra (1.3) takes plugins from a top-level package `hydra_plugins` only, where everybody's are
    mixed; ours stay in this package.
    """
    from pcam_lightning.cluster import launcher
    from pcam_lightning.cluster.ranks import ranks_per_node

    OmegaConf.register_new_resolver("ranks_per_node", ranks_per_node, replace=True)
    known = Plugins.instance().class_name_to_class
    # Hydra would hold configs of these names in conf/ against the stock ones, with a warning.
    for name in ("submitit_slurm", "submitit_local"):
        ConfigStore.instance().repo["hydra"]["launcher"].pop(f"{name}.yaml", None)
    known["hydra_plugins.pcam_lightning.SlurmLauncher"] = launcher.SlurmLauncher
    known["hydra_plugins.pcam_lightning.LocalLauncher"] = launcher.LocalLauncher
