"""Job states from run folders, sweep.json and Slurm's queue."""

import json
import os
import time
from pathlib import Path

import pytest
from sweep_files import write_run, write_sweep

from pcam_lightning.runs.process import process_mark
from pcam_lightning.runs.status import RunFileError
from pcam_lightning.slurm import jobs, queue
from pcam_lightning.slurm.ends import JobEnd
from pcam_lightning.slurm.jobs import job_states
from pcam_lightning.slurm.queue import QueuedJob
from pcam_lightning.sweeps.jobs import titles

GONE = str(2**22 + 1)  # no process has an id above the kernel's limit


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch):
    """Return a function that sets the jobs in Slurm's queue, and those that have left it."""

    def set_states(queued: dict[str, str] | None, ended: dict[str, str] | None = None) -> None:
        known = queued and {job: QueuedJob(state) for job, state in queued.items()}
        gone = {job: JobEnd(state) for job, state in (ended or {}).items()}
        monkeypatch.setattr(queue, "queued_jobs", lambda ids: known)
        monkeypatch.setattr(jobs, "job_ends", lambda ids: {i: gone[i] for i in ids if i in gone})

    return set_states


def states(folder: Path) -> list[str]:
    return [job.state for job in job_states(folder)]


def test_without_sweep_json_every_run_folder_is_a_job(tmp_path: Path) -> None:
    write_run(
        tmp_path / "1", ["seed=2"], state="failed", error="out of memory", started="2026-01-02"
    )
    write_run(tmp_path / "0", ["seed=1"], started="2026-01-01")
    found = job_states(tmp_path)
    assert [(job.number, job.overrides, job.state, job.error) for job in found] == [
        (0, ("seed=1",), "finished", None),
        (1, ("seed=2",), "failed", "out of memory"),
    ]


