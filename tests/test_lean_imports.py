"""Lightning starts without what no run needs, and whoever uses the rest gets it."""

import subprocess
import sys
from pathlib import Path

from pcam_files import SPLITS

from pcam_lightning.data.files import SplitFiles

HEAVY = {
    "matplotlib", "pandas", "scipy.optimize", "scipy.signal", "sympy", "torch._dynamo.eval_frame",
    "torchmetrics.functional", "torchvision", "transformers", "triton",
}  # fmt: skip
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
metric.plot()
"""
COMPILE = """
import sys
import torch
from lightning.fabric.wrappers import OptimizedModule
network = torch.nn.Linear(3, 1)
optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
def step(network):
    optimizer.zero_grad()
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
step(network)
assert not isinstance(network, OptimizedModule)
assert "torch._dynamo.eval_frame" not in sys.modules
compiled = torch.compile(network, backend="eager")
assert isinstance(compiled, OptimizedModule) and not isinstance(network, OptimizedModule)
before = network.weight.clone()
step(compiled)
assert not network.weight.equal(before)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
assert "graph_break" not in torch._dynamo.utils.counters
whole = torch.compile(step, backend="eager")  # the optimizer breaks its graph
whole(network)
"""

FORKS = """
import os, traceback
import pcam_lightning, scipy.signal, torch
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lightning_starts_without_the_rest() -> None:
    loaded = run("import pcam_lightning, lightning, sys; print(*sys.modules)").split()
    assert {"torchmetrics.metric", "torch._dynamo"} <= set(loaded)
    assert not HEAVY & set(loaded)


def test_every_use_of_the_rest_works() -> None:
    cases = {"compilation after steps without the compiler": COMPILE}
    for place, (name, use) in enumerate(USES.items()):
        lines = [use, "import lightning"]
        if place % 2:  # after Lightning
            lines.reverse()
        cases[name] = "\n".join([*lines, SCORE])
    run(f"cases = {cases!r}\n{FORKS}")


def test_the_first_training_step_comes_without_them(tmp_path: Path, pcam_root: Path) -> None:
    for split, rows in zip(SPLITS, (48, 20, 20), strict=True):
        slides = "".join(f"slide_{row}\n" for row in range(rows))
        SplitFiles(pcam_root, split).meta.write_text(f"wsi\n{slides}")
    first_step = "+callbacks.first_step._target_=pcam_lightning.benchmark.startup.FirstStep"
    command = [sys.executable, "-X", "importtime", "-m", "pcam_lightning.train", first_step]
    command += [f"data.root={pcam_root}", "data.batch_size=16", f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"torch", "pcam_lightning.engine.module"} <= loaded
    assert not HEAVY & loaded
