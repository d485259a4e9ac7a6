"""Checks before a model is handed over: is it the one that was trained, and may it be used?"""

from __future__ import annotations

from pcam_lightning.checks.contents import Comparison, ExportSummary, read_summary
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.weights.license import describe_license, is_noncommercial, license_facts

QUANTIZED = "_int8"
"""Part of the name of files that differ on purpose."""


def equal_export(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that every exported file was compared with PyTorch and gives equal probabilities."""
    summary = read_summary(folder, ExportSummary)
    files = summary.files if isinstance(summary.files, dict) else {}
    if summary.model is not None:
        files = {"model.onnx": summary.model}
    if not files:
        return not_applicable(f"no file was exported: `{COMMANDS['export']}`")
    for name, found in files.items():
        if not found.patches or found.largest_difference is None:
            return issue(f"{name} was not compared with PyTorch")
    different = {name: each for name, each in files.items() if not _is_equal(each)}
    texts = "; ".join(_describe(name, each) for name, each in (different or files).items())
    if not different:
        return passed(texts)
    return (tip if all(QUANTIZED in name for name in different) else issue)(texts)


def backbone_license(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the license of pretrained weights is stated and restricts no use."""
    backbone = license_facts(folder.run.manifest.get("backbone"))
    if backbone is None:
        return passed("no published weights: every weight was trained from random values")
    text = f"backbone {describe_license(backbone)}"
    is_free = backbone["license"] is not None and not is_noncommercial(backbone["license"])
    return (passed if is_free else tip)(text, "manifest.json")


def _is_equal(found: Comparison) -> bool:
    return (found.largest_difference or 0) <= found.tolerance and not found.flipped_decisions


def _describe(name: str, found: Comparison) -> str:
    text = (
        f"{name} differs from PyTorch by at most {found.largest_difference:.1e} on "
        f"{found.patches:,} patches, {found.flipped_decisions or 0:,} flipped decisions"
    )
    before, after = (found.auroc.get(key) for key in ("pytorch", "exported"))
    if not _is_equal(found) and before is not None and after is not None:
        text += f", AUROC {after:.4f} instead of {before:.4f}"
    return text
