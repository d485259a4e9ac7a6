"""Arguments of a command line: rewritten for Hydra, and checked before Hydra reads them."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from pcam_lightning.config.compose import CONF
from pcam_lightning.errors import InputError

RENAMED = {"collect": {"sweep": "runs"}}
"""Present names of renamed config keys, by command."""
OPTIONS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--info",
    "--experimental-rerun", "-h", "-c", "-p", "-r", "-m", "-sc", "-cp", "-cn", "-cd", "-i",
)  # fmt: skip
"""Options of Hydra (1.3)."""


def checked_arguments(command: str, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `python -m pcam_lightning.<command>` as Hydra accepts them.

    Raises:
        InputError: an option does not exist, a key was renamed, or a choice is not a name.
    """
    rewritten = _options_first([_rewritten(argument) for argument in arguments])
    _check_renamed(command, rewritten)
    _check_options(rewritten)
    return _checked_choices(command, rewritten)


def _rewritten(argument: str) -> str:
    """Return `hydra/launcher=x` for `-hydra/launcher=x`, with a hint, and expand `key=~/folder`.

    argparse would read the first one as `-h` with a value; no option of Hydra has this form. Most
    shells do not expand the second one, and Hydra's grammar rejects it.
    """
    override = re.sub(r"^-(?=hydra[/.][^=\s]+=)", "", argument)
    if override != argument:
        print(f"hint: reading {argument} as {override}", file=sys.stderr)
    home = os.path.expanduser("~")
    if re.fullmatch(r"[\w./-]+", home):  # other characters would have to be quoted
        override = re.sub(r"(?<=[=\[,])~(?=[/,\]]|$)", lambda _: home, override)
    return override


def _options_first(arguments: list[str]) -> list[str]:
    """Reorder `model=cnn --multirun seed=1,2` to `--multirun model=cnn seed=1,2`.

    argparse rejects overrides on both sides of an option. An option and its value, such as
    `--cfg job`, stay together.
    """
    overrides = [a for a in arguments if ("=" in a and not a.startswith("-")) or a[:1] in "+~"]
    return [a for a in arguments if a not in overrides] + overrides


def _check_renamed(command: str, arguments: list[str]) -> None:
    """Raise `InputError` for a renamed key."""
    for argument in arguments:
        key = argument.partition("=")[0]
        if new := RENAMED.get(command, {}).get(key):
            raise InputError(f"{key}=: this key is now called {new}, expected {new}=VALUE")


def _check_options(arguments: list[str]) -> None:
    """Raise `InputError` for an option that Hydra does not have, such as `--model=mlp`.

    argparse would print its usage in many lines.
    """
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not argument.startswith("-") or any(each.startswith(name) for each in OPTIONS):
            continue
        if equals:
            override = argument.lstrip("-")
            raise InputError(f"{argument}: overrides have no dashes, expected {override}")
        raise InputError(f"{argument}: no such option, expected one of {', '.join(OPTIONS)}")


def _checked_choices(command: str, arguments: list[str]) -> list[str]:
    """Return the arguments without `group=null` for groups that are null by default.

    Raises:
        InputError: the choice of another group is not a name, such as `logger=null`; Hydra 1.3
            raises a ValueError that does not name the group.
    """
    root: Any = OmegaConf.load(CONF / f"{command}.yaml")
    defaults = root.get("defaults") or []
    optional = {
        str(group) for entry in defaults if OmegaConf.is_dict(entry)
        for group, choice in entry.items() if choice is None
    }  # fmt: skip
    kept = []
    for argument in arguments:
        group, equals, value = argument.lstrip("+").partition("=")
        folder = CONF / group
        if equals and value.lower() in ("null", "true", "false") and folder.is_dir():
            if group in optional and value.lower() == "null":
                continue
            names = sorted(path.stem for path in folder.glob("*.yaml"))
            raise InputError(f"{group}={value}: expected one of {', '.join(names)}")
        kept.append(argument)
    return kept
