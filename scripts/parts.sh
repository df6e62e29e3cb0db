#!/usr/bin/env bash
# Whether trained features find parts that raw pixels cannot: SimCLR on scenes whose parts differ by texture alone, three seeds.
#
#     scripts/parts.sh [FOLDER] [STEPS]
#
# trains into FOLDER/seed-N (runs/parts unless given) for STEPS steps (150) and prints, for each seed, the agreement of the
# clusters with the true parts: trained network, untrained network, raw pixels on the grid of block group 2. What is there
# already is gone on with. results/2026-11-parts.md has what it printed.
set -euo pipefail
cd "$(dirname "$0")/.."
diptych=${DIPTYCH:-target/release/diptych}
folder=${1:-runs/parts}
steps=${2:-150}

for seed in 0 1 2; do
  run=$folder/seed-$seed
  "$diptych" pretrain scenes/simclr --data 'synthetic:scenes?parts=texture&train=640&test=240' --out "$run" \
    seed=$seed backbone.width=0.125 backbone.stem=cifar data.batch_size=64 train.max_steps="$steps" \
    train.schedule.warmup_epochs=0 train.knn.every_epochs=0 train.threads=1 data.threads=1 \
    'view.0.steps.0.scale=[0.1,0.125]' 'view.0.steps.0.ratio=[0.9,1.1]' view.0.steps.2.hue=0.5 \
    view.0.steps.2.saturation=0.8 view.0.steps.3.probability=0.5
  "$diptych" analyze parts "$run" --name trained --untrained --pixels \
    parts.size=96 parts.picture=96 parts.blocks=2,3,4 parts.clusters=4,5 parts.raw_grid=48 images=24 threads=1
done
