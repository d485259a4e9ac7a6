"""Steps of the tour: the command lines that a user would type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DATA = ("data=demo", "data.demo.damage=true")
"""The demo set with damaged and copied patches, so that the audit has something to find."""


@dataclass(frozen=True)
class Step:
    """A command of the tour."""

    title: str
    command: str
    arguments: tuple[str, ...]

    @property
    def line(self) -> tuple[str, ...]:
        """The command line without the interpreter."""
        return ("-m", f"pcam_lightning.{self.command}", *self.arguments)


def plan(folder: Path, overrides: Sequence[str]) -> list[Step]:
    """Return the steps of a tour.

    Args:
        folder: the folder for the runs of all steps.
        overrides: further overrides of every step that reads the demo set or trains.
    """
    run, first = folder / "train", folder / "sweep" / "0"

    def step(title: str, command: str, *arguments: str) -> Step:
        return Step(title, command, (*arguments, f"hydra.run.dir={folder / command}"))

    sweep = ("--multirun", "model=cnn,mlp", "seed=1,2,3", "trainer.max_epochs=4")
    data = tuple(each for each in overrides if each.startswith("data."))
    return [
        step("Audit the data", "audit", *DATA, "audit.fail_on=[]", *data),
        Step(
            "Compare two networks, with three seeds each",
            "train",
            (*sweep, *DATA, *overrides, f"hydra.sweep.dir={folder / 'sweep'}"),
        ),
        step("Train one network for longer", "train", "model=cnn", *DATA, *overrides),
        step("Repeat a run, bit for bit", "reproduce", f"run={first}"),
        step(
            "Find out why two runs differ", "compare", f"runs=[{first},{folder / 'sweep' / '1'}]"
        ),
        step("Choose a threshold, look at the errors", "evaluate", f"run={run}"),
        step(
            "Measure the speed", "benchmark",
            "mode=train", "model=cnn", "benchmark.seconds=1", "benchmark.repeats=3", *DATA, *data,
        ),
        step("Export the network", "export", f"run={run}"),
        step("Write the report", "report", f"inputs=[{folder}]", "report.title=Tour"),
    ]  # fmt: skip
