"""A small data set in the official file format, and configs as the commands compose them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.command import CONF

# Two test processes on two cores would otherwise run four threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def pcam_root(tmp_path: Path) -> Path:
    """A folder with 48 / 20 / 20 patches of noise in the official files."""
    root = tmp_path / "pcam"
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(root, split, *random_split(rows, seed))
    return root


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Compose a command's config from overrides, as plain containers."""

    def compose_config(overrides: Sequence[str] = (), name: str = "train") -> dict[str, Any]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(name, [f"run_dir={tmp_path / 'run'}", *overrides])
        config = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(config, dict)
        return config  # type: ignore[return-value]

    return compose_config
