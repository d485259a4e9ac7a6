"""Recording of a run: exclusive access to its folder, its manifest and its status."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pcam_lightning.errors import Diverged, InputError, Preempted, one_line
from pcam_lightning.files import atomic_write, encode_json, write_json
from pcam_lightning.runs.contents import read_status
from pcam_lightning.runs.files import RunFileError as RunFileError
from pcam_lightning.runs.files import read_json as read_json
from pcam_lightning.runs.process import process_mark

SECONDS_BETWEEN_BEATS = 15.0
"""Interval at which a run's process renews the modification time of `status.json`."""
SECONDS_OF_SILENCE = 90.0
"""Time after which a silent process on another machine counts as gone. Some file systems show a
change to other machines only after a minute."""
ATTEMPT_FILES = ("manifest.json", "code.patch", "environment.txt", "status.json")


class RunFolderBusyError(InputError):
    """A run folder to which a living process writes."""


class RunFolderFinishedError(InputError):
    """A run folder whose run has finished and is not to be resumed."""


def is_alive(status: Mapping[str, Any]) -> bool | None:
    """Return whether the process of a status is alive; None if it runs on another machine."""
    if status.get("host") != socket.gethostname():
        return None
    mark, pid = status.get("process"), status.get("pid")
    return mark is not None and isinstance(pid, int) and process_mark(pid) == mark


class Recording:
    """The status of a running process, kept in `status.json`."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder = folder
        self._began = time.monotonic()
        self._facts: dict[str, Any] = {}
        self._status: dict[str, Any] = {
            "state": "running",
            "reason": None,
            "error": None,
            "attempt": attempt,
            "started": _now(),
            "updated": None,
            "finished": None,
            "seconds": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": process_mark(os.getpid()),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "slurm_restarts": _slurm_restarts(),
        }
        self._write()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def update(self, **facts: Any) -> None:
        """Add facts such as `epoch=3` to the status, and renew its `updated` time.

        Raises TypeError for a name of the status itself, such as `state`.
        """
        taken = facts.keys() & self._status.keys()
        if taken:
            raise TypeError(f"names reserved by status.json: {', '.join(sorted(taken))}")
        self._facts.update(facts)
        self._write()

    def preempt(self, reason: str) -> None:
        """Set the state to `preempted`, which the end of the `recording` block keeps."""
        self._status.update(state="preempted", reason=one_line(reason, 2000))
        self._write()

    def _beat(self) -> None:
        """Renew the time of `status.json` until the run ends, as a sign of life."""
        while not self._ended.wait(SECONDS_BETWEEN_BEATS):
            with suppress(OSError):
                os.utime(self.folder / "status.json")

    def _end(self, error: dict[str, Any] | None) -> None:
        self._ended.set()
        if self._status["state"] == "running":
            self._status["state"] = "failed" if error else "finished"
        self._status.update(error=error, finished=_now())
        try:
            self._write()
        except OSError:
            # A full disk has no space for a second file, but the space of this file can be reused.
            brief = error and error | {"traceback": None}
            with (self.folder / "status.json").open("r+b") as stream:
                stream.write(encode_json(self._status | self._facts | {"error": brief}))
                stream.truncate()

    def _write(self) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        self._status.update(updated=_now(), seconds=seconds)
        write_json(self.folder / "status.json", self._status | self._facts)


@contextmanager
def recording(
    folder: Path | str, manifest: Mapping[str, Any], *, resume: bool = False
) -> Iterator[Recording]:
    """Record a run in its folder, which is created if it does not exist.

    Writes `manifest.json`, `environment.txt`, `code.patch` (the changes since the commit; empty for
    a clean checkout, absent without a checkout) and `status.json`. The state is `running` inside
    the block; afterwards it is `preempted` if the block raised `Preempted`, `failed` if it raised
    another exception, else `finished`. The exception reaches the caller. Its text is stored as one
    line, with a traceback unless it is an InputError, Diverged, Ctrl-C or an exit.

    A run can be started again after it failed, was killed or was preempted, and with `resume=True`
    after it finished; files about the earlier start are kept in `attempts/N/`. Only one process may
    record a run: with several ranks, rank 0. A process on another machine counts as alive while it
    renews `status.json`, unless Slurm has requeued its job as the current one.

    Raises:
        RunFolderBusyError: a living process records in the folder.
        RunFolderFinishedError: the run has finished, and `resume` is False.
        RunFileError: the folder or its status is unusable, or the disk is full.
    """
    run = _claim(Path(folder), resume=resume)
    try:
        _write_origin(run.folder, manifest)
        yield run
    except BaseException as error:
        fault = _disk_full_error(run.folder, error) or error
        # A full disk must not hide the error that ended the run.
        with suppress(OSError):
            if isinstance(error, Preempted):
                run.preempt(str(error))
            run._end(_describe(fault))
        if fault is error:
            raise
        raise fault from None
    run._end(None)


def check_free(folder: Path, *, resume: bool = False) -> None:
    """Raise the error of `recording` for a folder in use, without claiming the folder."""
    path = folder / "status.json"
    if path.exists():
        _check_not_taken(folder, read_status(path), resume=resume)


def _claim(folder: Path, *, resume: bool) -> Recording:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFileError(f"cannot create the run folder {folder}: {error.strerror}") from None
    with _locked(folder):
        path = folder / "status.json"
        attempt = 1
        if path.exists():
            status = read_status(path)
            _check_not_taken(folder, status, resume=resume)
            attempt = _keep_attempt(folder, status)
        return Recording(folder, attempt)


def _check_not_taken(folder: Path, status: Mapping[str, Any], *, resume: bool) -> None:
    state = status.get("state")
    # The process of a preempted run writes until it ends.
    if state in ("running", "preempted") and status.get("finished") is None:
        alive, seen = is_alive(status), ""
        if alive is None and not _is_requeued(status):
            silence = _silence(folder)
            alive = silence < SECONDS_OF_SILENCE
            seen = (
                f", last seen {max(0, silence):.0f} s ago (it counts as gone after "
                f"{SECONDS_OF_SILENCE:.0f} s)"
            )
        if alive:
            raise RunFolderBusyError(
                f"{folder} is being written by process {status.get('pid')} on {status.get('host')}"
                f"{seen}, started {status.get('started')}: wait for it, stop it, or choose another "
                "folder"
            )
    if state == "finished" and not resume:
        raise RunFolderFinishedError(
            f"{folder} holds a run that finished {status.get('finished')}: "
            "expected another folder, or a start that resumes"
        )


def _is_requeued(status: Mapping[str, Any]) -> bool:
    """Return True if Slurm has ended the process of a status to requeue its job as this one."""
    job, restarts = status.get("slurm_job"), status.get("slurm_restarts")
    if job is None or job != os.environ.get("SLURM_JOB_ID"):
        return False
    return isinstance(restarts, int) and restarts < _slurm_restarts()


def _slurm_restarts() -> int:
    """Return how often Slurm has requeued this process's job; 0 outside a job."""
    text = os.environ.get("SLURM_RESTART_COUNT", "")  # not set before the first restart
    return int(text) if text.isdecimal() else 0


