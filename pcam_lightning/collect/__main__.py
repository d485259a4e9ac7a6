"""Collection of a sweep: scores over seeds, best configuration, failures; live with watch=true.

python -m pcam_lightning.collect runs=FOLDER
"""

import sys
from pathlib import Path

from pcam_lightning.cli.command import Config, command, save_resolved
from pcam_lightning.errors import CheckFailed, InputError
from pcam_lightning.runs.manifest import collect_manifest
from pcam_lightning.runs.status import recording


@command("collect")
def main(config: Config) -> Path:
    from pcam_lightning.collect.report import write_collection
    from pcam_lightning.collect.watch import watch
    from pcam_lightning.slurm.cancel import cancel
    from pcam_lightning.slurm.jobs import job_states
    from pcam_lightning.slurm.usage import job_usage
    from pcam_lightning.slurm.watch import Watch
    from pcam_lightning.sweeps.jobs import JobState

    folder, sweep = Path(config["run_dir"]), config["runs"]
    paths = [sweep] if isinstance(sweep, str) else sweep
    slurm = Watch()
    ask, look_up = (slurm.queued_jobs, slurm.job_ends) if config["watch"] else (None, None)

    def look() -> list[JobState]:
        return [job for path in paths for job in job_states(path, ask, look_up)]

    if not look():
        raise InputError(f"runs={sweep}: no runs found, expected the folder of a sweep")
    if config["cancel"]:
        for path in paths:
            if (Path(path) / "sweep.json").is_file():
                cancelled = cancel(job_states(path))
                print(f"cancelled: {len(cancelled)} jobs of {path}", flush=True)
    completed = not config["watch"] or watch(look, config["every_seconds"])
    jobs = look()
    manifest = collect_manifest(command=sys.orig_argv, seed=None, dataset={})
    with recording(folder, manifest):
        save_resolved(config, folder)
        summary = write_collection(folder, jobs, config["metric"], job_usage(jobs))
    unknown = [job for job in jobs if job.state == "unknown"]
    problems = []
    if summary["failures"]:
        problems.append(f"{len(summary['failures'])} of {len(jobs)} jobs ended without a result")
    if unknown:
        reason = unknown[0].error or f"{unknown[0].folder} has no status.json"
        problems.append(f"the state of {len(unknown)} of {len(jobs)} jobs is unknown: {reason}")
    if problems and completed:
        raise CheckFailed("; ".join(problems), folder / "summary.json")
    return folder / "summary.json"


if __name__ == "__main__":
    main()
