"""Checks of reproducibility: determinism, recorded code, equal environments, repetitions."""

from __future__ import annotations

from pcam_lightning.checks.contents import (
    ReproduceSummary,
    read_comparison,
    read_manifest,
    read_summary,
    setting,
)
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.provenance.record import MATTERS, Provenance

KINDS = ("code", "package", "python", "data")
"""Kinds of facts that the runs of a sweep must share."""
SHOWN = 5


def determinism(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that a run on a GPU used deterministic algorithms."""
    manifest = read_manifest(folder)
    gpus = (manifest.hardware or {}).get("gpus")
    if manifest.determinism is None or manifest.hardware is None:
        return not_applicable(
            f"no settings of determinism are recorded: `{COMMANDS['train']}`", "manifest.json"
        )
    if not gpus or setting(manifest.config, "trainer.accelerator") == "cpu":
        return passed("trained on a CPU", "manifest.json")
    if manifest.determinism.get("deterministic_algorithms") is True:
        return passed("trained on a GPU with deterministic algorithms", "manifest.json")
    return tip(
        "trained on a GPU without deterministic algorithms, so that a repetition differs; set "
        "trainer.deterministic=true",
        "manifest.json",
    )


def recorded_code(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the code of a run is a commit, or a commit with recorded changes."""
    git = read_manifest(folder).git
    if git.commit is None:
        reason = f" ({git.note})" if git.note else ""
        return issue(f"no commit is recorded{reason}; train in a git checkout", "manifest.json")
    if git.patch_left_out:
        names = ", ".join(git.patch_left_out[:SHOWN])
        return issue(f"uncommitted files are not in code.patch: {names}", "manifest.json")
    if git.dirty:
        return tip(f"uncommitted changes of {git.commit[:12]} are in code.patch", "code.patch")
    return passed(f"commit {git.commit[:12]} without changes", "manifest.json")


def equal_environments(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the runs of a sweep had the same code, packages, Python and data."""
    if len(folder.members) < 2:
        return not_applicable(f"a single run: `{COMMANDS['sweep']}`", "manifest.json")
    facts = [Provenance.of(member.run).facts() for member in folder.members]
    keys = dict.fromkeys(key for each in facts for key in each if key[0] in KINDS)
    sources = all(any(kind == "code" and name != "commit" for kind, name in each) for each in facts)
    different = []
    for kind, name in keys:
        if (kind, name) == ("code", "commit") and sources:
            continue  # the digests of the sources decide
        if name not in MATTERS.get(kind, (name,)):
            continue
        values = list(dict.fromkeys(str(each.get((kind, name))) for each in facts))
        if len(values) > 1:
            different.append(f"{kind} {name} ({' and '.join(value[:16] for value in values[:2])})")
    if not different:
        return passed(
            f"{len(facts)} runs have the same code, packages, Python and data", "manifest.json"
        )
    more = len(different) - SHOWN
    text = ", ".join(different[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return issue(f"{len(facts)} runs differ in {text}", "manifest.json")


def repetition(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the repetition of a run was bit-identical."""
    summary = read_summary(folder, ReproduceSummary)
    return (passed if summary.identical else issue)(summary.verdict)


def explained_differences(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that compared runs have other weights only where a recorded fact differs."""
    report = read_comparison(folder)
    facts = [each for each in report.differences if each.matters]
    unexplained, without_effect = [], []
    for place, pair in enumerate(report.pairs, start=1):
        name = report.names[place] if place < len(report.names) else str(place)
        causes = [each for each in facts if each.values[place : place + 1] != each.values[:1]]
        if pair.same_weights is False and not causes:
            unexplained.append(name)
        if pair.same_weights and (keys := [c.name for c in causes if c.kind == "config"]):
            without_effect.append(f"{', '.join(keys[:SHOWN])} ({name})")
    if unexplained:
        return issue(
            f"other weights than the first run's, though no recorded fact differs: "
            f"{', '.join(unexplained[:SHOWN])}",
            "compare.json",
        )
    if without_effect:
        return tip(f"settings without effect: {'; '.join(without_effect)}", "compare.json")
    return passed("every difference of weights has a recorded cause", "compare.json")
