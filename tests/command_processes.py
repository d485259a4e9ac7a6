"""Commands in processes of their own, which a test may stop or kill.

A fork server imports torch and the package once; each process is a fork of it and starts in a
fraction of a second, while `python -m` takes five seconds.
"""

import io
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

TESTS = Path(__file__).parent
FOLDERS = [str(TESTS), str(TESTS / "train")]
"""Folders with the callbacks that the tests name in configs."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["lightning", "pcam_lightning.results.files", "pcam_lightning.config.build"]
)


class Process(Protocol):
    """The part of `subprocess.Popen` that `wait_for` needs."""

    def poll(self) -> int | None: ...


class CommandProcess:
    """A running `python -m pcam_lightning.train`, with the methods of `subprocess.Popen`.

    The process leads a session of its own, as one in a terminal does. Its plots are empty files,
    because drawing them takes half of a short run.

    Args:
        arguments: overrides.
        variables: environment variables beside those of this process.
    """

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str] | None = None):
        self._folder = tempfile.TemporaryDirectory()
        names = [f"{self._folder.name}/{name}" for name in ("stdout", "stderr")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(variables or {})
        self._process = CONTEXT.Process(
            target=_run, args=(list(arguments), environment, os.getcwd(), names)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Wait for the end, and return the text of stdout and stderr."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"no end after {timeout} s")
        out, err = (Path(self._folder.name, name).read_text() for name in ("stdout", "stderr"))
        return out, err


def run_train(arguments: Sequence[str]) -> None:
    """Run `python -m pcam_lightning.train` in this process, without drawing plots."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda *_, **__: None
    sys.path[:0] = FOLDERS
    sys.argv = ["train", *arguments]
    sys.orig_argv = [sys.executable, "-m", "pcam_lightning.train", *arguments]
    runpy.run_module("pcam_lightning.train", run_name="__main__", alter_sys=True)


def redirect(*paths: str) -> None:
    """Send stdout and stderr of this process to the ends of two files."""
    for number, (path, name) in enumerate(zip(paths, ("stdout", "stderr"), strict=True), start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), number)
        stream = io.TextIOWrapper(io.FileIO(number, "wb", closefd=False), write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(arguments: list[str], environment: dict[str, str], folder: str, names: list[str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    redirect(*names)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    run_train(arguments)


def python_path() -> str:
    """Return PYTHONPATH for a process that is no fork and uses the tests' callbacks."""
    return os.pathsep.join([*FOLDERS, os.environ.get("PYTHONPATH", "")])


def checkpoint_time(folder: Path) -> int | None:
    """Return the time of a run's `last.ckpt`, or None where it has none yet."""
    path = folder / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.exists() else None


def wait_for(condition: Callable[[], Any], process: Process, pause: float = 0.01) -> None:
    """Wait until a condition holds or the process has ended."""
    deadline = time.monotonic() + 240
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(pause)
