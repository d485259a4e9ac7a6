"""Checks of an evaluation: calibration, slices, attribution, and its data."""

from __future__ import annotations

from pcam_lightning.checks.contents import (
    EvaluateSummary,
    TrainSummary,
    read_summary,
)
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.runs.files import MissingRunFileError

SHOWN_SLICES = 3


def calibration(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the calibration error is not larger than a perfectly calibrated model's."""
    found = read_summary(folder, EvaluateSummary).calibration
    costs = found.after or found.before
    error = costs and costs.ece
    if error is None or error.value is None or error.if_perfect_high is None:
        return not_applicable(f"no calibration error: `{COMMANDS['evaluate']}`")
    when = "after calibration" if found.after else "without calibration"
    facts = (
        f"calibration error {error.value:.3f} {when}, of a perfectly calibrated model at most "
        f"{error.if_perfect_high:.3f}"
    )
    return passed(facts) if error.value <= error.if_perfect_high else issue(facts)


def weak_slices(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that no slice of the patches is significantly worse than the whole split."""
    slices = read_summary(folder, EvaluateSummary).slices
    if not slices.scored:
        return not_applicable(f"no slice was scored: `{COMMANDS['evaluate']}`")
    if not slices.worse:
        return passed(f"none of {slices.scored} slices is worse than the whole split")
    shown = ", ".join(
        f"{each.property} {each.slice} ({', '.join(each.metrics)})"
        for each in slices.worse[:SHOWN_SLICES]
    )
    more = len(slices.worse) - SHOWN_SLICES
    facts = f"{len(slices.worse)} of {slices.scored} slices are worse: {shown}"
    facts += f" and {more} more" if more > 0 else ""
    if slices.slides_known:
        return issue(facts)
    return tip(f"{facts}; slides are not known, so patches are treated as independent")


def attribution(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that decisions rest on the center of a patch, which alone defines the label."""
    found = read_summary(folder, EvaluateSummary).attribution
    shares = {} if found is None else {k: v for k, v in found.in_center.items() if v is not None}
    if found is None or not shares:
        return not_applicable(
            f"no attribution: `{COMMANDS['evaluate']} evaluate.attribution=occlusion`"
        )
    mean = sum(shares.values()) / len(shares)
    facts = (
        f"{mean:.0%} of the attribution ({found.method}) lies in the center 32 x 32 pixels, "
        f"which are {found.area_of_center:.0%} of the area"
    )
    return passed(facts) if mean >= 0.5 else tip(f"most lies outside: {facts}")


def other_data(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that a model was evaluated on the data set that it was trained for."""
    inference = read_summary(folder, EvaluateSummary).inference
    stored = folder.run.threshold
    digest = (inference and inference.weights_digest) or (stored and stored.weights_digest)
    run = digest and _run_of(digest, inputs)
    if not run or folder.fingerprint is None or run.fingerprint is None:
        return not_applicable(
            f"the training run of this model is not among the inputs: `{COMMANDS['train']}`",
            "manifest.json",
        )
    facts = f"fingerprint {folder.fingerprint[:12]}, of the training data {run.fingerprint[:12]}"
    if folder.fingerprint == run.fingerprint:
        return passed(facts, "manifest.json")
    return issue(f"evaluated on other data than trained for: {facts}", "manifest.json")


def _run_of(digest: str, inputs: Inputs) -> Folder | None:
    """Return the training run whose best checkpoint has these weights."""
    for folder in inputs.of_kind("train"):
        try:
            if read_summary(folder, TrainSummary).weights_digest == digest:
                return folder
        except MissingRunFileError:  # not finished
            continue
    return None