def _silence(folder: Path) -> float:
    """Return the seconds since the process of a run last renewed its `status.json`.

    Both times come from the file system's clock, because the clocks of machines differ.
    """
    with (folder / "status.json").open("rb") as file:  # NFS does not use its cache for an open file
        renewed = os.fstat(file.fileno()).st_mtime
    draft = folder / f".clock.{os.urandom(4).hex()}.tmp"
    try:
        draft.touch()
        return draft.stat().st_mtime - renewed
    except OSError:
        return time.time() - renewed
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _keep_attempt(folder: Path, status: Mapping[str, Any]) -> int:
    """Copy the files about the last start to `attempts/N/`; return the number of the next."""
    number = status.get("attempt")
    number = number if isinstance(number, int) else 1
    attempt = folder / "attempts" / str(number)
    attempt.mkdir(parents=True, exist_ok=True)
    for name in ATTEMPT_FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, attempt / name)
    return number + 1


def _write_origin(folder: Path, manifest: Mapping[str, Any]) -> None:
    # Imported here, because readers of run folders need neither.
    from pcam_lightning.runs.manifest import environment_text
    from pcam_lightning.runs.snapshot import code_state

    write_json(folder / "manifest.json", manifest)
    atomic_write(folder / "environment.txt", environment_text().encode("utf-8"))
    patch = code_state().patch
    if patch is None:
        (folder / "code.patch").unlink(missing_ok=True)
    else:
        atomic_write(folder / "code.patch", patch)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time check a folder's status and claim the folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems cannot lock a folder. There, only starts at the same instant
        # go unnoticed.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _describe(error: BaseException) -> dict[str, Any] | None:
    """Return the `error` of `status.json` for an exception; None for a clean exit."""
    kind, text, trace = type(error).__name__, one_line(error, 2000), None
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return None
        text = f"exit: {text}" if isinstance(error.code, str) else f"exit status {error.code}"
    elif isinstance(error, KeyboardInterrupt):
        text = "interrupted (Ctrl-C or SIGINT)"
    elif not isinstance(error, InputError | Diverged):
        trace = "".join(traceback.format_exception(error))
    return {"type": kind, "text": text, "traceback": trace}


def _disk_full_error(folder: Path, error: BaseException) -> RunFileError | None:
    """Return a one-line error for a full disk; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return RunFileError(
        f"{error.filename or folder}: cannot be written ({os.strerror(error.errno)}); "
        "expected free space on the disk"
    )


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
