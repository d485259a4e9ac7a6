"""A real Slurm."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "local_slurm.sh"


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use the cluster that SLURM_CONF names, or start one.

    The processes of one test run share the cluster, and the last one stops it. Skips the test if
    this machine cannot run Slurm, or fails it if PCAM_SLURM=required.
    """
    if answers():
        yield
        return
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "slurm"
    with folder.with_suffix(".users").open("w") as users, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            started = subprocess.run([SCRIPT, "start", folder], stderr=subprocess.PIPE, text=True)
            if started.returncode and os.environ.get("PCAM_SLURM") != "required":
                pytest.skip(started.stderr.strip().splitlines()[-1])
            assert started.returncode == 0, started.stderr
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield
        finally:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                subprocess.run([SCRIPT, "stop", folder], check=True)


def answers() -> bool:
    """Return whether SLURM_CONF names a running cluster."""
    # Slurm's commands wait for long if the file does not exist.
    if not Path(os.environ.get("SLURM_CONF", "")).is_file():
        return False
    return subprocess.run(["sinfo"], capture_output=True).returncode == 0
