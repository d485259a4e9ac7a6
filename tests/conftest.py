"""A small data set in the official file format, and configs as the commands compose them."""

import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.cli import plugins
from pcam_lightning.cli.command import CONF
from pcam_lightning.slurm.hydra_private import SweepLoader

# Two test processes on two cores would otherwise run four threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    # One more than processors: tests of other processes and of Slurm mostly wait.
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def pcam_root(tmp_path: Path) -> Path:
    """A folder with 48 / 20 / 20 patches of noise in the official files."""
    root = tmp_path / "pcam"
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(root, split, *random_split(rows, seed))
    return root


@functools.cache
def config_loader(name: str) -> SweepLoader:
    """Return a loader of a command's configs that reads each file once per process."""
    plugins.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return SweepLoader(loader, loader.load_configuration(name, [], RunMode.MULTIRUN))


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Compose a command's config from overrides, as plain containers."""

    def compose_config(overrides: Sequence[str] = (), name: str = "train") -> dict[str, Any]:
        cfg = config_loader(name).load([f"run_dir={tmp_path / 'run'}", *overrides])
        with open_dict(cfg):
            del cfg["hydra"]
        config = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(config, dict)
        return config  # type: ignore[return-value]

    return compose_config


@pytest.fixture
def command(tmp_path: Path, monkeypatch, capfd):
    """Call `python -m pcam_lightning.NAME ...` in this process, to save the import of torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PCAM_ROOT", raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def call(*arguments: str, name: str = "train") -> tuple[int, str, str]:
        module = f"pcam_lightning.{name}"
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", module, *arguments])
        code = 0
        try:
            importlib.import_module(f"{module}.__main__").main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    yield call
    # Hydra has configured logging to a file of this test's folder.
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
