"""Trackers of experiments, and cached weights. Nothing is sent to a server."""

import os
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from pcam_lightning.doctor.finding import Finding, green, yellow

SECONDS = 3
PORTS = {"http": 80, "https": 443}
OFFLINE = ("offline", "dryrun", "disabled")


def examine() -> Iterator[Finding]:
    """Yield findings about MLflow and Weights & Biases."""
    if version := _version("mlflow"):
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        fault = connection_fault(uri)
        if fault:
            mend = "unset MLFLOW_TRACKING_URI   # logger=mlflow writes to outputs/mlflow.db"
            yield yellow("MLflow", f"{version}; {uri}: {fault}", mend)
        else:
            yield green("MLflow", f"{version}; {uri or 'a file of this machine (logger=mlflow)'}")
    else:
        yield green("MLflow", "not installed; only logger=mlflow needs it")
    if version := _version("wandb"):
        # conf/logger/wandb.yaml is offline unless the variable says otherwise.
        mode = os.environ.get("WANDB_MODE") or "offline"
        uri = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
        if mode in OFFLINE:
            yield green("W&B", f"{version}; {mode}")
        elif fault := connection_fault(uri):
            yield yellow("W&B", f"{version}; {uri}: {fault}", "export WANDB_MODE=offline")
        else:
            yield green("W&B", f"{version}; {mode}, {uri} answers")
    else:
        yield green("W&B", "not installed; only logger=wandb needs it")


def connection_fault(uri: str) -> str | None:
    """Return why the server of an http(s) address cannot be reached; None if it can."""
    address = urlsplit(uri)
    if address.scheme not in PORTS:
        return None
    try:
        place = address.hostname or "", address.port or PORTS[address.scheme]
        socket.create_connection(place, SECONDS).close()
    except (OSError, ValueError) as error:  # ValueError: no port number
        return f"no answer ({getattr(error, 'strerror', None) or error})"
    return None


def examine_weights(folder: str | None) -> Iterator[Finding]:
    """Yield findings about pretrained weights in the caches of torchvision and of the Hub."""
    if folder is not None:
        files = sorted(path.name for path in Path(folder).glob("*.pth"))
        listed = ", ".join(files) if files else "none; the shipped networks start without"
        yield green("weights", f"cached in {folder}: {listed}")
    if (version := _version("timm")) is None:
        yield green("timm", "not installed; only model=timm and probe need it")
        return
    hub = _hub_cache()
    names = sorted(path.name.split("--", 1)[1] for path in hub.glob("models--*--*"))
    listed = ", ".join(name.replace("--", "/") for name in names)
    fetched = listed or "none; hf download OWNER/NAME fetches them"
    yield green("timm", f"{version}; weights cached in {hub}: {fetched}")


def _hub_cache() -> Path:
    """Return the folder in which the Hub keeps repositories, by its environment variables."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE", f"{home}/hub")))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