@pytest.mark.parametrize(
    ("queued", "state"),
    [
        ("PENDING", "queued"),
        ("REQUEUED", "queued"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
    ],
)
def test_slurm_knows_the_state_of_jobs_that_have_not_ended(
    tmp_path: Path, slurm, queued: str, state: str
) -> None:
    write_sweep(tmp_path, [{}, {}, {}, {}, {}])
    for number, known in enumerate(("preempted", "running", "finished", "failed")):
        write_run(tmp_path / str(number), [f"seed={number}"], state=known, error="e")
    slurm({f"12_{number}": queued for number in (0, 1, 2, 4)})
    assert states(tmp_path) == [state, state, "finished", "failed", state]


def test_slurm_knows_the_state_of_jobs_that_have_left_the_queue(tmp_path: Path, slurm) -> None:
    """A run that has recorded its end is believed; a requeued job may be in no queue for a moment.

    Job 4 is one that nobody remembers.
    """
    write_sweep(tmp_path, [{}] * 6)
    for number, known in enumerate(("preempted", "running", "finished", "failed", "running")):
        write_run(tmp_path / str(number), [f"seed={number}"], state=known, error="e")
    ended = ("TIMEOUT", "CANCELLED", "NODE_FAIL", "CANCELLED", None, "PENDING")
    slurm({}, {f"12_{number}": state for number, state in enumerate(ended) if state})
    assert states(tmp_path) == ["time_limit", "cancelled", "finished", "failed", "lost", "queued"]


# The last submission of each job is of 09:00.
@pytest.mark.parametrize(
    ("executor", "job", "started", "is_believed"),
    [
        ("slurm", "12_0", "2026-01-01T08:00:00+00:00", True),  # requeued
        ("slurm", "11_0", "2026-01-01T09:00:01+00:00", False),
        ("slurm", None, "2026-01-01T08:59:59.999+00:00", False),
        ("slurm", None, "2026-01-01T10:00:01+01:00", True),
        ("local", None, "2026-01-01T08:59:59.999+00:00", False),
        ("local", "9_0", "2026-01-01T09:00:01+00:00", True),  # a local sweep inside of a job
        ("local", None, "no date", True),
    ],
)
def test_the_status_of_an_earlier_submission_is_not_believed(
    tmp_path: Path, slurm, executor: str, job: str | None, started: str, is_believed: bool
) -> None:
    slurm({})
    job_id = "12_0" if executor == "slurm" else GONE
    submitted = "2026-01-01T09:00:00.000+00:00"
    write_sweep(tmp_path, [{"job_id": job_id, "submitted": submitted}], executor=executor)
    run = write_run(tmp_path / "0", [], state="failed", error="of the run", started=started)
    if job:
        array, _, task = job.partition("_")
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["slurm"] = {"job_id": 70, "array_job_id": int(array), "array_task_id": int(task)}
        (run / "manifest.json").write_text(json.dumps(manifest))
    (found,) = job_states(tmp_path)
    assert (found.state == "failed") is (found.error == "of the run") is is_believed


# The end that the launcher recorded, Slurm's own record, and the state.
@pytest.mark.parametrize(
    ("end", "known", "state"),
    [
        ({"state": "time_limit", "error": "raise it"}, None, "time_limit"),
        ({"state": "time_limit", "error": "raise it"}, "NODE_FAIL", "node_failure"),
        ({"state": "finished", "error": None}, None, "cancelled"),
        ({"state": "os"}, None, "cancelled"),
        ("time_limit", None, "cancelled"),
        (None, None, "cancelled"),
    ],
)
def test_the_launcher_remembers_what_slurm_forgets(
    tmp_path: Path, slurm, end, known: str | None, state: str
) -> None:
    slurm({}, {"12_0": known} if known else {})
    write_sweep(tmp_path, [{"end": end}])
    (found,) = job_states(tmp_path)
    assert found.state == state and (state != "time_limit" or found.error == "raise it")


def test_a_finished_run_is_believed_whoever_started_it(tmp_path: Path, slurm) -> None:
    slurm({"12_0": "PENDING"})
    write_sweep(tmp_path, [{"submitted": "2026-01-01T09:00:00.000+00:00"}])
    write_run(tmp_path / "0", [], started="2025-01-01T00:00:00+00:00")
    assert states(tmp_path) == ["finished"]


def test_jobs_that_are_not_submitted_wait_for_the_launcher(tmp_path: Path, slurm) -> None:
    """Without a living launcher nobody will submit them; an earlier start's end says why not."""
    slurm({})
    own = {"host": os.uname().nodename, "process": process_mark(os.getpid())}
    write_run(tmp_path / "0", ["seed=0"], state="failed", error="e")
    write_run(tmp_path / "1", ["seed=1"])
    for pid, expected in (
        (os.getpid(), ["queued", "finished", "queued"]),
        (int(GONE), ["failed", "finished", "missing"]),
    ):
        unsubmitted = [{"job_id": None, "log": None}] * 3
        write_sweep(tmp_path, unsubmitted, submitter=own | {"pid": pid})
        assert states(tmp_path) == expected


def test_a_requeued_failed_job_is_queued(tmp_path: Path, slurm) -> None:
    write_run(write_sweep(tmp_path, [{}]) / "0", ["seed=0"], state="failed", error="e")
    slurm({"12_0": "PENDING"})
    assert [(job.state, job.error) for job in job_states(tmp_path)] == [("queued", None)]


def test_no_job_is_lost_while_slurm_does_not_answer(tmp_path: Path, slurm) -> None:
    write_sweep(tmp_path, [{}, {}, {}, {}])
    write_run(tmp_path / "0", ["seed=0"], state="preempted")
    write_run(tmp_path / "1", ["seed=1"], state="running")
    write_run(tmp_path / "3", ["seed=3"])
    slurm(None)
    assert states(tmp_path) == ["unknown", "unknown", "unknown", "finished"]
    found = job_states(tmp_path)
    assert [job.error for job in found] == [queue.NO_ANSWER] * 3 + [None]
    assert not any(job.has_ended for job in found[:3])


def test_local_jobs_are_processes(tmp_path: Path, slurm) -> None:
    slurm({})
    ids = [{"job_id": str(os.getpid())}, {"job_id": GONE}, {"job_id": GONE}]
    write_sweep(tmp_path, ids, executor="local")
    write_run(tmp_path / "2", ["seed=2"], state="preempted")
    assert states(tmp_path) == ["queued", "lost", "preempted"]


def test_a_run_of_the_basic_launcher_whose_process_is_gone_was_killed(tmp_path: Path) -> None:
    own = {"host": os.uname().nodename, "process": process_mark(os.getpid())}
    write_run(tmp_path / "0", ["seed=0"], state="running", pid=os.getpid(), **own)
    write_run(tmp_path / "1", ["seed=1"], state="running", pid=int(GONE), **own)
    assert states(tmp_path) == ["running", "killed"]


def test_the_error_of_a_job_without_a_run_is_in_its_log(tmp_path: Path, slurm) -> None:
    write_sweep(tmp_path, [{}, {}])
    log = tmp_path / ".submitit" / "12_0" / "12_0_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x\n" * 100_000 + b"error: data.root=\xff: no files\n \n\n")
    slurm({})
    first, second = job_states(tmp_path)
    assert (first.state, first.log) == ("lost", log)
    assert first.error == "error: data.root=\ufffd: no files"
    assert second.state == "cancelled"  # it has no log, so that it never began


