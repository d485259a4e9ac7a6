"""A command that takes a second, for sweeps of many jobs."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pcam_lightning.cli import plugins


def main(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "number.txt").write_text(str(config.number))


if __name__ == "__main__":
    plugins.register()
    hydra.main(version_base="1.3", config_path=".", config_name="tiny")(main)()
