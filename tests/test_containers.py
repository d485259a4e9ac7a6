"""The recipe of an image, and the job of SkyPilot."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcam_lightning.config import schema

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "scripts" / "apptainer.def"
SKY = REPOSITORY / "scripts" / "sky.yaml"
SECTIONS = {"files", "post", "environment", "runscript", "test", "help"}


def sections() -> dict[str, str]:
    """Return the sections of the recipe by name; that of the header is ""."""
    parts = re.split(r"^%(\w+)\n", RECIPE.read_text(), flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_recipe_has_a_base_and_valid_scripts() -> None:
    found = sections()
    assert set(found) == SECTIONS | {""}
    header = [line for line in found[""].splitlines() if line and not line.startswith("#")]
    assert header == ["Bootstrap: docker", "From: python:3.11-slim"]
    for name in ("post", "environment", "runscript", "test"):
        subprocess.run(["sh", "-n"], input=found[name], text=True, check=True)


def test_the_package_can_be_built_from_the_files_of_the_recipe(tmp_path: Path) -> None:
    for line in sections()["files"].split("\n"):
        if line:
            source, target = line.split()
            path = tmp_path / target.removeprefix("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (REPOSITORY / source).is_dir() else shutil.copy
            copy(REPOSITORY / source, path)
    place, extras = re.findall(
        r"pip install --no-cache-dir '(\S+)\[([\w,]+)\]'", RECIPE.read_text()
    )[0]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", tmp_path / "wheel", tmp_path / place.removeprefix("/")],
        check=True,
    )  # fmt: skip
    assert len(list((tmp_path / "wheel").glob("*.whl"))) == 1
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = ", project, re.MULTILINE) for extra in extras.split(","))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["-m", "pcam_lightning"]),
        (["train", "model=cnn", "a=b c"], ["-m", "pcam_lightning.train", "model=cnn", "a=b c"]),
    ],
)
def test_the_image_runs_a_command(
    arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", sections()["runscript"], "runscript", *arguments],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == expected


def job() -> dict[str, Any]:
    return yaml.safe_load(SKY.read_text())


def test_the_sky_job_trains_with_a_valid_config(composed: Callable[..., dict[str, Any]]) -> None:
    variables = job()["envs"] | {"HOME": "/home/me"}
    text = re.sub(r"\$(\w+)", lambda name: variables[name[1]], job()["run"])
    line = text.replace("\\\n", " ").strip().splitlines()[-1]
    _, _, module, folder, *overrides = shlex.split(line)
    assert module == "pcam_lightning.train"
    assert folder == f"hydra.run.dir=/outputs/train/sky/{variables['RUN']}"
    config = composed(overrides)
    schema.check("train", config)
    assert config["data"]["root"] == "/home/me/pcam" and config["resume"]
    assert Path(folder.partition("=")[2]).is_relative_to(next(iter(job()["file_mounts"])))


def test_sky_accepts_the_job() -> None:
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml(str(SKY))
    assert {each.use_spot for each in task.resources} == {True, False}
    assert list(task.storage_mounts) == ["/outputs"]


@pytest.mark.parametrize("script", ["setup", "run"])
def test_the_scripts_of_the_sky_job_have_valid_syntax(script: str) -> None:
    subprocess.run(["bash", "-n"], input=job()[script], text=True, check=True)