@pytest.mark.parametrize("name", ["summary.json", "status.json"])
def test_a_damaged_file_affects_its_own_run_only(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "0", ["seed=0"])
    (write_run(tmp_path / "1", ["seed=1"], started="2026-01-02") / name).write_text('{"val": ')
    first, second = job_states(tmp_path)
    assert (first.state, second.state) == ("finished", "damaged")
    assert second.error is not None and f"{name} is not valid JSON" in second.error


@pytest.mark.parametrize(
    ("key", "path"),
    [(key, "../x") for key in ("folder", "log")]
    + [("folder", path) for path in ("/etc", "a/../../b", "link/x", "a\0b", 7)],
)
def test_a_path_outside_of_the_sweep_is_rejected(tmp_path: Path, slurm, key: str, path) -> None:
    slurm({})
    sweep = write_sweep(tmp_path / "sweep", [{}, {key: path}])
    (sweep / "link").symlink_to(tmp_path)
    with pytest.raises(RunFileError) as caught:
        job_states(sweep)
    message = str(caught.value)
    assert f"sweep.json: jobs.1.{key}={path!r}: expected a path inside" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object"),
        ("{}", "jobs is missing"),
        ('{"jobs": [3]}', "jobs.0 is a int"),
        ('{"jobs": [{"overrides": "seed=1"}]}', "jobs.0.overrides='seed=1'"),
        ('{"jobs": [{"number": "a"}]}', "jobs.0.number='a'"),
    ],
)
def test_a_damaged_sweep_json_is_one_line(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(RunFileError) as caught:
        job_states(tmp_path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_logs_and_job_ids_are_optional(tmp_path: Path, slurm) -> None:
    slurm({})
    job = {"number": 4, "overrides": [], "folder": "x"}
    (tmp_path / "sweep.json").write_text(json.dumps({"executor": "slurm", "jobs": [job]}))
    (found,) = job_states(tmp_path)
    assert (found.number, found.state, found.log, found.job_id) == (4, "missing", None, None)


def test_titles_are_the_overrides_that_differ(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / str(seed), ["model=mlp", f"seed={seed}"])
    assert titles(job_states(tmp_path)) == ["seed=1", "seed=2"]
    assert titles(job_states(tmp_path / "1")) == ["model=mlp seed=1"]
    assert titles([]) == []


@pytest.mark.parametrize(("silent_s", "state"), [(0, "queued"), (1000, "missing")])
def test_a_launcher_on_another_machine_lives_while_it_renews_the_file(
    tmp_path: Path, silent_s: float, state: str
) -> None:
    write_sweep(tmp_path, [{"job_id": None}], submitter={"host": "elsewhere", "pid": 7})
    before = time.time() - silent_s
    os.utime(tmp_path / "sweep.json", (before, before))
    assert states(tmp_path) == [state]


def test_a_file_that_a_living_job_is_writing_is_not_damaged(tmp_path: Path, slurm) -> None:
    """Hydra does not write `.hydra/overrides.yaml` atomically."""
    for number in range(2):
        run = write_run(tmp_path / str(number), [], state="running")
        (run / ".hydra" / "overrides.yaml").write_text("")
    write_sweep(tmp_path, [{}, {}])
    slurm({"12_0": queue.QueuedJob("RUNNING")})
    assert states(tmp_path) == ["running", "damaged"]
