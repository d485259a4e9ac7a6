"""Feature files: computed once, continued after a kill, never trusted blindly."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import probe_networks
import pytest
import torch
from command_processes import CONTEXT
from pcam_files import random_split
from probe_networks import BATCH, WIDTH, extractor

from pcam_lightning.errors import InputError
from pcam_lightning.probe import features
from pcam_lightning.probe.features import FeatureFile, load

ROWS = 61
FACTS = {
    "weights": "a",
    "network": {"size": 96},
    "precision": "32-true",
    "pixels": {"content": "x"},
}


@pytest.fixture
def pixels() -> np.ndarray:
    return random_split(ROWS)[0]


@pytest.fixture
def file(tmp_path: Path) -> FeatureFile:
    images = tmp_path / "split_x.h5"
    images.touch()
    return FeatureFile(images, tmp_path / "features", FACTS, (ROWS, WIDTH))


def batches(calls: Path) -> int:
    return len(calls.read_bytes()) if calls.exists() else 0


def expected(pixels: np.ndarray) -> np.ndarray:
    values = pixels.reshape(len(pixels), -1, 3).astype(np.float64)
    return np.concatenate([values.mean(1), values.std(1, ddof=1)], axis=1)


def test_features_are_computed_once_and_mapped(file: FeatureFile, pixels, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    assert file.find() is None
    path, computed = file.make(extractor(calls), pixels)
    assert computed and batches(calls) == -(-ROWS // BATCH)
    stored = np.load(path, mmap_mode="r")
    assert stored.dtype == np.float16 and stored.shape == (ROWS, WIDTH)
    np.testing.assert_allclose(stored, expected(pixels), rtol=1e-3)
    assert file.find() == path
    assert file.make(extractor(calls), pixels) == (path, False)
    assert batches(calls) == -(-ROWS // BATCH)
    assert not list(file.folder.glob("*.partial*"))


def test_load_returns_rows_in_order(file: FeatureFile, pixels, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(features, "CHUNK_ROWS", 7)
    path, _ = file.make(extractor(tmp_path / "calls"), pixels)
    stored = np.load(path)
    rows = np.array([0, 3, 4, 17, 60])
    device = torch.device("cpu")
    np.testing.assert_array_equal(load(path, rows, device), stored[rows].astype(np.float32))
    every = load(path, np.arange(ROWS), device)
    assert every.dtype == torch.float32
    np.testing.assert_array_equal(every, stored.astype(np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "b"},
        {"network": {"size": 224}},
        {"precision": "bf16-mixed"},
        {"mean": [0.1, 0.2, 0.3]},
        {"pixels": {"content": "y"}},
    ],
)
def test_other_weights_preprocessing_or_data_are_other_features(
    file: FeatureFile, pixels, tmp_path: Path, change: dict[str, Any]
) -> None:
    path, _ = file.make(extractor(tmp_path / "calls"), pixels)
    other = replace(file, facts={**file.facts, **change})
    assert other.find() is None
    assert other.make(extractor(tmp_path / "calls"), pixels)[0] != path


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], object]] = [
    flip_a_byte,
    lambda path: path.write_bytes(path.read_bytes()[:-3]),
    lambda path: path.unlink(),
    lambda path: path.with_suffix(".json").write_text("{"),
    lambda path: path.with_suffix(".json").unlink(),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_repaired(file: FeatureFile, pixels, tmp_path: Path, damage) -> None:
    path, _ = file.make(extractor(tmp_path / "calls"), pixels)
    before = path.read_bytes()
    damage(path)
    assert file.find() is None
    assert file.make(extractor(tmp_path / "calls"), pixels)[0] == path
    assert path.read_bytes() == before and file.find() == path


def test_a_link_in_place_of_the_file_is_not_followed(file: FeatureFile, pixels, tmp_path) -> None:
    path, _ = file.make(extractor(tmp_path / "calls"), pixels)
    target = shutil.copy(path, tmp_path / "other.npy")
    path.unlink()
    path.symlink_to(target)
    assert file.find() is None
    file.make(extractor(tmp_path / "calls"), pixels)
    assert not path.is_symlink() and file.find() == path


def test_the_file_of_a_stranger_is_not_used(file: FeatureFile, pixels, tmp_path: Path) -> None:
    path, _ = file.make(extractor(tmp_path / "calls"), pixels)
    stranger = path.with_name(path.name.replace(f"_u{os.getuid()}", "_u12345"))
    for suffix in (".npy", ".json"):
        path.with_suffix(suffix).rename(stranger.with_suffix(suffix))
    assert file.find() is None


@pytest.mark.parametrize("factor", [1e4, float("nan")])
def test_features_beyond_float16_are_reported_and_not_stored(
    file: FeatureFile, pixels, tmp_path: Path, factor: float
) -> None:
    with pytest.raises(InputError, match=r"split_x.h5.* row 0 ") as error:
        file.make(extractor(tmp_path / "calls", factor=factor), pixels)
    assert "\n" not in str(error.value)
    assert file.find() is None and not list(file.folder.glob("*.npy"))


def test_a_full_disk_is_reported_before_any_work(
    file: FeatureFile, pixels, tmp_path: Path, monkeypatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(InputError, match=r"probe\.features_dir"):
        file.make(extractor(tmp_path / "calls"), pixels)
    assert batches(tmp_path / "calls") == 0


def test_a_folder_that_cannot_be_made_is_reported(file: FeatureFile, tmp_path: Path) -> None:
    (tmp_path / "features").touch()
    with pytest.raises(InputError, match=r"probe\.features_dir"):
        file.find()


def test_eight_processes_compute_once(file: FeatureFile, pixels, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    arguments = (file, pixels, calls, 0.02)
    processes = [CONTEXT.Process(target=probe_networks.compute, args=arguments) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 8
    assert batches(calls) == -(-ROWS // BATCH)
    path = file.find()
    assert path is not None
    np.testing.assert_allclose(np.load(path), expected(pixels), rtol=1e-3)


def test_a_killed_process_is_continued(
    file: FeatureFile, pixels, tmp_path: Path, monkeypatch
) -> None:
    undisturbed = replace(file, folder=tmp_path / "undisturbed")
    path, _ = undisturbed.make(extractor(tmp_path / "all"), pixels)

    calls = tmp_path / "calls"
    process = CONTEXT.Process(target=compute_slowly, args=(file, pixels, calls))
    process.start()
    deadline = time.monotonic() + 120
    while not list(file.folder.glob("*.partial.json")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert file.find() is None

    done = batches(calls)
    assert 0 < done < batches(tmp_path / "all")
    resumed, computed = file.make(extractor(tmp_path / "rest"), pixels)
    assert computed and resumed.read_bytes() == path.read_bytes()
    assert batches(tmp_path / "rest") < batches(tmp_path / "all")
    assert not list(file.folder.glob("*.partial*"))


def compute_slowly(file: FeatureFile, pixels: np.ndarray, calls: Path) -> None:
    features.SECONDS_BETWEEN_SAVES = 0
    probe_networks.compute(file, pixels, calls, pause=0.1)


@pytest.mark.parametrize("end", [b"", b"torn"])
def test_rows_that_were_not_durable_are_computed_again(
    file: FeatureFile, pixels, tmp_path: Path, end: bytes, monkeypatch
) -> None:
    monkeypatch.setattr(features, "SECONDS_BETWEEN_SAVES", 0)
    path, _ = file.make(extractor(tmp_path / "calls"), pixels)
    expected = path.read_bytes()
    size = len(expected) - (ROWS - 16) * WIDTH * 2
    path.with_suffix(".partial").write_bytes(expected[:size] + end)
    path.with_suffix(".partial.json").write_text(f'{{"shape": [{ROWS}, {WIDTH}], "rows": 16}}')
    path.unlink()
    path.with_suffix(".json").unlink()
    assert file.make(extractor(tmp_path / "rest"), pixels)[0].read_bytes() == expected
    assert batches(tmp_path / "rest") == -(-(ROWS - 16) // BATCH)


RECORDS = ["{}", '{"shape": [61, 6], "rows": 70}', '{"shape": [61, 6], "rows": -4}', "[", None]


@pytest.mark.parametrize("record", RECORDS)
def test_an_unusable_draft_is_replaced(
    file: FeatureFile, pixels, tmp_path: Path, record: str | None
) -> None:
    file.folder.mkdir()
    partial = (file.folder / f"split_x_{file.key}_u{os.getuid()}.npy").with_suffix(".partial")
    partial.write_bytes(b"some other content")
    if record is not None:
        partial.with_suffix(".partial.json").write_text(record)
    path, _ = file.make(extractor(tmp_path / "calls"), pixels)
    np.testing.assert_allclose(np.load(path), expected(pixels), rtol=1e-3)
