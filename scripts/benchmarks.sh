#!/usr/bin/env bash
# Measure every table of docs/benchmarks.md into outputs/benchmarks/, one folder for each:
#
#   bash scripts/benchmarks.sh               # on the demo set, which it creates
#   bash scripts/benchmarks.sh trainer=gpu   # overrides apply to every benchmark
#
# Run nothing else on the machine at the same time.
set -euo pipefail
cd "$(dirname "$0")/.."

demo=(data=demo data.demo.train=16384 data.demo.valid=4096 data.demo.test=16)
run() {
  rm -rf "outputs/benchmarks/$1"
  python -m pcam_lightning.benchmark hydra.run.dir="outputs/benchmarks/$1" "${@:2}"
}
run startup "${demo[@]}" mode=startup "$@"
run steps "${demo[@]}" mode=train 'benchmark.models=[mlp,cnn]' benchmark.repeats=9 "$@"
run steps_resnet18 "${demo[@]}" mode=train model=resnet18 benchmark.repeats=3 \
  'benchmark.contenders=["bare loop",pcam_lightning]' "$@"
run epochs_mlp "${demo[@]}" mode=end_to_end model=mlp "$@"
run epochs_mlp_wide "${demo[@]}" mode=end_to_end model=mlp 'model.hidden=[512,256]' benchmark.repeats=3 "$@"
run forward "${demo[@]}" mode=forward 'benchmark.models=[mlp,cnn]' 'benchmark.precisions=[32,bf16]' \
  'benchmark.batch_sizes=[1,8,32,128,512]' "$@"
run loader "${demo[@]}" mode=loader "$@"
for rows in 1000 10000 100000; do
  run "rows_$rows" data=demo data.demo.train=$rows data.demo.valid=128 data.demo.test=16 mode=train model=mlp \
    'benchmark.contenders=[pcam_lightning]' "$@"
done
