"""Construction of the parts of a config, with faults that name their key."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

import pcam_lightning
from pcam_lightning.errors import InputError, one_line

EXTRAS = {"mlflow": "mlflow", "wandb": "wandb", "timm": "timm", "peft": "timm"}
"""The extra of this package that installs a package."""


def construct(part: Any, path: str, **more: Any) -> Any:
    """Return what `hydra.utils.instantiate` makes of a part of a config.

    Args:
        part: a mapping with `_target_`.
        path: its place in the config, for the message.
        more: further arguments.

    Raises:
        InputError: the target rejects its arguments, or its package is not installed.
    """
    try:
        # As plain lists: a list of OmegaConf in an optimizer's state makes a checkpoint unreadable.
        return instantiate(part, _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ModuleNotFoundError):
            text = one_line(cause)
            extra = next((extra for package, extra in EXTRAS.items() if package in text), None)
            cure = f"; pip install 'pcam-lightning[{extra}]'" if extra else ""
            raise InputError(f"{path}: {text}{cure}") from None
        if _is_ours(cause) and not isinstance(cause, InputError):
            raise
        raise InputError(f"{path}: {one_line(cause)}") from None


@contextmanager
def settings_reported() -> Iterator[None]:
    """Raise `InputError` for a setting that Lightning rejects inside the block."""
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(f"trainer: {one_line(error)}") from None
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError) or not _is_raised_in(error, lightning.__file__):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1].name
        text = one_line(error) or f"{type(error).__name__} in {place}"
        raise InputError(f"trainer: {text}") from None


def _is_ours(error: BaseException) -> bool:
    return _is_raised_in(error, pcam_lightning.__file__)


def _is_raised_in(error: BaseException, package: str | None) -> bool:
    """Return whether the statement that raised an error lies in a package."""
    frames = traceback.extract_tb(error.__traceback__)
    folder = Path(package or "").parent
    return bool(frames) and Path(frames[-1].filename).is_relative_to(folder)
