#!/usr/bin/env bash
# Print what single changes of a recipe gain on validation, over seeds 1, 2 and 3, and what they cost.
# Validation patches come from the laboratories of the training patches. What a change gains on
# others shows on the same patches in random stain colors.
#
#   bash scripts/levers.sh experiment=minutes_3 data.root=FOLDER   # overrides apply to every run
#   bash scripts/levers.sh experiment=minutes_3 data.root=FOLDER -- optimizer.lr=0.02 augment=none
#
# The changes follow --, each with its overrides in one word of the shell. Runs share the machine, one
# process with one thread for each core. Their folders are in OUT (outputs/levers); finished ones are
# not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

overrides=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  overrides+=("$1")
  shift
done
levers=("${@:2}")
if [ ${#levers[@]} -eq 0 ]; then
  levers=(
    "optimizer=adam"
    "data.batch_size=64"
    "callbacks=averaged"
    "augment=dihedral"
    "model.center_max=false"
    "model.channels=[16,32,96,192]"
    "model.channels=[24,48,96,192]"
  )
fi
levers=("" "${levers[@]}") # the recipe itself comes first
export OUT=${OUT:-outputs/levers}
cores=$(nproc) # before the next line, which it obeys
export OMP_NUM_THREADS=1
for number in "${!levers[@]}"; do
  for seed in 1 2 3; do
    echo "${levers[number]} seed=$seed hydra.run.dir=$OUT/$number/$seed"
  done
done | xargs -L 1 -P "$cores" python -m pcam_lightning.train "${overrides[@]}"
for folder in "$OUT"/*/[123]; do
  if [ ! -f "$folder/evaluate/summary.json" ]; then
    echo "run=$folder hydra.run.dir=$folder/evaluate"
  fi
done | xargs -r -L 1 -P "$cores" python -m pcam_lightning.evaluate split=val \
  evaluate.stain_jitter=0.25 evaluate.resamples=100

python - "${levers[@]}" <<'PY'
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score


def folders(number):
    return [Path(os.environ["OUT"]) / str(number) / seed for seed in "123"]


def read(number):
    """Return AUROC on validation, AUROC there in random stain colors, and seconds of each seed."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders(number)]
    auroc = [each["val"]["metrics"]["auroc"]["value"] for each in summaries]
    evaluations = [each / "evaluate/summary.json" for each in folders(number)]
    facts = [json.loads(each.read_text())["inference"]["stain_jitter"] for each in evaluations]
    jittered = [each["auroc"]["val"] for each in facts]
    return np.array([auroc, jittered, [each["seconds"] for each in summaries]])


def spread(values, sign=""):
    return f"{values.mean():{sign}.4f} ± {values.std(ddof=1):.4f}"


*recipe, seconds = read(0)
print("| change | validation AUROC | gain | p | in random stain colors | gain | p | time |")
print("|---|---|---|---|---|---|---|---|")
print(f"| none | {spread(recipe[0])} | | | {spread(recipe[1])} | | | 1 |")
for number, lever in enumerate(sys.argv[2:], 1):
    *scores, duration = read(number)
    cells = [f"`{lever}`"]
    for auroc, before in zip(scores, recipe, strict=True):
        p = ttest_rel(auroc, before).pvalue
        cells += [spread(auroc), spread(auroc - before, "+"), f"{p:.3f}"]
    print(f"| {' | '.join(cells)} | {duration.mean() / seconds.mean():.2f} |")
tables = [pd.read_parquet(folder / "predictions/val.parquet") for folder in folders(0)]
together = roc_auc_score(tables[0]["label"], sum(table["logit"] for table in tables))
gain = together - recipe[0].mean()
print(f"| mean logit of the three seeds | {together:.4f} | {gain:+.4f} | | | | | {len(tables):.2f} |")
PY
