"""Lightning starts without the metrics of torchmetrics, and whoever uses them gets them."""

import subprocess
import sys

HEAVY = ("scipy.signal", "torchvision", "transformers", "torchmetrics.functional")
USES = {
    "a metric": "import torchmetrics; m = torchmetrics.AUROC(task='binary')",
    "a name of a submodule": "from torchmetrics.classification import BinaryAUROC",
    "a function": "from torchmetrics.functional.classification import binary_auroc",
}
SCORE = """
import torch
from torchmetrics import AUROC, Metric
import lightning.pytorch.core.module as module
assert module.Metric is Metric
metric = AUROC(task="binary")
assert isinstance(metric, Metric)
scores, labels = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])
assert float(metric(scores, labels)) == 0.75
"""
FORKS = """
import os, traceback
import pcam_lightning, scipy.signal, torch, torchvision
for name, code in cases.items():
    child = os.fork()
    if child == 0:
        try:
            exec(code, {})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""
"""Each case runs in a fork of a process that has imported what takes long."""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lightning_starts_without_the_metrics() -> None:
    code = "import pcam_lightning, lightning, sys; print(*sys.modules)"
    loaded = run(code).split()
    assert "torchmetrics.metric" in loaded
    assert not set(HEAVY) & set(loaded)


def test_every_use_of_torchmetrics_works() -> None:
    cases = {}
    for place, (name, use) in enumerate(USES.items()):
        lines = [use, "import lightning"]
        if place % 2:  # after Lightning
            lines.reverse()
        cases[name] = "\n".join([*lines, SCORE])
    run(f"cases = {cases!r}\n{FORKS}")
