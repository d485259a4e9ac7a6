"""The cause of a job's end, from the texts that Slurm itself writes."""

from pathlib import Path

import pytest
from slurm_commands import printing, shown, stand_in

from pcam_lightning.slurm.causes import LAST_LINES, Recorded, cause_of_end, own_line
from pcam_lightning.slurm.ends import job_ends
from pcam_lightning.sweeps.jobs import FAILURES, STATES

RUNNING: Recorded = ("running", None)
KILLED: Recorded = ("killed", None)
NEVER: Recorded = (None, None)
MEMORY = (
    "slurmstepd-thin1: error: StepId=1.0 exceeded memory limit (313749504 > 104857600), "
    "being killed"
)
OOM_KILL = (
    "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been "
    "OOM Killed."
)
ENDED = "slurmstepd: error: *** STEP 5.0 ON thin1 CANCELLED AT 2026-11-29T04:58:14"
TIME, CANCEL = f"{ENDED} DUE TO TIME LIMIT ***", f"{ENDED} ***"
REQUEUED = f"{ENDED} DUE TO JOB REQUEUE ***"
PREEMPTED = f"{ENDED} DUE TO PREEMPTION ***"
NODE = f"{ENDED} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"
SRUN = "srun: error: thin1: task 0: Killed"
REQUEUES = "UncompletedJobError: Job not requeued because: timed-out too many times."
EPOCHS = "epoch 1\nepoch 2\n"
ERROR = "error: data.root=/x: no files"

