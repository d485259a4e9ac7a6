#!/usr/bin/env bash
# Make the pictures and numbers of the README: training on the demo set with cnn and mlp, a
# comparison of two learning rates, an evaluation of the mlp, an audit of a damaged demo set, and the
# tour, whose page is drawn by Chromium.
set -euo pipefail
cd "$(dirname "$0")/.."

# First, since its report would name pictures that are not committed.
rm -rf outputs/readme/tour
python -m pcam_lightning.tour hydra.run.dir=outputs/readme/tour
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,1350 \
  --screenshot=docs/report.png "file://$PWD/outputs/readme/tour/report/report.html"

run() {
  rm -rf "outputs/readme/$1"
  python -m pcam_lightning.train data=demo optimizer=adam hydra.run.dir="outputs/readme/$1" "${@:2}"
}
run cnn model=cnn
run mlp model=mlp
run mlp_slow model=mlp optimizer.lr=1e-3
rm -rf outputs/readme/compare
python -m pcam_lightning.compare 'runs=[outputs/readme/mlp,outputs/readme/mlp_slow]' \
  hydra.run.dir=outputs/readme/compare
mkdir -p docs
cp outputs/readme/compare/plots/curves.png docs/compare_curves.png
rm -rf outputs/readme/evaluate
python -m pcam_lightning.evaluate run=outputs/readme/mlp evaluate.threshold="'recall>=0.95'" \
  evaluate.attribution=occlusion evaluate.gallery=8 hydra.run.dir=outputs/readme/evaluate
cp outputs/readme/evaluate/plots/threshold_val.png docs/evaluate_threshold.png
cp outputs/readme/evaluate/plots/least_certain_attribution.png docs/evaluate_attribution.png
rm -rf outputs/readme/predict
python -m pcam_lightning.evaluate run=outputs/readme/cnn
python -m pcam_lightning.predict run=outputs/readme/cnn predict.gallery=16 \
  input=data/demo/v2_seed0_4096_1024_1024/camelyonpatch_level_2_split_test_x.h5 hydra.run.dir=outputs/readme/predict
cp outputs/readme/predict/plots/contact_sheet.png docs/
rm -rf outputs/readme/audit
python -m pcam_lightning.audit data=demo data.demo.damage=true data.demo.dtype=float32 \
  'audit.fail_on=[]' hydra.run.dir=outputs/readme/audit
cp outputs/readme/audit/plots/intensity.png docs/audit_intensity.png
cp outputs/readme/audit/plots/found_contradiction.png docs/audit_contradiction.png
cp outputs/readme/cnn/plots/{patches_test,metrics,gradient_norm}.png docs/
