"""Model card: what a model was trained on, how well it works, and where it does not."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markdown_it import MarkdownIt

from pcam_lightning import __version__
from pcam_lightning.evaluate.analysis import analyze
from pcam_lightning.evaluate.report import SHOWN, describe_flags
from pcam_lightning.export.comparison import SMALL_BATCHES, Comparison
from pcam_lightning.export.target import ExportTarget
from pcam_lightning.files import atomic_write
from pcam_lightning.metrics.interval_text import describe_interval
from pcam_lightning.runs.hardware import read_hardware
from pcam_lightning.runs.markdown import markdown
from pcam_lightning.weights.license import describe_license

HUB_METRICS = {"auroc": "roc_auc", "accuracy": "accuracy", "f2": "f2", "sensitivity": "recall"}
"""Names of metrics on the Hugging Face Hub."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 900px; margin: 0 auto;
  padding: 0 20px 60px; overflow-wrap: anywhere; }
h2 { margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; text-align: left; border-bottom: 1px solid #eee; }
</style></head><body>
{{ body | safe }}</body></html>
"""


def write_card(
    folder: Path,
    target: ExportTarget,
    comparisons: Mapping[str, Comparison],
    *,
    with_speed: bool = True,
    names: tuple[str, str] = ("model_card.md", "model_card.html"),
) -> None:
    """Write the card as Markdown, with the front matter of the Hugging Face Hub, and as HTML.

    Args:
        folder: existing folder.
        target: the exported model.
        comparisons: file name to its comparison with PyTorch.
        with_speed: report the speed on this machine; the card then differs from run to run.
        names: of the two files.
    """
    facts = describe(target, comparisons, with_speed)
    text = _environment().get_template("card.md.j2").render(facts)
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert front and body
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE)
    title = f"{facts['model']} on {facts['dataset']['name']}"
    atomic_write(folder / names[0], text)
    atomic_write(folder / names[1], page.render(title=title, body=parser.render(body)))


def describe(
    target: ExportTarget, comparisons: Mapping[str, Comparison], with_speed: bool
) -> dict[str, Any]:
    """Return every fact of the card."""
    run, threshold = target.run, target.threshold
    manifest, summary, features = run.manifest, run.summary, run.features
    split = "test" if "test" in target.tables else "val"
    value = 0.5 if threshold is None else threshold.value
    offset = target.served.prior_offset
    analysis = analyze(
        target.tables, split, target.prevalence, prior_offset=offset, threshold=value
    ).summary
    scores, model = analysis[split], manifest["config"]["model"]
    dataset = {"name": "not stated", "fingerprint": None} | dict(manifest.get("dataset", {}))
    data = summary.get("data") or {}
    excluded = (manifest["config"].get("data") or {}).get("exclude") is not None
    dropped = data.get("dropped") or {}
    hardware = manifest.get("hardware") or {}
    facts = {
        "model": target.model_name,
        "backbone": _backbone(target.backbone),
        "backbone_license": "none used"
        if target.backbone is None
        else describe_license(target.backbone),
        "target": model["_target_"],
        "parameters": sum(each.numel() for each in target.served.network.parameters()),
        "dataset": dataset,
        "decision_threshold": target.decision_threshold,
        "rows": ", ".join(f"{n:,} {each}" for each, n in (data.get("rows") or {}).items()),
        "prevalence": target.prevalence,
        "left_out": f"{dropped.get('blank', 0):,} blank patches, "
        f"{dropped.get('excluded', 0):,} with findings of an audit",
        "duplicates": "left out where the audit's findings named them"
        if excluded
        else "not stated; python -m pcam\\_lightning.audit counts them",
        "seed": manifest.get("seed"),
        "commit": (manifest.get("git") or {}).get("commit") or "not stated",
        "package_version": __version__,
        "torch_version": (manifest.get("packages") or {}).get("torch", "not stated"),
        "weights_digest": summary.get("weights_digest") or "not stated",
        "speed": _speed(summary.get("training_patches_per_second"), hardware),
        "split": split,
        "scores": scores,
        "metrics": SHOWN,
        "threshold": threshold,
        "intervals": describe_interval(scores["interval"]["slides"]),
        "calibration_text": _calibration_text(target.served.temperature, offset),
        "flags": describe_flags(analysis["slices"]),
        "calibration": analysis["calibration"],
        "slices": analysis["slices"]["scored"],
        "worse": analysis["slices"]["worse"],
        "ranges": features and {name: _range(each) for name, each in features["quantiles"].items()},
        "batch_sizes": ", ".join(map(str, SMALL_BATCHES)),
        "comparisons": {name: each.facts() for name, each in comparisons.items()},
        "speeds": {name: each.patches_per_second for name, each in comparisons.items()}
        if with_speed
        else None,
        "hardware": _device(read_hardware() | {"gpus": []}),
    }
    return facts | {"front_matter": _front_matter(facts)}


def _backbone(backbone: Mapping[str, Any] | None) -> str:
    if backbone is None:
        return "none: every weight was trained from random values"
    return f"{backbone['name']}, weights with SHA-256 {backbone['digest']}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # the filter `md` escapes text; the page is rendered without HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": markdown, "number": _number, "count": lambda n: f"{n:,}"}
    return environment


def _calibration_text(temperature: float, offset: float) -> str:
    """Return what happens to logits before the sigmoid, as a sentence; empty if nothing does."""
    parts = []
    if offset:
        parts.append(
            f"{offset:+.4g} is added to logits, because training drew both classes equally often"
        )
    if temperature != 1:
        parts.append(f"logits are divided by {temperature:.4g}, fitted on validation")
    text = "; ".join(parts)
    return text and f"{text[0].upper()}{text[1:]}."


def _number(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.3f}"


def _range(quantiles: list[float]) -> list[str]:
    """Return the 1 %, 50 % and 99 % quantiles of equally spaced quantiles."""
    last = len(quantiles) - 1
    return [f"{quantiles[round(share * last)]:.3f}" for share in (0.01, 0.5, 0.99)]


def _speed(patches_per_second: float | None, hardware: Mapping[str, Any]) -> str:
    if patches_per_second is None:
        return "not stated"
    return f"{patches_per_second:,.0f} patches a second on {_device(hardware)}"


def _device(hardware: Mapping[str, Any]) -> str:
    gpus = [str(each.get("name", "GPU")) for each in hardware.get("gpus") or []]
    cores = f"{hardware.get('cpu_cores')} cores of {hardware.get('cpu')}"
    return ", ".join(gpus) or cores


def _front_matter(facts: Mapping[str, Any]) -> str:
    """Return the YAML block that the Hugging Face Hub reads."""
    scores = facts["scores"]["metrics"]
    known = {name: scores[name]["value"] for name in HUB_METRICS}
    metrics = [
        {"type": HUB_METRICS[name], "name": name, "value": value}
        for name, value in known.items()
        if value is not None
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {
            "name": facts["dataset"]["name"],
            "type": facts["dataset"]["name"],
            "split": facts["split"],
        },
        "metrics": metrics,
    }
    values = {
        "license": "unknown",
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["pathology", "histopathology", "patch-camelyon"],
        "model-index": [{"name": facts["model"], "results": [result]}],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"
