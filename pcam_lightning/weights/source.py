"""Places of pretrained weights, and what their publishers state about them.

Nothing is downloaded: a missing file is reported with the command that fetches it. A
`config.json` is read as data; it names an architecture of timm, and nothing in it is imported.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pcam_lightning.errors import InputError, one_line
from pcam_lightning.weights.license import read_license

TIMM = "pcam_lightning.models.TimmClassifier"
TORCHVISION = tuple(f"pcam_lightning.models.{n}" for n in ("resnet18", "resnet50", "densenet121"))
HUB, FOLDER = "hf-hub:", "local-dir:"
"""Prefixes of names, as timm has them."""
REPOSITORY = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w][\w.-]*))?")
FILES = ("model.safetensors", "pytorch_model.bin")
"""Files of weights in a folder of the Hub, the best first."""
CONFIG_BYTES = 1 << 20
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of torchvision's published weights, on the 0..1 scale."""


@dataclass(frozen=True)
class Source:
    """Pretrained weights as their publisher describes them."""

    name: str
    """As in the config."""
    file: Path | None
    """None for new weights."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Standard deviation of each channel, as the mean on the 0..1 scale."""
    license: str | None
    """An identifier such as "apache-2.0"; None where it is not stated."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the network: `name`, `arguments`, `native_size`, `interpolation`."""


Word = Annotated[str, Field(pattern=r"^[\w.-]*$")]
Argument = Annotated[str, Field(pattern=r"^[a-z]\w*$")]
"""No key that Hydra would call, such as `_target_`."""
Number = bool | int | Annotated[float, Field(allow_inf_nan=False)] | None
Mean = Annotated[float, Field(allow_inf_nan=False)]
Deviation = Annotated[Mean, Field(gt=0)]
Side = Annotated[int, Field(ge=1, le=2048)]
Means = Annotated[tuple[Mean, Mean, Mean], Field(strict=False)]
Deviations = Annotated[tuple[Deviation, Deviation, Deviation], Field(strict=False)]
Sides = Annotated[tuple[int, Side, Side], Field(strict=False)]


class Pretrained(BaseModel):
    """A publisher's statements about weights: the keys of timm that matter here."""

    model_config = ConfigDict(strict=True)

    mean: Means = IMAGENET[0]
    std: Deviations = IMAGENET[1]
    input_size: Sides = (3, 224, 224)
    interpolation: str = "bicubic"
    license: str | None = None


class HubConfig(BaseModel):
    """A `config.json` of timm's format."""

    model_config = ConfigDict(strict=True)

    architecture: Word
    model_args: dict[Argument, Number | Word | list[Number | Word]] = {}
    pretrained_cfg: Pretrained = Pretrained()


def takes_weights(model: Mapping[str, Any]) -> bool:
    """Return whether the network of a section `model` takes pretrained weights."""
    return model.get("_target_") in (TIMM, *TORCHVISION)


def find_source(model: Mapping[str, Any]) -> Source | None:
    """Return the source of a network's weights; None for new weights of a known architecture.

    Args:
        model: section `model` of a config: `_target_`, and `name` and `weights` where the network
            takes pretrained weights.

    Raises:
        InputError: there are no such weights on this machine, or their description is damaged.
    """
    if not takes_weights(model):
        return None
    if model["_target_"] == TIMM:
        if find_spec("timm") is None:
            raise InputError("model=timm: no package timm; pip install 'pcam-lightning[timm]'")
        weights, tune = model.get("weights"), model.get("tune", "full")
        if weights is None and tune != "full":
            raise InputError(
                f"model.weights=null model.tune={tune}: a frozen backbone of new weights is of no "
                "use, expected pretrained or a file, or model.tune=full"
            )
        return _find_timm(str(model["name"]), weights)
    if model.get("weights") is None:
        return None
    name = str(model["_target_"]).rpartition(".")[2]
    if model["weights"] == "pretrained":
        return Source(name, _torchvision_file(name), *IMAGENET, None)
    return Source(name, _named_file(model["weights"]), *IMAGENET, None)


def _find_timm(name: str, weights: str | None) -> Source:
    if name.startswith(FOLDER):
        folder = Path(os.path.expanduser(name.removeprefix(FOLDER)))
        if not (folder / "config.json").is_file():
            raise InputError(
                f"model.name={name}: no config.json in this folder, expected the files of a "
                "repository of the Hub, such as from hf download OWNER/NAME --local-dir FOLDER"
            )
        return _described(name, folder, weights, f"expected {' or '.join(FILES)} in {folder}")
    if name.startswith(HUB):
        identifier = name.removeprefix(HUB)
        return _described(name, _cached(identifier, name), weights, _fetch(identifier))
    return _published_by_timm(name, weights)


