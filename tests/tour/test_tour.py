"""The command `tour`: every step, in a small version."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ["trainer.max_epochs=1", "data.batch_size=32", "model=mlp"]
SMALL += [f"data.demo.{split}=96" for split in ("train", "valid", "test")]


def tour(folder: Path, overrides: list[str]) -> subprocess.CompletedProcess[str]:
    words = ",".join(f'"{each}"' for each in overrides)
    arguments = [f"tour.overrides=[{words}]", "hydra.run.dir=made"]
    return subprocess.run(
        [sys.executable, "-m", "pcam_lightning.tour", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.mark.slow
def test_the_tour_ends_with_a_report_on_every_step(tmp_path: Path) -> None:
    done = tour(tmp_path, SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"summary: {tmp_path / 'made/summary.json'}"
    found = json.loads((tmp_path / "made/report/report.json").read_text())
    kinds = {each["kind"] for each in found["folders"]}
    assert kinds >= {"audit", "train", "sweep", "reproduce", "compare", "evaluate", "benchmark"}
    assert "export" in kinds
    blocks = [block for section in found["sections"] for block in section["blocks"]]
    missing = [block["text"] for block in blocks if block.get("kind") == "missing"]
    # With one network the sweep has one configuration.
    assert [each.partition(":")[0] for each in missing] == ["Sweep over settings", "Bundles"]
    (twin,) = [block for block in blocks if block.get("title") == "Repeated runs"]
    assert twin["rows"][0][2] == "yes"


def test_a_failed_step_ends_the_tour(tmp_path: Path) -> None:
    done = tour(tmp_path, ["data.demo.train=1"])
    assert done.returncode == 1
    assert "audit" in done.stderr.splitlines()[-1] and "exit code 2" in done.stderr
    assert not (tmp_path / "made/report").exists()
