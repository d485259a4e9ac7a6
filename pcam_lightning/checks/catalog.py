"""All checks, and the function that applies them to folders."""

from __future__ import annotations

from collections.abc import Sequence

from pcam_lightning.checks import (
    data,
    evaluation,
    handover,
    reproducibility,
    scores,
    speed,
    status,
    sweep,
    training,
)
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs, Kind
from pcam_lightning.checks.outcome import Check, Outcome, Verdict, issue, not_applicable
from pcam_lightning.errors import InputError, one_line
from pcam_lightning.runs.files import MissingRunFileError

TRAIN: tuple[Kind, ...] = ("train",)
SWEEP: tuple[Kind, ...] = ("sweep",)
AUDIT: tuple[Kind, ...] = ("audit",)
COMPARE: tuple[Kind, ...] = ("compare",)
EVALUATE: tuple[Kind, ...] = ("evaluate",)
RUNS: tuple[Kind, ...] = (
    "train", "audit", "evaluate", "compare", "reproduce", "benchmark", "export", "bundle", "other",
)  # fmt: skip

CHECKS = (
    Check("PC001", "State of the run", RUNS, status.finished),
    Check("PC101", "Constant predictors", TRAIN, scores.constant_predictors),
    Check("PC102", "Decision threshold", TRAIN, scores.decision_threshold),
    Check("PC103", "Validation and test", TRAIN, scores.validation_gap),
    Check("PC201", "Length of training", TRAIN, training.last_epoch_best),
    Check("PC202", "Overfitting", TRAIN, training.overfitting),
    Check("PC203", "Training loss", TRAIN, training.training_loss),
    Check("PC204", "Gradient clipping", TRAIN, training.clipping),
    Check("PC205", "Gradient spikes", TRAIN, training.spikes),
    Check("PC301", "Number of seeds", SWEEP, sweep.seeds),
    Check("PC302", "Range of a search", SWEEP, sweep.search_range),
    Check("PC303", "Lead of the best configuration", SWEEP, sweep.lead),
    Check("PC401", "Duplicates in the data", AUDIT, data.duplicates),
    Check("PC402", "Scores without duplicates", TRAIN + EVALUATE, data.scores_without_duplicates),
    Check("PC403", "Slides in several splits", AUDIT, data.slide_overlap),
    Check("PC404", "Damaged training patches", TRAIN, data.damage),
    Check("PC405", "Demo data", TRAIN + EVALUATE, data.demo_data),
    Check("PC501", "Calibration", EVALUATE, evaluation.calibration),
    Check("PC502", "Weak slices", EVALUATE, evaluation.weak_slices),
    Check("PC503", "Attribution outside the center", EVALUATE, evaluation.attribution),
    Check("PC504", "Data of an evaluation", EVALUATE, evaluation.other_data),
    Check("PC601", "Determinism", TRAIN, reproducibility.determinism),
    Check("PC602", "Recorded code", TRAIN, reproducibility.recorded_code),
    Check("PC603", "Environments of a sweep", SWEEP, reproducibility.equal_environments),
    Check("PC604", "Repetition of a run", ("reproduce",), reproducibility.repetition),
    Check("PC605", "Causes of differences", COMPARE, reproducibility.explained_differences),
    Check("PC701", "Waiting for data", TRAIN, speed.waiting_for_data),
    Check("PC702", "Share of the framework", ("benchmark",), speed.framework),
    Check("PC801", "Exported model", ("export", "bundle"), handover.equal_export),
    Check("PC802", "License of the backbone", TRAIN, handover.backbone_license),
)
"""All checks, in the order of their codes."""


def run_checks(inputs: Inputs, checks: Sequence[Check] = CHECKS) -> list[Outcome]:
    """Apply checks to every folder of their kind, and return the outcomes.

    A damaged file is an issue of the first check that reads it. A check without any folder of its
    kind, or whose file is missing, is not applicable.
    """
    outcomes: list[Outcome] = []
    faults: set[str] = set()
    for check in checks:
        folders = inputs.of_kind(*check.kinds)
        if not folders:
            text = f"no {check.kinds[0]} among the inputs: `{COMMANDS[check.kinds[0]]}`"
            state = "not applicable"
            outcomes.append(Outcome(check.code, check.title, state, text, None, None))
        for folder in folders:
            found = _judge(check, folder, inputs, faults)
            outcomes.append(
                Outcome(
                    check.code, check.title, found.state, one_line(found.text, 1000), found.file,
                    folder.path,
                )
            )  # fmt: skip
    return outcomes


def _judge(check: Check, folder: Folder, inputs: Inputs, faults: set[str]) -> Verdict:
    try:
        return check.judge(folder, inputs)
    except MissingRunFileError as error:
        command = COMMANDS.get(folder.kind, COMMANDS["train"])
        return not_applicable(f"{error}: `{command}`")
    except InputError as error:
        fault = str(error)
        seen = fault in faults
        faults.add(fault)
        return not_applicable(fault) if seen else issue(fault)