def _described(name: str, folder: Path, weights: str | None, missing: str) -> Source:
    """Return the source that a folder with a `config.json` describes."""
    config = read_config(folder / "config.json")
    stated = config.pretrained_cfg
    if weights == "pretrained":
        file = _first_file(folder, FILES)
        if file is None:
            raise InputError(f"model.name={name}: no weights beside its config.json; {missing}")
        known = stated.license or read_license(folder / "README.md")
    else:
        file, known = None if weights is None else _named_file(weights), None
    return _source(name, file, config.architecture, config.model_args, stated, known)


def _published_by_timm(name: str, weights: str | None) -> Source:
    import timm

    known_name = timm.is_model(name)
    entry = None
    try:
        entry = timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such tag of published weights
        known_name = False
    if not known_name:
        import difflib

        close = difflib.get_close_matches(name, timm.list_models(), 3, 0.4)
        raise InputError(
            f"model.name={one_line(name, 80)}: timm {timm.__version__} has no such network; "
            f"expected a name such as {', '.join(close or ['resnet18'])}, {HUB}OWNER/NAME or "
            f"{FOLDER}FOLDER"
        )
    stated = Pretrained() if entry is None else Pretrained(**_known(entry.to_dict(), Pretrained))
    file, known = None, None
    if weights == "pretrained":
        if entry is None or not entry.hf_hub_id:
            raise InputError(
                f"model.name={name}: timm publishes no weights of it; expected model.weights=FILE, "
                "or model.weights=null for new weights"
            )
        folder = _cached(entry.hf_hub_id, name)
        names = [entry.hf_hub_filename] if entry.hf_hub_filename else FILES
        file = _first_file(folder, names)
        if file is None:
            raise InputError(f"model.name={name}: {_fetch(entry.hf_hub_id)}")
        known = stated.license or read_license(folder / "README.md")
    elif weights is not None:
        file = _named_file(weights)
    return _source(name, file, name.partition(".")[0], {}, stated, known)


def _source(
    name: str,
    file: Path | None,
    architecture: str,
    arguments: Mapping[str, Any],
    stated: Pretrained,
    known_license: str | None,
) -> Source:
    interpolation = stated.interpolation if stated.interpolation == "bilinear" else "bicubic"
    # Some repositories state num_classes here; the classifier is not used.
    arguments = {key: value for key, value in arguments.items() if key != "num_classes"}
    network = {
        "name": architecture,
        "arguments": arguments,
        "native_size": stated.input_size[1],
        "interpolation": interpolation,
    }
    return Source(name, file, stated.mean, stated.std, known_license, network)


def read_config(path: Path) -> HubConfig:
    """Return the `config.json` of a repository; raise InputError if it is damaged."""
    try:
        if path.stat().st_size > CONFIG_BYTES:
            raise ValueError(f"larger than {CONFIG_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or "architecture" not in content:
            raise ValueError("no key architecture, as in the format of timm")
        # Early files of this format have all keys at the top.
        stated = content.get("pretrained_cfg", content)
        stated = _known(stated, Pretrained) if isinstance(stated, dict) else stated
        return HubConfig.model_validate(_known(content, HubConfig) | {"pretrained_cfg": stated})
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise InputError(f"{path}: damaged ({one_line(error, 200)})") from None


def _known(content: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a mapping that a schema has, without those that are None."""
    return {k: v for k, v in content.items() if k in model.model_fields and v is not None}


def _cached(identifier: str, name: str) -> Path:
    """Return the folder of a repository in the cache of the Hub."""
    match = REPOSITORY.fullmatch(identifier)
    if match is None:
        raise InputError(f"model.name={one_line(name, 80)}: expected {HUB}OWNER/NAME[@REVISION]")
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(match["id"], "config.json", revision=match["revision"])
    if not isinstance(found, str):
        raise InputError(f"model.name={name}: {_fetch(identifier)}")
    return Path(found).parent


def _first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files that a folder has."""
    return next((folder / each for each in names if (folder / each).is_file()), None)


def _fetch(identifier: str) -> str:
    """Return a line that tells how to fetch a repository of the Hub."""
    repository, _, revision = identifier.partition("@")
    command = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
    from huggingface_hub.constants import HF_HUB_CACHE

    return (
        f"no weights in {HF_HUB_CACHE}, and nothing is downloaded here; fetch them with "
        f"`{command}` (gated ones after `hf auth login`), or on another machine with "
        f"`{command} --local-dir FOLDER` for model.name={FOLDER}FOLDER"
    )


def _torchvision_file(name: str) -> Path:
    import torch
    from torchvision.models import get_model_weights

    url = str(get_model_weights(name).DEFAULT.url)  # type: ignore[attr-defined]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise InputError(
            f"model.weights=pretrained: no {path}, and nothing is downloaded here; fetch it with "
            f"`curl --create-dirs -o {path} {url}`, or expected model.weights=FILE"
        )
    return path


def _named_file(weights: str) -> Path:
    path = Path(os.path.expanduser(weights))
    if not path.is_file():
        raise InputError(
            f"model.weights={weights}: no such file, expected a file of weights (.safetensors, "
            ".pth, .bin), pretrained, or null for new weights"
        )
    return path
