#!/usr/bin/env bash
# Make the README's pictures and figures anew: the main job on the demo set, with cnn and with mlp.
set -euo pipefail
cd "$(dirname "$0")/.."

run() {
  rm -rf "outputs/readme/$1"
  python -m pcam_lightning.train data=demo optimizer=adam model="$1" hydra.run.dir="outputs/readme/$1"
}
run cnn
run mlp
mkdir -p docs
cp outputs/readme/cnn/plots/{patches_test,metrics,gradient_norm}.png docs/
