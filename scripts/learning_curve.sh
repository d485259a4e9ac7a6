#!/usr/bin/env bash
# Print test AUROC by the number of training patches for an equivariant network and two plain ones, over
# seeds 1, 2 and 3, and what each curve predicts for the 262,144 patches of PCam.
#
#   bash scripts/learning_curve.sh data.root=FOLDER   # overrides apply to every run
#
# The plain networks have as many parameters, and about as many operations. Training is on the first
# patches of one order for each seed. Runs share the machine, one process with one thread for each
# core. Their folders are in outputs/learning_curve/; finished ones are not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

cores=$(nproc) # before the next line, which it obeys
export OMP_NUM_THREADS=1
while read -r name network; do
  while read -r patches batches epochs every; do
    for seed in 1 2 3; do
      echo "$network trainer.limit_train_batches=$batches trainer.max_epochs=$epochs" \
        "trainer.check_val_every_n_epoch=$every seed=$seed" \
        "hydra.run.dir=outputs/learning_curve/$name/$patches/$seed"
    done
  done <<'SIZES'
1000 10 40 8
5000 50 15 3
20000 200 6 2
SIZES
done <<'NETWORKS' | xargs -L 1 -P "$cores" python -m pcam_lightning.train \
  data.sampler=fixed data.batch_size=100 callbacks.early_stopping=null "$@"
equivariant model=p4m_cnn model.channels=[2,4,8,16]
parameters model=cnn model.channels=[6,12,24,48] model.center_max=false
operations model=cnn model.center_max=false
NETWORKS

python - <<'PY'
import json
import math
from pathlib import Path

import numpy as np
import torch
from scipy.stats import linregress, t, ttest_ind
from torch.utils.flop_counter import FlopCounterMode

from pcam_lightning.engine.module import PCamClassifier

SIZES, SEEDS, FULL = (1000, 5000, 20_000), (1, 2, 3), 262_144
NETWORKS = {
    "equivariant": "`p4m_cnn`",
    "parameters": "plain, equal parameters",
    "operations": "plain, similar operations",
}


def read(name):
    """Return test AUROC [sizes, seeds], the parameters and the operations of a patch."""
    root = Path("outputs/learning_curve") / name
    runs = [
        [json.loads((root / f"{size}/{seed}/summary.json").read_text()) for seed in SEEDS]
        for size in SIZES
    ]
    auroc = np.array([[run["test"]["metrics"]["auroc"]["value"] for run in row] for row in runs])
    network = PCamClassifier.load(root / f"{SIZES[-1]}/{SEEDS[-1]}")
    parameters = sum(each.numel() for each in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 96, 96, 3, dtype=torch.uint8))
    return auroc, parameters, counter.get_total_flops()


def predict(auroc):
    """Return the AUROC at FULL patches, and the bounds that a new run has with 95 %.

    The line log(1 - AUROC) = a + b log(patches), by least squares.
    """
    places, errors = np.log(np.repeat(SIZES, len(SEEDS))), np.log1p(-auroc.flatten())
    line = linregress(places, errors)
    rest = errors - line.intercept - line.slope * places
    distance = math.log(FULL) - places.mean()
    spread = 1 + 1 / len(places) + distance**2 / ((places - places.mean()) ** 2).sum()
    free = len(places) - 2
    width = t.ppf(0.975, free) * math.sqrt((rest**2).sum() / free * spread)
    center = line.intercept + line.slope * math.log(FULL)
    return 1 - np.exp([center, center + width, center - width])


found = {name: read(name) for name in NETWORKS}
reference = found["equivariant"][0]
sizes = [f"{size:,}" for size in SIZES]
print(f"| network | parameters | MFLOP | {' | '.join(sizes)} | {FULL:,}, predicted |")
print("|---" * (len(SIZES) + 4) + "|")
for name, label in NETWORKS.items():
    auroc, parameters, operations = found[name]
    cells = [label, f"{parameters:,}", f"{operations / 1e6:.0f}"]
    for row, other in zip(auroc, reference, strict=True):
        cell = f"{row.mean():.4f} ± {row.std(ddof=1):.4f}"
        if name != "equivariant":
            cell += f" (p = {ttest_ind(row, other, equal_var=False).pvalue:.3f})"
        cells.append(cell)
    value, low, high = predict(auroc)
    print(f"| {' | '.join([*cells, f'{value:.3f} [{low:.3f}, {high:.3f}]'])} |")
PY
