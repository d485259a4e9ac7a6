"""A benchmark in jobs of a real Slurm, and one table of all jobs."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from slurm_sweeps import LIMIT, SMALL

pytestmark = [pytest.mark.usefixtures("slurm"), pytest.mark.slow]


def test_one_table_has_the_rows_of_all_jobs(pcam_root: Path, tmp_path: Path) -> None:
    quick = ("mode=forward", "benchmark.repeats=1", "benchmark.seconds=0.01")
    jobs = ("--multirun", "data.batch_size=4,8", "hydra/launcher=submitit_slurm")
    where = (f"data.root={pcam_root}", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    for words in (
        ("benchmark", *SMALL, *quick, *jobs, *where),
        ("collect", f"runs={tmp_path / 'sweep'}", f"hydra.run.dir={tmp_path / 'collected'}"),
    ):
        command = [sys.executable, "-m", f"pcam_lightning.{words[0]}", *words[1:]]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    table = pd.read_csv(tmp_path / "collected" / "table.csv")
    assert table["batch_size"].tolist() == [4, 8]
    assert set(table["partition"]) == {"thin_course"}
    assert len(set(table["job_id"])) == 2
    assert all(speed > 0 for speed in table["median"].tolist())
