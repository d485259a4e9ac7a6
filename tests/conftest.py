"""A small data set in the official file format, and configs as the commands compose them."""

import functools
import importlib
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from pcam_files import SPLITS, random_split, write_split
from weight_files import write_repository

from pcam_lightning.cli import plugins
from pcam_lightning.cli.command import CONF
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.runs import Run
from pcam_lightning.slurm.hydra_private import SweepLoader

# Two test processes on two cores would otherwise run four threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    # Twice the processors: tests of other processes and of Slurm mostly wait.
    return 2 * (os.cpu_count() or 1)


LONGEST = (
    "test_deaths", "test_search", "test_ranks", "test_sweep", "test_sbatch", "test_tour",
    "test_resume", "test_full_disk", "test_gradient_norm", "test_compare", "test_determinism",
    "test_benchmark",
)  # fmt: skip
"""Modules with tests of a minute or more, the longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Started first, so that no process runs a long test at the end while the others wait.
    rank = {f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    if config.getoption("loadgroup", False):
        for item in items:
            keep_group(item)


def keep_group(item: pytest.Item) -> None:
    """Append a test's `xdist_group` to its id, where the scheduler of pytest-xdist looks for it.

    pytest-xdist 3.8.0 sets an attribute that pytest 9.2 no longer reads (pytest-xdist issue 1386).
    """
    mark = item.get_closest_marker("xdist_group")
    identifier = getattr(item, "_id", None)
    if mark is not None and identifier is not None:
        grouped = type(identifier).parse(f"{item.nodeid}@{mark.args[0]}")
        item._id = grouped  # type: ignore[attr-defined]


@pytest.fixture(autouse=True, scope="session")
def hangups_are_not_ignored() -> None:
    """Undo `nohup`, under which the tests of SIGHUP would test nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def pcam_root(tmp_path: Path) -> Path:
    """A folder with 48 / 20 / 20 patches of noise in the official files."""
    root = tmp_path / "pcam"
    for seed, (split, rows) in enumerate(zip(SPLITS, (48, 20, 20), strict=True)):
        write_split(root, split, *random_split(rows, seed))
    return root


MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Return a function from a name and `make` to a folder that `make` has filled.

    One of the test processes calls `make`, for all of them. Tests must not change the folder.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder = base / name
        with FileLock(f"{folder}.lock"):
            if not folder.with_suffix(".done").exists():
                shutil.rmtree(folder, ignore_errors=True)  # left by a failure
                folder.mkdir()
                make(folder)
                folder.with_suffix(".done").touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def trained_run(made_once: MadeOnce, command_in: Callable[..., None]) -> Run:
    """A finished run of a small CNN, trained once for all processes. Tests must not change it.

    Copy its folder with `shutil.copytree` to change it. The data is 96 / 60 / 60 patches of noise
    with six slides, in the folder that the manifest names; tumours are darker in the center.
    """

    def train(folder: Path) -> None:
        for seed, (split, rows) in enumerate(zip(SPLITS, (96, 60, 60), strict=True)):
            images, labels = random_split(rows, seed)
            images[labels, 32:64, 32:64] //= 2
            write_split(folder / "pcam", split, images, labels)
            header = ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n"
            lines = [f"{row},0,0,True,{labels[row]},slide_{row % 6}\n" for row in range(rows)]
            SplitFiles(folder / "pcam", split).meta.write_text(header + "".join(lines))
        command_in(
            folder,
            f"data.root={folder / 'pcam'}", "data.batch_size=16", "model=cnn",
            "model.channels=[4,4]", "trainer=cpu", "trainer.precision=32-true",
            "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
            f"hydra.run.dir={folder / 'run'}",
        )  # fmt: skip

    return Run(made_once("trained", train) / "run")


@pytest.fixture(scope="session")
def command_in() -> Callable[..., None]:
    """Return a function that calls a command in this process, with a folder as working directory.

    Its plots are empty files.
    """

    def call(folder: Path, *arguments: str, name: str = "train") -> None:
        with pytest.MonkeyPatch.context() as patch, unchanged_logging():
            patch.chdir(folder)
            leave_plots_out(patch)
            compose_once(patch)
            patch.setattr(sys, "argv", [name, *arguments])
            importlib.import_module(f"pcam_lightning.{name}.__main__").main()

    return call


@pytest.fixture(scope="session")
def tuned_run(
    trained_run: Run, made_once: MadeOnce, command_in: Callable[..., None]
) -> Callable[[str], Run]:
    """Return a function from `model.tune` to a run on pretrained weights, trained once for all.

    The weights lie in the folder `weights` beside the run, for a network of timm with batch
    normalization. Tests must not change any of these files; `copied_run` copies them.
    """

    def train(folder: Path, tune: str) -> None:
        write_repository(folder / "weights", "test_efficientnet", license="mit")
        command_in(
            folder,
            f"data.root={trained_run.manifest['dataset']['root']}", "data.batch_size=32",
            "model=timm", f"model.name=local-dir:{folder / 'weights'}", f"model.tune={tune}",
            "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2",
            "optimizer.lr=0.01", f"hydra.run.dir={folder / 'run'}",
        )  # fmt: skip

    def tuned(tune: str) -> Run:
        return Run(made_once(f"tuned_{tune}", functools.partial(train, tune=tune)) / "run")

    return tuned


@pytest.fixture
def copied_run(tuned_run: Callable[[str], Run], tmp_path: Path) -> Callable[..., Run]:
    """Return a function that copies a tuned run with some keys of its manifest changed.

    Changes are for `backbone`, such as `file=...`.
    """

    def copy(tune: str, **changes: Any) -> Run:
        run = Run(shutil.copytree(tuned_run(tune).path, tmp_path / "copy"))
        manifest = json.loads((run.path / "manifest.json").read_text())
        manifest["backbone"] |= changes
        (run.path / "manifest.json").write_text(json.dumps(manifest))
        return run

    return copy


@contextmanager
def unchanged_logging() -> Iterator[None]:
    """Restore the root logger afterwards, which Hydra configures to write into the run folder."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


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


def leave_plots_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write empty files instead of plots: drawing takes half of a short run."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


def compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hydra compose the config of a command once instead of twice.

    Hydra's first composition only reads `hydra.mode`, which is set by the configs of `sweep`.
    """
    get_mode = Hydra.get_mode

    def mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        if any("sweep" in override or "mode" in override for override in overrides):
            return get_mode(hydra, config_name, overrides)
        return None

    monkeypatch.setattr(Hydra, "get_mode", mode)


@pytest.fixture
def plots() -> None:
    """Draw the plots of `command`."""


@pytest.fixture
def command(tmp_path: Path, monkeypatch, capfd, request):
    """Call `python -m pcam_lightning.NAME ...` in this process, to save the import of torch.

    Its plots are empty files, unless a test asks for the fixture `plots`.
    """
    if "plots" not in request.fixturenames:
        leave_plots_out(monkeypatch)
    compose_once(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PCAM_ROOT", raising=False)

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

    with unchanged_logging():
        yield call
