"""The wheel: its contents, and the config tree as found from an installation."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel, as an installation has them."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", folder, ROOT],
        check=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_contains_the_config_tree(site: Path, tmp_path: Path) -> None:
    shipped = {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    packed = {path.relative_to(site / "pcam_lightning") for path in site.rglob("conf/**/*.yaml")}
    assert packed == shipped
    environment = {**os.environ, "PYTHONPATH": str(site)}
    config = subprocess.check_output(
        [sys.executable, "-m", "pcam_lightning.train", "--cfg", "job", "model=mlp"],
        cwd=tmp_path,
        env=environment,
    )
    assert OmegaConf.create(config.decode()).model.hidden == [64, 32]


def test_the_wheel_contains_the_package_alone(site: Path) -> None:
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"pcam_lightning"}
    assert not list(site.rglob("test_*.py"))


def test_the_wheel_contains_the_scripts_of_a_bundle(site: Path) -> None:
    travel = Path("pcam_lightning/bundle/travel")
    for name in ("verify.py", "predict.py"):
        assert (site / travel / name).read_bytes() == (ROOT / travel / name).read_bytes()
