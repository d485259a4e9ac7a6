"""Places of pretrained weights: found on this machine, or one line that tells how to fetch them."""

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from weight_files import STATISTICS, write_cached, write_repository

from pcam_lightning.errors import InputError
from pcam_lightning.weights.source import TIMM, find_source

MODEL = {"_target_": TIMM, "weights": "pretrained"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the Hub, which is empty."""
    path = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(path), raising=False)
    return path


def fault(model: dict[str, Any]) -> str:
    """Return the one line that reports a source."""
    with pytest.raises(InputError) as caught:
        find_source(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_of_timm_is_found_in_the_cache(cache: Path) -> None:
    write_cached(cache, "timm/test_vit.r160_in1k", name="test_vit", license="mit")
    for name in ("test_vit", "test_vit.r160_in1k"):
        source = find_source(MODEL | {"name": name})
        assert source is not None and source.file is not None
        assert source.file.name == "model.safetensors" and cache in source.file.parents
        # timm's own table has the statistics of its weights.
        assert (source.mean, source.std) == ((0.5,) * 3, (0.5,) * 3)
        assert source.license == "apache-2.0"
        assert source.arguments["name"] == "test_vit"
        assert (source.arguments["native_size"], source.name) == (160, name)


@pytest.mark.parametrize("revision", ["main", "v2"])
def test_a_repository_is_found_in_the_cache(cache: Path, revision: str) -> None:
    write_cached(cache, "owner/some.name", revision, license="mit")
    suffix = "" if revision == "main" else f"@{revision}"
    source = find_source(MODEL | {"name": f"hf-hub:owner/some.name{suffix}"})
    assert source is not None and source.file is not None and source.file.is_file()
    assert (list(source.mean), list(source.std)) == tuple(STATISTICS.values())
    assert source.license == "mit"
    assert source.arguments == {
        "name": "test_resnet", "arguments": {}, "native_size": 160, "interpolation": "bicubic",
    }  # fmt: skip
    other = "@v3" if revision == "main" else ""
    assert "hf download owner/some.name" in fault(
        MODEL | {"name": f"hf-hub:owner/some.name{other}"}
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["pytorch_model.bin"], "pytorch_model.bin"),
    ],
)
def test_a_folder_is_a_source_and_safetensors_come_first(
    tmp_path: Path, files: list[str], expected: str
) -> None:
    folder = tmp_path / "weights"
    write_repository(folder, file=files[0])
    for other in files[1:]:
        (folder / other).touch()
    source = find_source(MODEL | {"name": f"local-dir:{folder}"})
    assert source is not None and source.file == folder / expected
    (folder / expected).unlink()
    if len(files) == 1:
        assert str(folder) in fault(MODEL | {"name": f"local-dir:{folder}"})


def test_arguments_of_the_architecture_come_from_the_folder(tmp_path: Path) -> None:
    arguments = {"reg_tokens": 2, "num_classes": 0, "init_values": 1e-5}
    write_repository(tmp_path / "w", "test_vit", file=None, interpolation="bilinear")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    (tmp_path / "w" / "config.json").write_text(json.dumps(config | {"model_args": arguments}))
    source = find_source(MODEL | {"name": f"local-dir:{tmp_path / 'w'}", "weights": None})
    assert source is not None and source.file is None and source.license is None
    assert source.arguments["arguments"] == {"reg_tokens": 2, "init_values": 1e-5}
    assert source.arguments["interpolation"] == "bilinear"


def test_early_files_have_all_keys_at_the_top(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    write_repository(folder)
    top = {"architecture": "test_resnet", "input_size": [3, 128, 128], "license": None}
    (folder / "config.json").write_text(json.dumps(top | STATISTICS))
    source = find_source(MODEL | {"name": f"local-dir:{folder}"})
    assert source is not None and list(source.mean) == STATISTICS["mean"]
    assert source.arguments["native_size"] == 128


@pytest.mark.parametrize(
    ("stated", "readme", "expected"),
    [
        ({"license": "mit"}, "---\nlicense: apache-2.0\n---\n", "mit"),
        ({}, "---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        (
            {"license": None},
            "---\nlicense: other\nlicense_name: cc-by-nc-4.0\n---\n",
            "cc-by-nc-4.0",
        ),
        ({}, None, None),
    ],
)
def test_the_license_is_in_the_config_or_the_readme(
    tmp_path: Path, stated: dict[str, Any], readme: str | None, expected: str | None
) -> None:
    write_repository(tmp_path / "w", readme=readme, **stated)
    source = find_source(MODEL | {"name": f"local-dir:{tmp_path / 'w'}"})
    assert source is not None and source.license == expected


def test_a_named_file_has_no_license_of_the_repository(tmp_path: Path) -> None:
    write_repository(tmp_path / "w", license="mit")
    (tmp_path / "mine.pth").touch()
    model = MODEL | {"name": f"local-dir:{tmp_path / 'w'}", "weights": str(tmp_path / "mine.pth")}
    source = find_source(model)
    assert source is not None and source.file == tmp_path / "mine.pth" and source.license is None


def test_new_weights_need_no_file() -> None:
    source = find_source(MODEL | {"name": "test_vit", "weights": None})
    assert source is not None and source.file is None
    assert find_source({"_target_": "pcam_lightning.models.CNN"}) is None
    assert find_source({"_target_": "pcam_lightning.models.resnet18", "weights": None}) is None


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_weights_of_torchvision_are_found_in_the_cache_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    model = {"_target_": f"pcam_lightning.models.{name}", "weights": "pretrained"}
    text = fault(model)
    path, url = text.partition("curl --create-dirs -o ")[2].partition("`")[0].split(" ")
    assert url.startswith("https://download.pytorch.org/models/") and name in url
    Path(path).parent.mkdir(parents=True)
    Path(path).touch()
    source = find_source(model)
    assert source is not None and source.file is not None and source.file == Path(path)
    assert source.mean == (0.485, 0.456, 0.406) and source.std == (0.229, 0.224, 0.225)
    assert tmp_path / "hub" in source.file.parents and not source.arguments


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("test_vit", "hf download timm/test_vit.r160_in1k"),
        ("hf-hub:owner/name", "hf download owner/name"),
        ("hf-hub:owner/name@v1", "hf download owner/name --revision v1"),
        ("hf-hub:../name", "OWNER/NAME"),
        ("hf-hub:owner/..", "OWNER/NAME"),
        ("hf-hub:../../etc", "OWNER/NAME"),
        ("hf-hub:/etc/passwd", "OWNER/NAME"),
        ("hf-hub:owner/name@../../x", "OWNER/NAME"),
        ("hf-hub:owner/name; rm -r x", "OWNER/NAME"),
        ("hf-hub:owner", "OWNER/NAME"),
        ("hf-hub:", "OWNER/NAME"),
        ("hf-hub:owner/na\nme", "OWNER/NAME"),
        ("local-dir:/nowhere", "/nowhere"),
        ("local-dir:", "config.json"),
        ("tset_vit", "test_vit"),
        ("nonsense", "model.name=nonsense"),
        ("test_vit.nonsense", "model.name=test_vit.nonsense"),
        ("/etc/passwd", "model.name=/etc/passwd"),
        ("test_vit\nx", "model.name="),
        ("test_relpos", "model.name=test_relpos"),
        ("vit_relpos_small_patch16_rpn_224", "publishes no weights"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(name: str, named: str) -> None:
    assert named in fault(MODEL | {"name": name})


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_a_named_file_must_be_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pth"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    for target in (TIMM, "pcam_lightning.models.resnet18"):
        model = {"_target_": target, "name": "test_vit", "weights": str(path)}
        assert f"model.weights={path}" in fault(model)


NAMED = {"architecture": "test_resnet"}
CONFIGS: dict[str, str | bytes] = {
    "a list": "[]",
    "a number": "1",
    "invalid": '{"architecture": "test_resnet"',
    "no text": b"\xff\xfe\x00",
    "empty": "",
    "deep": '{"architecture": ' + "[" * 100_000,
    "large": json.dumps(NAMED | {"x": "y" * (2 << 20)}),
    "no architecture": '{"model_type": "vit"}',
    "architecture of another type": '{"architecture": ["os.system"]}',
    "arguments as a list": json.dumps(NAMED | {"model_args": ["os.system"]}),
    "statistics as words": json.dumps(NAMED | {"mean": ["a", "b", "c"]}),
    "statistics of one channel": json.dumps(NAMED | {"pretrained_cfg": {"mean": [0.5]}}),
    "an infinite mean": json.dumps(NAMED | {"pretrained_cfg": {"mean": [0.5, 0.5, 1e999]}}),
    "no deviation": json.dumps(NAMED | {"pretrained_cfg": {"std": [0.5, 0.5, 0.0]}}),
    "a negative size": json.dumps(NAMED | {"pretrained_cfg": {"input_size": [3, -1, -1]}}),
    "a huge size": json.dumps(NAMED | {"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}),
    "a list of statistics": json.dumps(NAMED | {"pretrained_cfg": ["x"]}),
}


@pytest.mark.parametrize("content", CONFIGS)
def test_a_damaged_config_is_one_line(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "w"
    write_repository(folder)
    data = CONFIGS[content]
    (folder / "config.json").write_bytes(data.encode() if isinstance(data, str) else data)
    text = fault(MODEL | {"name": f"local-dir:{folder}"})
    assert text.startswith(f"{folder / 'config.json'}: ")
