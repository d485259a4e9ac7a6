"""Output that cannot be written fails no run: exit code 0, status `finished`, a summary."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pcam_lightning.runs import Run

PRINTING = """
import logging, sys
from pathlib import Path
import h5py
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from pcam_lightning.cli.command import command
from pcam_lightning.runs.status import recording; from pcam_lightning.files import write_json

@command("train")
def main(config):
    folder = Path(config["run_dir"])
    with recording(folder, {}):
        # The first opened file must not get the number of a closed stdout.
        with h5py.File(folder / "data.h5", "w") as file:
            file["x"] = [1, 2, 3]
            for number in range(3):
                print(f"line {number}", "x" * 10_000, flush=number % 2)
                print("to stderr", file=sys.stderr)
                logging.getLogger(__name__).info("logged %d", number)
                logging.getLogger(__name__).warning("Gr\\u00fc\\u00dfe \\udcff")
                print("Gr\\u00fc\\u00dfe \\udcff")
                Console().print(Table("Gr\\u00fc\\u00dfe", title="table"))
                list(tqdm(range(10), file=sys.stdout)), list(tqdm(range(10)))
        write_json(folder / "summary.json", {})
    return folder / "summary.json"

main()
"""


def call(redirections: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program above in bash; the exit code is the program's."""
    program = folder.parent / "printing.py"
    program.write_text(PRINTING)
    line = f"'{sys.executable}' '{program}' 'hydra.run.dir={folder}' {redirections}"
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


# (redirections of the command, environment variables)
PLACES = [
    ("| head -1", {}),
    ("2>&1 | true", {"PYTHONUNBUFFERED": "1"}),
    ("<&- >&- 2>&-", {}),
    ("> /dev/full 2>&1", {}),
    ("> /dev/null", {"PYTHONIOENCODING": "ascii:strict"}),
]


@pytest.mark.parametrize(("redirections", "environment"), PLACES)
def test_output_that_cannot_be_written_fails_no_run(
    tmp_path: Path, redirections: str, environment: dict[str, str]
) -> None:
    folder = tmp_path / "run"
    done = call(redirections, folder, **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    run = Run(folder)
    assert (run.state, run.status["error"], run.summary) == ("finished", None, {})
    assert (folder / "data.h5").read_bytes()[:4] == b"\x89HDF"
    assert "logged 2" in (folder / "train.log").read_text()


def test_output_that_can_be_written_arrives(tmp_path: Path) -> None:
    done = call("", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"summary: {tmp_path / 'run' / 'summary.json'}"
    assert done.stderr.count("to stderr") == 3 and done.stdout.count("\nlogged ") == 3


def test_invalid_input_has_its_exit_code_without_a_reader(tmp_path: Path) -> None:
    assert call("optimizer.lr=-1 2>/dev/full >&-", tmp_path / "run").returncode == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_continues_without_its_reader(pcam_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["model=mlp", "model.hidden=[8]", "trainer=cpu", "trainer.max_epochs=1", "logger=csv"]
    words += [f"data.root={pcam_root}", "data.batch_size=16", f"hydra.run.dir={folder}"]
    line = " ".join(f"'{word}'" for word in [sys.executable, "-m", "pcam_lightning.train", *words])
    done = subprocess.run(
        ["bash", "-c", f"{line} 2>/dev/full | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.startswith("dataset: ")
    assert Run(folder).state == "finished"
    assert json.loads((folder / "summary.json").read_text())["dataset"] == "pcam"