# The state that the run recorded, Slurm's record, the log (None: there is none), the state, and a
# text of the error.
CASES = {
    # Slurm remembers the job.
    "memory": (KILLED, shown("OUT_OF_MEMORY", MinMemoryNode="2G"), EPOCHS, "out_of_memory",
               "hydra.launcher.mem_gb=4"),
    "memory of a step": (KILLED, shown("FAILED", ExitCode="137:0"), f"{EPOCHS}{MEMORY}\n{SRUN}",
                         "out_of_memory", "hydra.launcher.mem_gb=1"),
    "memory, by the kernel": (KILLED, shown("FAILED", ExitCode="137:0"), f"{OOM_KILL}\n{SRUN}",
                              "out_of_memory", "hydra.launcher.mem_gb=8"),
    "memory of an earlier start": (KILLED, shown("CANCELLED"), MEMORY + "\nx" * LAST_LINES,
                                   "cancelled", "while it ran"),
    "time": (RUNNING, shown("TIMEOUT"), f"{EPOCHS}{TIME}", "time_limit",
             "hydra.launcher.timeout_min=60"),
    "requeues": (("preempted", None), shown("FAILED", ExitCode="1:0"), f"{EPOCHS}{REQUEUES}\n",
                 "time_limit", "hydra.launcher.max_num_timeout"),
    "cancelled": (RUNNING, shown("CANCELLED"), CANCEL, "cancelled", "while it ran"),
    "cancelled early": (NEVER, shown("CANCELLED", RunTime="00:00:00", NodeList="(null)"), None,
                        "cancelled", "before it began"),
    "node": (RUNNING, shown("NODE_FAIL", NodeList="thin2"), EPOCHS, "node_failure", "thin2"),
    "boot": (NEVER, shown("BOOT_FAIL", NodeList="(null)"), None, "node_failure", "node"),
    "preempted": (RUNNING, shown("PREEMPTED"), EPOCHS, "preempted", "another job"),
    "preempted and saved": (("preempted", None), shown("COMPLETED"), "", "preempted", "queued"),
    "killed": (KILLED, shown("FAILED", ExitCode="137:0"), f"{EPOCHS}{SRUN}", "killed", "SIGKILL"),
    "crashed": (KILLED, shown("FAILED", ExitCode="0:11"), EPOCHS, "killed", "SIGSEGV"),
    "failed": (("failed", "optimizer.lr=9: diverged"), shown("FAILED", ExitCode="1:0"), ERROR,
               "failed", "optimizer.lr=9"),
    "failed and out of memory": (("failed", "e"), shown("OUT_OF_MEMORY"), "", "out_of_memory",
                                 "mem_gb"),
    "setup": (NEVER, shown("FAILED", ExitCode="1:0"), f"{ERROR}\n{SRUN}\n", "failed", "data.root"),
    "setup without a word": (NEVER, shown("FAILED", ExitCode="3:0"), "", "failed", "3"),
    "app of another project": (NEVER, shown("COMPLETED"), "", "finished", None),
    "requeued a moment ago": (("preempted", None), shown("PENDING"), TIME, "queued", None),
    "starts a moment ago": (NEVER, shown("RUNNING"), None, "running", None),
    # Slurm has forgotten it, so that the log and the run folder tell.
    "time, by the log": (RUNNING, None, f"{EPOCHS}{TIME}\n", "time_limit", "timeout_min"),
    "memory, by the log": (RUNNING, None, f"{EPOCHS}{MEMORY}\n", "out_of_memory", "mem_gb=1"),
    "cancelled, by the log": (RUNNING, None, f"{EPOCHS}{CANCEL}\n", "cancelled", "while it ran"),
    "node, by the log": (RUNNING, None, f"{EPOCHS}{NODE}\n", "node_failure", "node"),
    "preempted, by the log": (RUNNING, None, f"{EPOCHS}{PREEMPTED}\n", "preempted", "another job"),
    "the last start, by the log": (RUNNING, None, f"{TIME}\n{EPOCHS}{CANCEL}\n", "cancelled",
                                   "while it ran"),
    "requeued and gone": (RUNNING, None, f"{EPOCHS}{REQUEUED}\n", "lost", "epoch 2"),
    "forgotten and failed": (("failed", "diverged"), None, EPOCHS, "failed", "diverged"),
    "forgotten and killed": (KILLED, None, f"{EPOCHS}{SRUN}\n", "killed", "epoch 2"),
    "forgotten and preempted": (("preempted", None), None, EPOCHS, "preempted", "queued"),
    "forgotten without a log": (NEVER, None, None, "cancelled", "before it began"),
    "without a trace": (RUNNING, None, EPOCHS, "lost", "epoch 2"),
    "without a trace or a log": (RUNNING, None, None, "lost", None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    recorded, line, text, state, named = CASES[case]
    end = None
    if line:
        stand_in(tmp_path / "bin", monkeypatch)("scontrol", printing(line))
        end = job_ends(["9"])["9"]
    log = tmp_path / "log.err"
    if text is not None:
        log.write_text(text)
    found, error = cause_of_end(recorded, end, log)
    assert found == state and state in STATES
    assert (error is None) if named is None else (named in str(error))
    assert "\n" not in str(error)
    assert cause_of_end(recorded, end, None)[0] in STATES  # a job may have no log


def test_the_cases_cover_every_end() -> None:
    of_the_folder = {"damaged", "missing"}
    assert {case[3] for case in CASES.values()} >= set(FAILURES) - of_the_folder


def test_memory_in_the_hint_exceeds_what_was_used(tmp_path: Path) -> None:
    """A job that used 3 GB of 2 GB is not told to ask for less than it used."""
    log = tmp_path / "log.err"
    for used_gb, asked_gb in ((3, 2), (40, 32), (0.2, 0.1)):
        used, asked = (int(size * 2**30) for size in (used_gb, asked_gb))
        log.write_text(f"slurmstepd: error: Step 1.0 exceeded memory limit ({used} > {asked})")
        error = str(cause_of_end(RUNNING, None, log)[1])
        assert int(error.rpartition("hydra.launcher.mem_gb=")[2]) > used_gb
        assert f"{asked_gb:g}" in error and f"{used_gb:g}" in error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"a\n{ERROR}\n \n\n{SRUN}\n", ERROR),
        (f"{ERROR}\n{TIME}\n{MEMORY}\n", ERROR),
        (f"\n{SRUN}\n", SRUN),
        (" \n", None),
        ("", None),
    ],
)
def test_the_last_line_of_the_job_itself(text: str, line: str | None) -> None:
    assert own_line(text) == line
