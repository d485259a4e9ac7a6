import os
import signal
import subprocess
import sys

from pcam_lightning.runs.process import _mark_from_ps, process_mark


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_mark_stays_the_same_and_belongs_to_one_process():
    child = _sleeper()
    try:
        mark = process_mark(child.pid)
        assert mark is not None
        assert process_mark(child.pid) == mark
        assert process_mark(os.getpid()) not in (None, mark)
    finally:
        child.kill()
        child.wait()


def test_a_killed_process_has_no_mark():
    child = _sleeper()
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
    assert process_mark(child.pid) is None
    assert _mark_from_ps(child.pid) is None
    child.wait()
    assert process_mark(child.pid) is None
    assert _mark_from_ps(child.pid) is None


def test_ps_knows_a_living_process():
    child = _sleeper()
    try:
        mark = _mark_from_ps(child.pid)
        assert mark is not None and mark.count(":") == 2  # a date with a time of day
    finally:
        child.kill()
        child.wait()
