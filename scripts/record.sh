#!/usr/bin/env bash
# Measure a row of docs/records.md: a recipe over three seeds, in turn with the previous record.
#
#   bash scripts/record.sh "what changed" COMMIT experiment=NAME data.root=FOLDER
#   bash scripts/record.sh "what changed" COMMIT experiment=NEW data.root=FOLDER -- experiment=OLD data.root=FOLDER
#
# COMMIT is the commit of the previous record, or "none". A recipe is a training and the evaluation of
# its best checkpoint with the mean over eight orientations, or a sweep and the mean of its runs'
# logits; its minutes are the wall time of all its commands. Overrides apply to the training; those
# after -- to that of the previous record, if it had others. Run nothing else on the machine at the
# same time.
set -euo pipefail
cd "$(dirname "$0")/.."
changed=$1 previous=$2
shift 2
overrides=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  overrides+=("$1")
  shift
done
before=("${@:2}")
if [ ${#before[@]} -eq 0 ]; then before=("${overrides[@]}"); fi

out=outputs/record
rm -rf "$out"
mkdir -p "$out"
codes=(new)
if [ "$previous" != none ]; then
  git worktree add --quiet --detach "$PWD/$out/code" "$previous"
  trap 'git worktree remove --force "$PWD/$out/code"' EXIT
  codes=(previous new)
fi

# Evaluate into the folder $1/evaluate; the other arguments are overrides.
evaluate() {
  python -m pcam_lightning.evaluate "${@:2}" evaluate.threshold=youden "hydra.run.dir=$1/evaluate"
}

# The current folder would come before PYTHONPATH.
export PYTHONSAFEPATH=1
for seed in 1 2 3; do
  for code in "${codes[@]}"; do
    folder="$PWD/$out/$code/$seed" root=$PWD arguments=("${overrides[@]}")
    if [ "$code" = previous ]; then root=$PWD/$out/code arguments=("${before[@]}"); fi
    start=$(date +%s.%N)
    export PYTHONPATH=$root
    python -m pcam_lightning.train "${arguments[@]}" "seed=$seed" \
      "hydra.run.dir=$folder" "hydra.sweep.dir=$folder"
    if [ ! -f "$folder/multirun.yaml" ]; then
      evaluate "$folder" "run=$folder" evaluate.tta=d4
    else
      scored=
      for run in "$folder"/[0-9]*; do
        evaluate "$run" "run=$run" evaluate.tta=d4
        scored+=,$run/evaluate
      done
      evaluate "$folder" "predictions=[${scored:1}]"
    fi
    date +%s.%N | awk -v start="$start" '{print ($1 - start) / 60}' >"$folder/minutes"
  done
done

python - "$changed" "$out" <<'PY'
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp, ttest_ind

changed, out = sys.argv[1], Path(sys.argv[2])


def read(code):
    """Return minutes, test AUROC and test accuracy of each seed."""
    folders = sorted((out / code).glob("[0-9]*"))
    summaries = [json.loads((each / "evaluate/summary.json").read_text()) for each in folders]
    metrics = [each["test"]["metrics"] for each in summaries]
    minutes = [float((each / "minutes").read_text()) for each in folders]
    scores = [[m[key]["value"] for m in metrics] for key in ("auroc", "accuracy")]
    return tuple(map(np.array, (minutes, *scores)))


minutes, auroc, accuracy = read("new")
reached = "none of them"
for bound in (0.93, 0.95, 0.96, 0.97):
    if (p := ttest_1samp(auroc, bound, alternative="greater").pvalue) < 0.05:
        reached = f"{bound} (p = {p:.3f})"
cells = [date.today().isoformat(), changed, f"{minutes.mean():.1f}", reached]
cells += [f"{each.mean():.4f} ± {each.std(ddof=1):.4f}" for each in (auroc, accuracy)]
if (out / "previous").exists():
    before, score, _ = read("previous")
    p = ttest_ind(auroc, score, equal_var=False, alternative="greater").pvalue
    cells.append(f"{before.mean():.1f} min, {score.mean():.4f}, p = {p:.3f}")
else:
    cells.append("none")
print("| date | change | minutes | test AUROC above | test AUROC | accuracy | previous record, again |")
print("|---" * len(cells) + "|")
print(f"| {' | '.join(cells)} |")
PY
