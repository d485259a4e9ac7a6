"""An untrusted config calls only the targets in `conf/`, and writes only to its run's folder."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pcam_lightning.config.targets import check_foreign
from pcam_lightning.errors import InputError
from pcam_lightning.evaluate.target import resolve_target
from pcam_lightning.reproduce.__main__ import twin_config
from pcam_lightning.runs import Run

CODE = "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\nclass Net: pass\n"


def set_in(config: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        config = config[int(key) if isinstance(config, list) else key]
    config[int(last) if isinstance(config, list) else last] = value


@pytest.fixture
def stranger(tmp_path: Path, composed) -> Callable[..., Run]:
    """Return a function that makes a stranger's run with some changed values in its config.

    A module `strange` beside it reports its own import.
    """
    (tmp_path / "strange.py").write_text(CODE)
    config = composed(["data.root=/data/pcam", "model=mlp", "hydra.run.dir=x"])

    def make(**changes: Any) -> Run:
        for path, value in changes.items():
            set_in(config, path, value)
        folder = tmp_path / "run"
        folder.mkdir()
        dataset = {"name": "pcam", "root": "/data/pcam", "fingerprint": "0"}
        manifest = {"config": config, "dataset": dataset}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "status.json").write_text('{"state": "finished"}')
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "best.ckpt").touch()
        return Run(folder)

    return make


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert "strange" not in sys.modules and not (tmp_path / "imported").exists()
    assert not (tmp_path / "outside").exists()


TARGETS = (
    "strange.Net",
    "os.system",
    "builtins.eval",
    "torch.hub.load",
    "pcam_lightning.models.cnn.torch.hub.load",
    "pcam_lightning.models.cnn.torch.os.system",
    "pcam_lightning.models.CNN.__init__.__globals__",
    "pcam_lightning.models",
    "pcam_lightning.files.write_bytes",
    "hydra.utils.instantiate",
    "hydra._internal.instantiate._instantiate2.instantiate",
    "lightning.pytorch.callbacks.ModelCheckpoint.__init__.__globals__",
    " pcam_lightning.models.MLP",
    "",
    5,
    ["os.system"],
)
PLACES = (
    "model._target_",
    "model.hidden",
    "model.extra",
    "optimizer._target_",
    "optimizer.betas",
    "scheduler._target_",
    "augment.extra",
    "trainer._target_",
    "trainer.plugins.0._target_",
    "trainer.logger",
    "trainer.profiler",
    "callbacks.progress._target_",
    "callbacks.extra",
    "logger.csv.extra",
    "data._target_",
)


# Every target in one place, and every place with one target.
CASES = [("model._target_", target) for target in TARGETS[1:]]
CASES += [(place, "strange.Net") for place in PLACES]


@pytest.mark.parametrize(("place", "target"), CASES)
def test_a_twin_calls_no_other_target(stranger, tmp_path: Path, place: str, target: Any) -> None:
    value = target if place.endswith("_target_") else {"_target_": target}
    run = stranger(**{place: value})
    with pytest.raises(InputError) as caught:
        twin_config(run, tmp_path / "again" / "twin")
    assert str(run.path / "manifest.json") in str(caught.value)
    assert f"config.{place}" in str(caught.value) and "\n" not in str(caught.value)


EVALUATIONS = [("run", "_target_", target) for target in TARGETS]
EVALUATIONS += [(k, p, TARGETS[0]) for k in ("run", "checkpoint") for p in ("extra", "hidden")]


@pytest.mark.parametrize(("key", "place", "target"), EVALUATIONS)
def test_an_evaluation_calls_no_other_target(stranger, composed, key, place, target) -> None:
    value = {"_target_": target, "extra": {"_target_": target}, "hidden": [{"_target_": target}]}
    run = stranger(**{f"model.{place}": value[place]})
    where = run.path if key == "run" else run.best_checkpoint
    with pytest.raises(InputError, match=r"manifest\.json: config\.model"):
        resolve_target(composed([f"{key}={where}"], "evaluate"), [])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("callbacks.checkpoint.dirpath", "{outside}"),
        ("callbacks.checkpoint.dirpath", None),
        ("callbacks.checkpoint.dirpath", "checkpoints"),
        ("callbacks.checkpoint.filename", "../../outside"),
        ("callbacks.checkpoint.filename", "{outside}"),
        ("callbacks.last_checkpoint.path", "{outside}"),
        ("callbacks.last_checkpoint.path", "{run}/../outside"),
        ("callbacks.last_checkpoint.metrics", "{outside}"),
        ("callbacks.gradient_norm.path", "outside"),
        ("callbacks.gradient_norm.path", ["{outside}"]),
        ("logger.csv.folder", "{outside}"),
        ("trainer.default_root_dir", "{outside}"),
        ("trainer.default_root_dir", None),
        ("trainer.profiler", {"_target_": "lightning.pytorch.profilers.SimpleProfiler"}),
        ("trainer.max_time", "${oc.env:HOME}"),
        ("trainer.strategy", "../strategy"),
        ("model._args_", [[4]]),
        ("model._recursive_", False),
        ("model._partial_", True),
        ("model.hidden", "${oc.env:HOME}"),
    ],
)
def test_a_twin_writes_to_no_other_folder(stranger, tmp_path: Path, place: str, value: Any) -> None:
    names = {"outside": tmp_path / "outside", "run": tmp_path / "run"}
    filled = json.loads(json.dumps(value).replace("${", "$<"))
    if isinstance(value, str | list) and "$" not in json.dumps(value):
        filled = json.loads(json.dumps(value).format(**names))
    run = stranger(**{place: value if "$" in json.dumps(value) else filled})
    with pytest.raises(InputError, match=r"manifest\.json"):
        twin_config(run, tmp_path / "again" / "twin")


def test_a_twin_of_a_run_in_the_root_folder_writes_in_its_own(stranger, tmp_path: Path) -> None:
    folder = tmp_path / "again" / "twin"
    twin = twin_config(stranger(run_dir="/"), folder)
    written = [twin[group] for group in ("run_dir", "callbacks", "logger", "trainer")]
    paths = [text for text in json.dumps(written).split('"') if text.startswith("/")]
    assert paths and all(Path(path).is_relative_to(folder) for path in paths)


def test_a_twin_downloads_nothing_and_writes_no_data_elsewhere(stranger, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"data.on_missing": "download", "data.cache_dir": "/outside"}
    twin = twin_config(stranger(**changes, **{"data.demo.parent": "/outside"}), tmp_path / "twin")
    assert "/outside" not in json.dumps(twin) and twin["data"]["on_missing"] == "error"
    assert twin["run_dir"] == str(tmp_path / "twin")
    assert set(twin["logger"]) == {"csv"}


def test_an_evaluation_writes_no_data_to_a_folder_from_a_file(stranger, composed) -> None:
    changes: dict[str, Any] = {"data.on_missing": "download", "data.cache_dir": "/outside"}
    run = stranger(**changes, **{"data.demo.parent": "/outside"})
    found = resolve_target(composed([f"run={run.path}"], "evaluate"), [])
    assert "/outside" not in json.dumps(found.config["data"])
    assert found.config["data"]["on_missing"] == "error"


def test_a_target_that_the_user_names_is_trusted(stranger, tmp_path: Path) -> None:
    run = stranger(**{"model": {"_target_": "strange.Net", "path": "/anywhere"}})
    twin = twin_config(run, tmp_path / "twin", ["strange.Net"])
    assert twin["model"]["_target_"] == "strange.Net"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=densenet121", "optimizer=sgd", "scheduler=plateau"],
        ["debug=profile"],
        ["trainer=ddp", "+trainer.max_time=00:01:00:00", "logger=csv", "augment=none"],
    ],
)
def test_every_shipped_config_passes(composed, stranger, tmp_path: Path, overrides) -> None:
    run = stranger()
    manifest = run.manifest
    manifest["config"] = composed(["data.root=/data/pcam", *overrides])
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert OmegaConf.create(twin_config(run, tmp_path / "twin"))


def test_a_path_argument_needs_a_folder() -> None:
    part = {"_target_": "pcam_lightning.engine.loggers.CSVLogger", "folder": "/run"}
    with pytest.raises(InputError, match=r"config\.logger\.csv\.folder"):
        check_foreign({"logger": {"csv": part}}, ["logger"], "manifest.json")
    check_foreign({"logger": {"csv": part}}, ["logger"], "manifest.json", Path("/run"))
