"""The cause of a job's end, from Slurm's record of it, its run folder and its log."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from pcam_lightning.errors import one_line
from pcam_lightning.runs.files import RunFileError, read_end
from pcam_lightning.slurm.ends import JobEnd
from pcam_lightning.slurm.queue import PENDING, RUNNING

LOG_BYTES = 1 << 16
"""Number of bytes at the end of a log that are searched."""
LAST_LINES = 12
"""Number of lines at the end of a log in which a lack of memory counts."""
SLURMS_LINE = re.compile(r"(slurmstepd|srun|sbatch)[\w.-]*: ")
"""Beginning of a line that Slurm, not the job, writes into a job's log."""
MEMORY_LINE = re.compile(
    r"exceeded memory limit \((\d+) > (\d+)\)|oom[-_]kill|Exceeded job memory limit|Out Of Memory"
)
END_LINE = re.compile(r"\bCANCELLED AT \S+(?: DUE TO ([A-Z ]+))?")
"""Slurm's line about the end of a job, in the job's log, with its reason."""
OUT_OF_REQUEUES = "timed-out too many times"
"""submitit's reason for not requeuing a job, in the job's log."""
NODE_STATES = ("NODE_FAIL", "BOOT_FAIL")

Recorded = tuple[str | None, str | None]


def cause_of_end(
    recorded: Recorded, end: JobEnd | None, log: Path | None
) -> tuple[str, str | None]:
    """Return the state and error of a job that has left Slurm's queue without a result.

    Args:
        recorded: state and error that this job's run recorded; no state if it recorded none.
        end: Slurm's record of the job; None if Slurm has forgotten it.
        log: log of the job, which may not exist.

    Returns:
        A state of `sweeps.jobs.STATES`, and one line, with the override that would help.
    """
    state, error = recorded
    slurm = end.state if end else ""
    if slurm in PENDING:
        return "queued", None
    if slurm in RUNNING:
        return "running", None
    text = _tail(log)
    # A requeued job appends to its log, so that older lines tell of earlier starts.
    memory = MEMORY_LINE.search("\n".join(text.splitlines()[-LAST_LINES:]))
    reason = None if end else _logged_reason(text)
    if slurm == "OUT_OF_MEMORY" or memory:
        return "out_of_memory", _memory(end, memory)
    if state == "failed":
        return "failed", error
    if slurm in ("TIMEOUT", "DEADLINE") or reason == "TIME LIMIT":
        return "time_limit", _time(end)
    if OUT_OF_REQUEUES in text:
        return "time_limit", "requeued as often as allowed; raise hydra.launcher.max_num_timeout"
    if slurm == "CANCELLED" or reason == "":
        return "cancelled", _cancelled(end, text)
    if slurm in NODE_STATES or reason == "NODE FAILURE":
        return "node_failure", f"node {end.node} failed" if end and end.node else "a node failed"
    if slurm == "PREEMPTED" or reason == "PREEMPTION" or state == "preempted":
        return "preempted", "stopped for another job, and not queued again"
    if slurm == "COMPLETED" and state is None:
        return "finished", None
    if end and end.signal:
        name = signal.Signals(end.signal).name if end.signal in set(signal.Signals) else end.signal
        return "killed", f"signal {name} ended its process"
    if slurm == "FAILED":
        return "failed", own_line(text) or f"exit status {end.exit_code if end else 'unknown'}"
    if state == "killed":
        return "killed", own_line(text)
    if state is None and not text and (log is None or not log.is_file()):
        return "cancelled", "it left the queue before it began"
    return "lost", own_line(text)


def last_line(log: Path | None) -> str | None:
    """Return the last line of a log that is not blank and not Slurm's."""
    return own_line(_tail(log))


def own_line(text: str) -> str | None:
    """Return the last line of a text that is not blank and not Slurm's; else Slurm's last one."""
    lines = [line for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not SLURMS_LINE.match(line)]
    return one_line((own or lines)[-1]) if lines else None


def _tail(log: Path | None) -> str:
    try:
        return "" if log is None else read_end(log, LOG_BYTES).decode(errors="replace")
    except RunFileError:
        return ""


def _logged_reason(text: str) -> str | None:
    """Return the reason in Slurm's last line about an end, empty if it gives none."""
    reasons = END_LINE.findall(text)
    return reasons[-1].strip() if reasons else None


def _memory(end: JobEnd | None, line: re.Match[str] | None) -> str:
    used, asked = end and end.used_mb, end and end.asked_mb
    if line and line[1]:
        used, asked = int(line[1]) / 2**20, int(line[2]) / 2**20
    texts = []
    if asked:
        texts.append(f"asked for {asked / 1024:.3g} GB")
    if used:
        texts.append(f"used {used / 1024:.3g} GB")
    more = max(1, round(2 * max(asked or 0, used or 0) / 1024))
    hint = f"hydra.launcher.mem_gb={more}" if texts else "raise hydra.launcher.mem_gb"
    return "; ".join([", ".join(texts), hint]) if texts else hint


def _time(end: JobEnd | None) -> str:
    if end is None or not end.limit_min:
        return "raise hydra.launcher.timeout_min"
    return f"limit {end.limit_min:.0f} min; hydra.launcher.timeout_min={2 * end.limit_min:.0f}"


def _cancelled(end: JobEnd | None, text: str) -> str:
    began = text or (end is not None and (end.seconds or 0) > 0)
    return "cancelled while it ran" if began else "cancelled before it began"
