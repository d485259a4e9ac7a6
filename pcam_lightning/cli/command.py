"""Start of every command: its config, its exit code, and the report of invalid input."""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pcam_lightning.cli import plugins
from pcam_lightning.cli.arguments import checked_arguments
from pcam_lightning.cli.faults import report, report_environment
from pcam_lightning.cli.printing import keep_printing
from pcam_lightning.config.compose import CONF, Config, validated, validated_in
from pcam_lightning.errors import (
    CheckFailed,
    Diverged,
    InputError,
    Preempted,
    printable,
)
from pcam_lightning.runs.contents import read_manifest
from pcam_lightning.runs.process import is_first_rank
from pcam_lightning.runs.resume import finished_summary
from pcam_lightning.runs.status import check_free
from pcam_lightning.slurm.requeue import requeue


def command(name: str) -> Callable[[Callable[[Config], Path | None]], Callable[[], None]]:
    """Turn a function of a plain config dict into the command `python -m pcam_lightning.<name>`.

    The root config is `conf/<name>.yaml`, its schema `schema.ROOTS[name]`. The function returns
    the path of its summary, which is printed last; None if there is none. Invalid input is
    reported in one line on stderr with exit code 2; a failed check or diverged training in one line
    with exit code 1; a bug with its traceback and exit code 1. Output that cannot be written does
    not fail a run (see `printing`). A finished run is not repeated: the command prints its summary
    and exits with 0.
    """

    def decorate(function: Callable[[Config], Path | None]) -> Callable[[], None]:
        @functools.wraps(function)
        def task(cfg: DictConfig) -> None:
            # sys.exit, since Hydra would add lines to an ordinary exception, and Slurm would count
            # the job as a success.
            keep_printing()
            code = 0
            try:
                config = validated(name, cfg)
                summary = _finished_before(config) or function(config)
            except InputError as error:
                sys.exit(report(error))
            except OSError as error:
                sys.exit(report_environment(error))
            except Preempted as stop:
                if is_first_rank():
                    hint = "the run is saved; repeat the command in the same folder to continue"
                    print(f"preempted: {stop}; {hint}", file=sys.stderr, flush=True)
                requeue(stop.number)
                sys.exit(stop.exit_code)
            except Diverged as failure:
                if is_first_rank():
                    print(f"failed: {failure}", file=sys.stderr, flush=True)
                sys.exit(1)
            except CheckFailed as failure:
                summary, code = failure.summary, 1
                print(f"failed: {printable(str(failure))}", file=sys.stderr, flush=True)
            except Exception:
                # Hydra would pickle the exception; Slurm would see a success, and an empty log.
                if "SUBMITIT_EXECUTOR" not in os.environ:
                    raise
                traceback.print_exc()
                sys.exit(1)
            if is_first_rank() and summary is not None:
                print(f"summary: {summary}", flush=True)
            if code:
                sys.exit(code)

        def main() -> None:
            keep_printing()
            # Hydra raises composition errors instead of printing many lines and exiting with 1.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            plugins.register()
            try:
                sys.argv[1:] = checked_arguments(name, sys.argv[1:])
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(task)()
            except (InputError, HydraException, OmegaConfBaseException) as error:
                sys.exit(report(error))
            except (OSError, ValueError) as error:  # ValueError: logging cannot open its file
                sys.exit(report_environment(error))

        return main

    return decorate


def save_resolved(config: Config, folder: Path) -> None:
    """Replace the config that Hydra saved in a run folder by the resolved config.

    Hydra saves interpolations, whose values may change later.
    """
    (folder / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")


class ConfigCheck(Callback):
    """A Hydra callback that checks a single run's config and folder before Hydra writes there.

    It exits on a fault, since Hydra turns an exception of a callback into a warning.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.run.dir).absolute()
        try:
            _check_launcher(config)
            plain = validated_in(folder, config)
            if summary := finished_summary(plain, folder):
                if is_first_rank():
                    print(f"finished: {folder} holds this run\nsummary: {summary}", flush=True)
                sys.exit(0)
            if is_first_rank():
                check_free(folder, resume=plain.get("ckpt_path") is not None)
        except (InputError, OmegaConfBaseException) as error:
            sys.exit(report(error))
        except OSError as error:
            sys.exit(report_environment(error))


def _check_launcher(config: DictConfig) -> None:
    """Raise `InputError` if a launcher is chosen for a command that runs here, without it."""
    launcher = config.hydra.runtime.choices.get("hydra/launcher", "basic")
    if launcher != "basic" and config.hydra.job.name != "sweep":
        raise InputError(
            f"hydra/launcher={launcher}: without --multirun the command would run here, on this "
            "machine, and not as a job; expected --multirun, or no launcher"
        )


def _finished_before(config: Config) -> Path | None:
    """Return the summary of a job's run if the run has finished: Slurm may requeue an ended job."""
    if config["run_dir"] is None:  # the doctor on a full disk
        return None
    folder = Path(config["run_dir"])
    summary = finished_summary(config, folder)
    if summary is not None and is_first_rank():
        # Hydra has overwritten the run's config with this job's.
        save_resolved(read_manifest(folder / "manifest.json")["config"], folder)
        print(f"finished: {folder} holds this run", flush=True)
    return summary
