"""Trackers, offline and without an answer."""

import socket

import pytest

from pcam_lightning.doctor import tracking


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_version", lambda package: "1.0")
    for name in ("WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("mode", "expected"), [(None, "green"), ("offline", "green"), ("online", "yellow")]
)
def test_wandb(mode: str | None, expected: str, closed_port: str, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    assert {each.name: each.level for each in tracking.examine()}["W&B"] == expected


def test_mlflow(closed_port: str, monkeypatch) -> None:
    def level() -> str:
        return {each.name: each.level for each in tracking.examine()}["MLflow"]

    assert level() == "green"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed_port)
    assert level() == "yellow"
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert level() == "green"


def test_repositories_in_the_cache_of_the_hub_are_listed(tmp_path, monkeypatch):
    for name in ("models--owner--network-a", "models--other--b", "datasets--owner--c"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (finding,) = tracking.examine_weights(None)
    assert str(tmp_path) in finding.fact
    assert "other/b" in finding.fact and "owner/network-a" in finding.fact
    assert "owner/c" not in finding.fact
