"""Folders are found and classified by their contents."""

import shutil
from pathlib import Path

import check_folders as made
import pytest

from pcam_lightning.checks.inputs import Inputs, find_inputs, read_folder
from pcam_lightning.errors import InputError
from pcam_lightning.files import write_json

OLD_RUNS = Path(__file__).parents[1] / "runs"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    made.write_sound(folder)
    return folder


def kinds(inputs: Inputs) -> dict[str, str]:
    return {folder.path.name: folder.kind for folder in inputs.folders if folder.kind != "train"}


def test_every_kind_is_recognized(sound: Path) -> None:
    inputs = find_inputs([sound])
    commands = ("audit", "evaluate", "compare", "reproduce", "benchmark", "export", "bundle")
    assert kinds(inputs) == {name: name for name in ("sweep", *commands)}
    assert len(inputs.of_kind("train")) == 9
    (sweep,) = inputs.of_kind("sweep")
    assert sorted(each.path.name for each in sweep.members) == [str(i) for i in range(9)]


def test_a_folder_given_twice_counts_once(sound: Path) -> None:
    twice = find_inputs([sound, sound / "audit", sound / "sweep"])
    assert len(twice.folders) == len(find_inputs([sound]).folders)


@pytest.mark.parametrize("version", ["run_v0", "run_v1"])
def test_runs_of_earlier_versions_are_training_runs(version: str) -> None:
    assert read_folder(OLD_RUNS / version).kind == "train"


def test_a_run_without_config_or_summary_is_named_by_its_command(tmp_path: Path) -> None:
    words = {"a": "pcam_lightning.audit", "b": "/x/pcam_lightning/export/__main__.py", "c": "x.py"}
    for name, word in words.items():
        write_json(tmp_path / name / "manifest.json", {"command": ["python", word]})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "manifest.json").write_text("{")
    expected = {"a": "audit", "b": "export", "c": "other", "d": "other"}
    assert kinds(find_inputs([tmp_path])) == expected


def test_the_repetition_of_a_run_is_left_out(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound / "reproduce", tmp_path / "reproduce")
    shutil.copytree(sound / "sweep" / "0", tmp_path / "reproduce" / "twin")
    assert [folder.kind for folder in find_inputs([tmp_path]).folders] == ["reproduce"]


def test_runs_of_one_parent_on_the_same_data_are_a_sweep(sound: Path, tmp_path: Path) -> None:
    for number in range(3):
        shutil.copytree(sound / "sweep" / str(number), tmp_path / str(number))
    made.edit(tmp_path / "2" / "manifest.json", {"dataset/fingerprint": "e" * 32})
    for given in ([tmp_path], [tmp_path / str(number) for number in range(3)]):
        sweeps = find_inputs(given).of_kind("sweep")
        assert sorted(len(sweep.members) for sweep in sweeps) == [1, 2]


@pytest.mark.parametrize("given", ["nowhere", "empty", "file"])
def test_an_unknown_folder_is_invalid_input(given: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=given):
        find_inputs([tmp_path / given])
