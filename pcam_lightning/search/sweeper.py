"""Hydra sweeper that chooses each batch of jobs by the scores of the previous ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pcam_lightning.config import schema
from pcam_lightning.config.compose import of_command
from pcam_lightning.config.override_text import override
from pcam_lightning.errors import InputError
from pcam_lightning.runs.resume import weight_settings
from pcam_lightning.runs.run import Run, is_run_folder
from pcam_lightning.runs.status import check_free, is_alive
from pcam_lightning.search.trial_job import trial_overrides
from pcam_lightning.slurm.hydra_private import SweepLoader
from pcam_lightning.slurm.job_config import JobConfig, compose
from pcam_lightning.slurm.launcher import CheckingLauncher
from pcam_lightning.slurm.submission import PlannedJob

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from pcam_lightning.search.space import Space

COMPARABLE = ("metric", "pruner", "startup_trials", "warmup_epochs", "seed")
"""Settings that must not change when a search continues."""


class OptunaSweeper(Sweeper):
    """A sweeper that asks Optuna for settings, launches runs, and reports their scores to Optuna.

    Trial N is job N, and its run is in the subfolder N of the sweep. Scores are read from run
    folders and not from the launcher's return values, so that every launcher works. A failed run is
    a failed trial, and the search continues; a preempted run ends the search. Started again in the
    same sweep folder, the search continues with the unfinished trials there.

    The arguments are the keys of `conf/hydra/sweeper/optuna.yaml`.
    """

    def __init__(self, **settings: Any) -> None:
        params = settings.pop("params", None)
        self.settings: dict[str, Any] = settings | {"params": params and dict(params)}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self._context, self._config = hydra_context, config
        self._loader = SweepLoader(hydra_context.config_loader, config)
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        schema.check_search(self.settings)
        try:
            from pcam_lightning.search import report, space, study
        except ImportError as error:
            raise InputError(
                f"sweep=optuna: {error}; expected pip install 'pcam-lightning[optuna]'"
            ) from None
        settings, metric = self.settings, self.settings["metric"]
        given = [f"{key}={value}" for key, value in (settings["params"] or {}).items()]
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        self.space: Space = space.read_space(parser.parse_overrides([*given, *arguments]))
        self.folder = Path(self._config.hydra.sweep.dir).absolute()
        self.storage = Path(settings["storage"] or self.folder / "study.journal").absolute()
        configs = [of_command(self._job(0, corner).checked) for corner in self.space.corners()]
        corner = next(self.space.corners())
        if any(self._job(n, corner).folder != self.folder / str(n) for n in range(2)):
            sweep: Any = OmegaConf.to_container(self._config.hydra.sweep)
            raise InputError(
                f"hydra.sweep.subdir={sweep['subdir']}: a search keeps trial N in the folder N; "
                "expected ${hydra.job.num}"
            )
        with exclusive_lock(self.folder):
            OmegaConf.save(self._config, self.folder / "multirun.yaml")
            self.storage.parent.mkdir(parents=True, exist_ok=True)
            begun_with = self._begun_with(configs[0])
            self.study: Study = study.open_study(
                self.storage, settings["study"], metric, begun_with
            )
            if self._is_left:
                self._leave()
                return
            self._wait_for_jobs()
            for trials in self._left_behind():
                self._run(trials)
            report.write_report(self.folder, self.study, metric)
            while (left := settings["trials"] - len(self.study.trials)) > 0:
                count = min(left, settings["parallel"])
                ask = (self.study, self.space, settings["seed"], settings["startup_trials"])
                self._run([study.ask(*ask) for _ in range(count)])
                report.write_report(self.folder, self.study, metric)
        failed = report.count_failed(self.study)
        if failed:
            print(f"failed: {failed} of {len(self.study.trials)} trials", file=sys.stderr)
        print(f"study: {self.folder / 'study.json'}", flush=True)
        if failed == len(self.study.trials):
            sys.exit(1)

    @property
    def _is_left(self) -> bool:
        """True if this process ends after submission and the jobs search by themselves."""
        return bool(getattr(self._launcher, "params", {}).get("detach"))

    def _leave(self) -> None:
        """Submit a job for each trial that is left to run. At most `parallel` run at a time."""
        from optuna.trial import TrialState

        from pcam_lightning.search.study import read_outcome, tell
        from pcam_lightning.search.trial_job import TrialJob, settled_data

        assert isinstance(self._launcher, CheckingLauncher)
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            if outcome := read_outcome(self._run_folder(trial), self.settings["metric"]):
                tell(self.study, trial, outcome)
        for _ in range(self.settings["trials"] - len(self.study.trials)):
            self.study.ask()
        left = [trial.number for trial in self.study.get_trials(states=[TrialState.RUNNING])]
        if not left:
            print(f"finished: all {self.settings['trials']} trials of {self.folder}", flush=True)
            return
        self._launcher.params["array_parallelism"] = self.settings["parallel"]
        OmegaConf.update(self._loader.master, "hydra.sweep.dir", str(self.folder))
        # In folders that do not exist, so that no earlier run is compared with these configs.
        beyond = self.settings["trials"]
        corners = [self._job(beyond + n, each) for n, each in enumerate(self.space.corners())]
        state = Singleton.get_state()
        job = TrialJob(
            *(self._launcher, self._loader, self.space, self.settings, self.storage, self.folder),
            data={},
        )

        def plan(configs: Sequence[JobConfig]) -> list[PlannedJob]:
            job.data = settled_data(configs)
            return [
                PlannedJob(n, (), lambda _, n=n: self.folder / str(n), (n, state)) for n in left
            ]

        self._launcher.start(corners, plan, job)

    def _wait_for_jobs(self) -> None:
        """Wait for the jobs of an earlier start; a second job must not write to the same run."""
        if not (self.folder / "sweep.json").is_file():
            return
        from optuna.trial import TrialState

        from pcam_lightning.slurm.jobs import job_states
        from pcam_lightning.slurm.watch import Watch

        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        numbers, printed = {trial.number for trial in running}, None
        watch = Watch(lambda text: print(text, flush=True))
        while active := [
            job.number
            for job in job_states(self.folder, watch.queued_jobs, watch.job_ends)
            if job.number in numbers and not job.has_ended
        ]:
            if active != printed:
                trials = ", ".join(map(str, active))
                print(f"waiting for jobs of an earlier start: trials {trials}", flush=True)
            printed = active
            time.sleep(1)

    def _left_behind(self) -> Iterator[list[FrozenTrial]]:
        """Yield an earlier start's resumable trials, in batches of consecutive numbers.

        Trials whose runs have ended are reported to the study.
        """
        from optuna.trial import TrialState

        from pcam_lightning.search.study import draw, read_outcome, tell

        batch: list[FrozenTrial] = []
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            folder = self._run_folder(trial)
            check_free(folder, resume=True)
            outcome = read_outcome(folder, self.settings["metric"])
            if outcome is not None:
                tell(self.study, trial, outcome)
                continue
            settings = self.settings
            search = (self.space, settings["seed"], settings["startup_trials"])
            trial = draw(self.study, trial.number, *search)
            full = len(batch) == self.settings["parallel"]
            if batch and (full or trial.number != batch[-1].number + 1):
                yield batch
                batch = []
            batch.append(trial)
        if batch:
            yield batch

    def _run(self, trials: Sequence[FrozenTrial]) -> None:
        """Launch trials of consecutive numbers, and report their outcomes to the study.

        A launcher may stop at the first job that fails; jobs that have not begun are launched
        again.
        """
        while trials:
            begins = [self._begin_time(trial) for trial in trials]
            jobs = [self._overrides(trial.number, trial.params) for trial in trials]
            code = None
            try:
                self._launcher.launch(jobs, initial_job_idx=trials[0].number)
                begun = list(trials)
            except (Exception, SystemExit) as error:
                code = error.code if isinstance(error, SystemExit) else None
                pairs = zip(trials, begins, strict=True)
                begun = [trial for trial, before in pairs if self._begin_time(trial) != before]
                if not begun:
                    raise
                if not isinstance(error, SystemExit):
                    print(f"launcher: {type(error).__name__}: {error}", file=sys.stderr)
            self._settle(begun, code if isinstance(code, int) and code > 128 else None)
            trials = [trial for trial in trials if trial not in begun]

    def _settle(self, trials: Sequence[FrozenTrial], signalled: int | None) -> None:
        """Report the outcomes of trials to the study; exit if a run was stopped to be resumed."""
        from pcam_lightning.search.study import Outcome, read_outcome, tell

        stopped = []
        for trial in trials:
            folder = self._run_folder(trial)
            state = wait_for(folder)
            outcome = read_outcome(folder, self.settings["metric"])
            if outcome is None and (signalled or state == "preempted"):
                stopped.append(trial.number)
                continue
            outcome = outcome or Outcome(reason=self._cause(trial.number, state))
            tell(self.study, trial, outcome)
            if outcome.reason:
                print(f"trial {trial.number}: failed: {outcome.reason}", file=sys.stderr)
        if stopped:
            print(
                f"stopped in trial {', '.join(map(str, stopped))}: repeat the command with "
                f"{override('hydra.sweep.dir', str(self.folder))} to continue",
                file=sys.stderr,
            )
            sys.exit(signalled or 1)

    def _cause(self, number: int, state: str | None) -> str:
        """Return why a trial has no outcome, in the words of `collect`."""
        from pcam_lightning.slurm.jobs import job_states
        from pcam_lightning.sweeps.jobs import FAILURES

        if (self.folder / "sweep.json").is_file():
            for job in job_states(self.folder, numbers={number}):
                if job.state in FAILURES:
                    return f"{job.state}: {job.error}" if job.error else job.state
        return "killed" if state else "never started"

    def _run_folder(self, trial: FrozenTrial) -> Path:
        return self.folder / str(trial.number)

    def _begin_time(self, trial: FrozenTrial) -> int | None:
        """Return when the trial's job last began; Hydra writes this file first."""
        path = self._run_folder(trial) / ".hydra" / "overrides.yaml"
        return path.stat().st_mtime_ns if path.is_file() else None

    def _overrides(self, number: int, parameters: Mapping[str, Any]) -> list[str]:
        return trial_overrides(self.space, self.settings, self.storage, number, parameters)

    def _job(self, number: int, parameters: Mapping[str, Any]) -> JobConfig:
        overrides = self._overrides(number, parameters)
        return compose(self._loader, overrides, number)

    def _begun_with(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings that must not change when the search continues."""
        config["callbacks"].pop("pruning", None)
        shared = weight_settings(config)
        search = {f"hydra.sweeper.{key}": self.settings[key] for key in COMPARABLE}
        if self.settings["storage"]:  # the journal does not lie beside the runs
            search["hydra.sweep.dir"] = str(self.folder)
        return shared | self.space.texts | search


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder for one search; create it if needed. Raise `InputError` if it is locked."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".search.lock", timeout=0):
            yield
    except Timeout:
        raise InputError(
            f"{folder}: another search is running here; wait for it, stop it, or choose another "
            "folder"
        ) from None


def wait_for(folder: Path) -> str | None:
    """Wait until a run's process has ended; return the run's state, None if it has not begun.

    A launcher may stop at a failed job while others are still running.
    """
    if not is_run_folder(folder):
        return None
    while (run := Run(folder)).state == "running" and is_alive(run.status):
        time.sleep(1)
    return run.state
