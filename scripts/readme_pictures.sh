#!/usr/bin/env bash
# Make the README's pictures and figures anew: the main job on the demo set, with cnn and with mlp,
# and an audit of a damaged demo set.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  rm -rf "outputs/readme/$1"
  python -m pcam_lightning.train data=demo optimizer=adam model="$1" hydra.run.dir="outputs/readme/$1"
}
run cnn
run mlp
mkdir -p docs
rm -rf outputs/readme/audit
python -m pcam_lightning.audit data=demo data.demo.damage=true data.demo.dtype=float32 \
  'audit.fail_on=[]' hydra.run.dir=outputs/readme/audit
cp outputs/readme/audit/plots/intensity.png docs/audit_intensity.png
cp outputs/readme/audit/plots/found_contradiction.png docs/audit_contradiction.png
cp outputs/readme/cnn/plots/{patches_test,metrics,gradient_norm}.png docs/
