"""A Hydra sweeper that chooses each batch of jobs by what the ones before it have scored."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pcam_lightning.config import schema
from pcam_lightning.config.compose import of_command
from pcam_lightning.errors import InputError
from pcam_lightning.runs.resume import weight_settings
from pcam_lightning.runs.run import Run, is_run_folder
from pcam_lightning.runs.status import check_free, is_alive
from pcam_lightning.slurm.job_config import JobConfig, compose

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from pcam_lightning.search.space import Space

COMPARABLE = ("metric", "pruner", "startup_trials", "warmup_epochs", "seed")
"""Settings of a search that have to stay when it goes on."""


PRUNING = ("study", "metric", "startup_trials", "warmup_epochs")
"""Those that the callback in each job has to know."""


class OptunaSweeper(Sweeper):
    """Ask Optuna for settings, hand them to the launcher, read the run folders, tell Optuna.

    Trial N is job N, and its run is in the folder N of the sweep. What a trial scored is read from
    there and not from what the launcher returns, so any launcher will do. A run that fails is a
    failed trial, and the search goes on; a run that is preempted ends it. Started again in the same
    sweep folder, it goes on with the trials that it finds unfinished there.

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
                f"hydra.sweep.subdir={sweep['subdir']}: a search keeps trial N in the folder N, "
                "expected ${hydra.job.num}"
            )
        with exclusive_lock(self.folder):
            OmegaConf.save(self._config, self.folder / "multirun.yaml")
            self.storage.parent.mkdir(parents=True, exist_ok=True)
            begun_with = self._begun_with(configs[0])
            self.study: Study = study.open_study(
                self.storage, settings["study"], metric, begun_with
            )
            self._wait_for_jobs()
            for trials in self._left_behind():
                self._run(trials)
            report.write_report(self.folder, self.study, metric)
            while (left := settings["trials"] - len(self.study.trials)) > 0:
                count = min(left, settings["parallel"])
                ask = (self.study, self.space, settings["seed"], settings["startup_trials"])
                self._run([study.ask(*ask) for _ in range(count)])
                report.write_report(self.folder, self.study, metric)
        failed = report.failed(self.study)
        if failed:
            print(f"failed: {failed} of {len(self.study.trials)} trials", file=sys.stderr)
        print(f"study: {self.folder / 'study.json'}", flush=True)
        if failed == len(self.study.trials):
            sys.exit(1)

    def _wait_for_jobs(self) -> None:
        """Let jobs end that an earlier start submitted and that go on without it.

        Launched again, two jobs would write to one run.
        """
        if not (self.folder / "sweep.json").is_file():
            return
        from optuna.trial import TrialState

        from pcam_lightning.slurm.jobs import job_states
        from pcam_lightning.slurm.queue import Watch

        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        numbers, said = {trial.number for trial in running}, None
        watch = Watch(lambda text: print(text, flush=True))
        while going := [
            job.number
            for job in job_states(self.folder, watch.states)
            if job.number in numbers and not job.has_ended
        ]:
            if going != said:
                trials = ", ".join(map(str, going))
                print(f"waiting for jobs of an earlier start: trials {trials}", flush=True)
            said = going
            time.sleep(1)

    def _left_behind(self) -> Iterator[list[FrozenTrial]]:
        """Trials of an earlier start whose runs can go on, in batches of consecutive numbers.

        Those that ended without being told are told.
        """
        from optuna.trial import TrialState

        from pcam_lightning.search.study import Outcome, read_outcome, tell

        batch: list[FrozenTrial] = []
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            folder = self._run_folder(trial)
            check_free(folder, resume=True)
            outcome = read_outcome(folder, self.settings["metric"])
            if trial.params.keys() != self.space.dimensions.keys():
                outcome = Outcome(reason="stopped before it began")
            if outcome is not None:
                tell(self.study, trial, outcome)
                continue
            full = len(batch) == self.settings["parallel"]
            if batch and (full or trial.number != batch[-1].number + 1):
                yield batch
                batch = []
            batch.append(trial)
        if batch:
            yield batch

    def _run(self, trials: Sequence[FrozenTrial]) -> None:
        """Launch trials of consecutive numbers, and tell how they ended.

        Launchers may give up at the first job that fails: what has not begun is launched again.
        """
        while trials:
            begins = [self._begin(trial) for trial in trials]
            jobs = [self._overrides(trial.number, trial.params) for trial in trials]
            code = None
            try:
                self._launcher.launch(jobs, initial_job_idx=trials[0].number)
                begun = list(trials)
            except (Exception, SystemExit) as error:
                code = error.code if isinstance(error, SystemExit) else None
                pairs = zip(trials, begins, strict=True)
                begun = [trial for trial, before in pairs if self._begin(trial) != before]
                if not begun:
                    raise
                if not isinstance(error, SystemExit):
                    print(f"launcher: {type(error).__name__}: {error}", file=sys.stderr)
            self._settle(begun, code if isinstance(code, int) and code > 128 else None)
            trials = [trial for trial in trials if trial not in begun]

    def _settle(self, trials: Sequence[FrozenTrial], signalled: int | None) -> None:
        """Tell the study of runs that have ended; exit where one is to go on later instead."""
        from pcam_lightning.search.study import Outcome, read_outcome, tell

        stopped = []
        for trial in trials:
            folder = self._run_folder(trial)
            state = wait_for(folder)
            outcome = read_outcome(folder, self.settings["metric"])
            if outcome is None and (signalled or state == "preempted"):
                stopped.append(trial.number)
                continue
            outcome = outcome or Outcome(reason="killed" if state else "never started")
            tell(self.study, trial, outcome)
            if outcome.reason:
                print(f"trial {trial.number}: failed: {outcome.reason}", file=sys.stderr)
        if stopped:
            print(
                f"stopped in trial {', '.join(map(str, stopped))}: the same command with "
                f"hydra.sweep.dir={self.folder} goes on",
                file=sys.stderr,
            )
            sys.exit(signalled or 1)

    def _run_folder(self, trial: FrozenTrial) -> Path:
        return self.folder / str(trial.number)

    def _begin(self, trial: FrozenTrial) -> int | None:
        """What changes when a run's job begins: Hydra writes this file first."""
        path = self._run_folder(trial) / ".hydra" / "overrides.yaml"
        return path.stat().st_mtime_ns if path.is_file() else None

    def _overrides(self, number: int, parameters: Mapping[str, Any]) -> list[str]:
        """What makes a job of a trial."""
        overrides = self.space.overrides(parameters)
        if self.settings["pruner"] is None:
            return overrides
        pruning = {
            "_target_": "pcam_lightning.search.pruning.Pruning",
            "storage": QuotedString(str(self.storage), Quote.single).with_quotes(),
            "trial": number,
            **{key: self.settings[key] for key in PRUNING},
        }
        return overrides + [f"+callbacks.pruning.{key}={value}" for key, value in pruning.items()]

    def _job(self, number: int, parameters: Mapping[str, Any]) -> JobConfig:
        overrides = self._overrides(number, parameters)
        return compose(self._context.config_loader, self._config, overrides, number)

    def _begun_with(self, config: dict[str, Any]) -> dict[str, Any]:
        """What has to be the same when the search goes on, or its trials cannot be compared."""
        config["callbacks"].pop("pruning", None)
        shared = weight_settings(config)
        search = {f"hydra.sweeper.{key}": self.settings[key] for key in COMPARABLE}
        if self.settings["storage"]:  # elsewhere than the runs: it has to find them again
            search["hydra.sweep.dir"] = str(self.folder)
        return shared | self.space.texts | search


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Raise `InputError` if another search is at work in a folder, which is made if not there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".search.lock", timeout=0):
            yield
    except Timeout:
        raise InputError(
            f"{folder}: another search is at work here; wait for it, stop it, or choose another "
            "folder"
        ) from None


def wait_for(folder: Path) -> str | None:
    """The state of a run when its process is gone; None where no run has begun.

    A launcher may give up at one job while others are still at work.
    """
    if not is_run_folder(folder):
        return None
    while (run := Run(folder)).state == "running" and is_alive(run.status):
        time.sleep(1)
    return run.state
