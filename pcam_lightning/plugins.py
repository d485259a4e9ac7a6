"""Hydra plugins of this package."""

from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin

from pcam_lightning.search.sweeper import OptunaSweeper

# Hydra takes sweepers and launchers only under names that begin with hydra_plugins., a namespace
# package at the top of some installed folder; under an alias they can live where they belong.
PLUGINS: dict[str, type[Plugin]] = {
    "hydra_plugins.pcam_lightning.OptunaSweeper": OptunaSweeper,
}
"""The name that a `_target_` has to be given, and the class that it stands for."""


def register() -> None:
    """Make them known to this process's Hydra."""
    Plugins.instance().class_name_to_class.update(PLUGINS)
