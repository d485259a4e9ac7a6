"""Loggers of trackers: real MLflow stores, W&B runs on disk, and faults in one line."""

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_processes import CONTEXT

from pcam_lightning.config.loggers import build_loggers, finish_loggers
from pcam_lightning.errors import InputError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    Path("run").mkdir()
    return {"run_dir": str(tmp_path / "run"), "seed": 1}


@pytest.fixture
def wandb() -> Iterator[Any]:
    module = pytest.importorskip("wandb")
    yield module
    module.finish()


def mlflow_part(uri: str) -> dict[str, Any]:
    return {
        "_target_": "lightning.pytorch.loggers.MLFlowLogger",
        "experiment_name": "e",
        "tracking_uri": uri,
    }


def wandb_part(config: dict[str, Any], offline: bool = True) -> dict[str, Any]:
    return {
        "_target_": "lightning.pytorch.loggers.WandbLogger",
        "project": "p",
        "save_dir": config["run_dir"],
        "offline": offline,
    }


def test_a_run_that_continues_keeps_its_mlflow_run(config: dict[str, Any], tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    section = {"mlflow": mlflow_part(uri), "csv": None}
    (first,) = build_loggers(section, config)
    first.log_metrics({"a": 1.0}, step=0)
    # A longer run changes a parameter, which MLflow would reject for the same run.
    (again,) = build_loggers(section, config | {"seed": 2})
    again.log_metrics({"a": 2.0}, step=1)
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert [each.value for each in client.get_metric_history(found.info.run_id, "a")] == [1.0, 2.0]
    assert found.data.params["seed"] == "1"
    (tmp_path / "other").mkdir()
    (other,) = build_loggers(section, config | {"run_dir": str(tmp_path / "other")})
    assert other.version != found.info.run_id


def test_a_run_that_continues_keeps_its_wandb_run(config: dict[str, Any], wandb) -> None:
    section = {"wandb": wandb_part(config)}
    ids = []
    for _ in range(2):
        loggers = build_loggers(section, config)
        ids.append(loggers[0].version)
        finish_loggers(loggers)
    stores = {path.name for path in Path("run/wandb").glob("offline-run-*/*.wandb")}
    assert stores == {f"run-{ids[0]}.wandb"} and ids[0] == ids[1]


def test_the_next_run_of_a_process_is_another_wandb_run(
    config: dict[str, Any], wandb, tmp_path: Path
) -> None:
    (tmp_path / "next").mkdir()
    ids = set()
    for folder in ("run", "next"):
        mine = config | {"run_dir": str(tmp_path / folder)}
        loggers = build_loggers({"wandb": wandb_part(mine)}, mine)
        ids.add(loggers[0].version)
        finish_loggers(loggers)
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("mode", "offline", "stores"), [("disabled", True, 0), ("offline", False, 1)]
)
def test_wandb_mode_is_respected(
    config: dict[str, Any], mode: str, offline: bool, stores: int
) -> None:
    pytest.importorskip("wandb")
    assert alone(connect, config, {"WANDB_MODE": mode}, offline) == "connected"
    assert len(list(Path("run").glob("wandb/offline-run-*"))) == stores


def test_wandb_without_a_key_is_one_line(config: dict[str, Any]) -> None:
    pytest.importorskip("wandb")
    line = alone(connect, config, {}, False)
    assert line.startswith("logger.wandb: ") and "WANDB_API_KEY" in line and "\n" not in line


def alone(function: Callable[..., str], *arguments: Any) -> str:
    """Return the result of a function in a process of its own: W&B keeps its first settings."""
    path = Path("result").absolute()
    process = CONTEXT.Process(target=_write_result, args=(function, Path.cwd(), path, arguments))
    process.start()
    process.join(60)
    return path.read_text()


def _write_result(
    function: Callable[..., str], folder: Path, path: Path, arguments: Sequence[Any]
) -> None:
    os.chdir(folder)
    path.write_text(function(*arguments))


def connect(config: dict[str, Any], variables: dict[str, str], offline: bool) -> str:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        os.environ.pop(name, None)
    os.environ.update(variables, NETRC=str(Path("no_netrc").absolute()))
    try:
        finish_loggers(build_loggers({"wandb": wandb_part(config, offline)}, config))
    except InputError as error:
        return str(error)
    return "connected"


def test_a_server_that_does_not_answer_is_one_line(config: dict[str, Any]) -> None:
    pytest.importorskip("mlflow")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"  # nobody listens
    with pytest.raises(InputError, match=r"^logger\.mlflow\.tracking_uri=.*no answer"):
        build_loggers({"mlflow": mlflow_part(uri)}, config)


@pytest.mark.parametrize(("name", "extra"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_package_names_its_extra(
    config: dict[str, Any], monkeypatch, name: str, extra: str
) -> None:
    class Missing:
        def __bool__(self) -> bool:
            return False

        def __str__(self) -> str:
            return f"Requirement {name!r} not met"

    module = f"lightning.pytorch.loggers.{name}"
    monkeypatch.setattr(f"{module}._{name.upper()}_AVAILABLE", Missing())
    part = mlflow_part("sqlite:///x.db") if name == "mlflow" else wandb_part(config)
    with pytest.raises(InputError, match=rf"^logger\.{name}: .*pcam-lightning\[{extra}\]"):
        build_loggers({name: part}, config)


@pytest.mark.parametrize("runs", [{"wandb": "../../x"}, {"wandb": 3}, {"wandb": ""}])
def test_a_damaged_file_of_ids_is_one_line(config: dict[str, Any], runs: Any) -> None:
    Path("run/trackers.json").write_text(json.dumps({"runs": runs}))
    with pytest.raises(InputError, match=r"trackers\.json"):
        build_loggers({"wandb": wandb_part(config)}, config)
