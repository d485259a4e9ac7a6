"""A wheelhouse holds all that its locks name, with the digests of its files."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pcam_lightning.bundle import wheels
from pcam_lightning.errors import InputError


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        ("2.15.0, 2.13.0+cpu, 2.13.0, 2.12.0+cpu", "2.13.0+cpu"),
        ("2.9.0+cpu", "2.9.0+cpu"),
        ("2.15.0+cu130, 2.14.0+cpu", "2.14.0+cpu"),
    ],
)
def test_the_newest_cpu_build_is_taken(offered: str, expected: str) -> None:
    text = f"torch (2.15.0)\nAvailable versions: {offered}\n  INSTALLED: 1.0+cpu\n"
    assert wheels.cpu_build(text) == expected


@pytest.mark.parametrize("text", ["", "torch (2.15.0)\nAvailable versions: 2.15.0, 2.14.0\n"])
def test_an_index_without_cpu_builds_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"bundle\.wheels=cpu") as caught:
        wheels.cpu_build(text)
    assert "\n" not in str(caught.value)


def test_a_lock_is_sorted_and_names_the_digests() -> None:
    digests = {
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": "0a",
        "antlr4_python3_runtime-4.9.3-py3-none-any.whl": "0b",
        "PyYAML-6.0.2-1-cp311-cp311-linux_x86_64.whl": "0c",
    }
    head, *lines = wheels.lock_file(digests).decode().splitlines()
    assert head.startswith("# ")
    assert lines == [
        "antlr4-python3-runtime==4.9.3 --hash=sha256:0b",
        "pyyaml==6.0.2 --hash=sha256:0c",
        "torch==2.13.0+cpu --hash=sha256:0a",
    ]
    assert wheels.lock_file(digests, {"pyyaml"}).decode().splitlines()[1:] == lines[1:2]


def test_requirements_have_lower_bounds_that_the_package_has_too() -> None:
    needed = [Requirement(line) for line in wheels.requirements_txt().decode().splitlines()]
    assert {each.name for each in needed} == {"numpy", "onnxruntime", "pillow"}
    pyproject = Path(__file__, "../../../pyproject.toml").resolve().read_text()
    for each in needed:
        assert str(each.specifier).startswith(">=") and f'"{each}"' in pyproject


def test_an_installed_package_cannot_build_its_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (wheels.find_checkout() / "pyproject.toml").is_file()
    monkeypatch.setattr(wheels, "PACKAGE", tmp_path / "site-packages/pcam_lightning")
    with pytest.raises(InputError, match="checkout"):
        wheels.collect_wheels("cpu", tmp_path)


def test_other_wheels_in_the_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "old-1-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        wheels.collect_wheels("cpu", tmp_path)


def test_a_python_without_pip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip"):
        wheels.collect_wheels("cpu", tmp_path)


def test_what_pip_cannot_find_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(InputError, match="no-such-package") as caught:
        wheels.download(tmp_path, ["no-such-package"])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="numpy"):
        wheels.resolve(tmp_path, ["numpy"])
    with pytest.raises(InputError, match=r"bundle\.wheels"):
        wheels.collect_wheels("cpu", tmp_path)


@pytest.mark.slow
def test_the_wheels_of_the_scripts_install_without_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "wheels"
    wheels.download(folder, wheels.RUNTIME)
    digests = wheels.digest_wheels(folder)
    names = wheels.resolve(folder, wheels.RUNTIME)
    assert {"numpy", "onnxruntime", "pillow"} <= names
    lock = wheels.lock_file(digests, names)
    assert lock == wheels.lock_file(digests)  # nothing else was downloaded
    for name, digest in digests.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    (tmp_path / "requirements.lock").write_bytes(lock)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    command = [python, "-m", "pip", "install", "--no-index", "--find-links", "wheels"]
    command += ["--require-hashes", "-r", "requirements.lock"]
    environment["PIP_CONFIG_FILE"] = os.devnull
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    code = "import numpy, onnxruntime, PIL"
    subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, check=True)
    wheel = folder / min(digests)
    wheel.write_bytes(wheel.read_bytes() + b"x")
    answer = subprocess.run([*command, "--force-reinstall"], cwd=tmp_path, env=environment)
    assert answer.returncode, f"{sys.executable} installed a wheel with another digest"
