#!/usr/bin/env bash
# Makes the pictures of README.md and docs/, with the program from made data: a few minutes.
#
#     scripts/pictures.sh [RUNS]
#
# trains two networks below RUNS (runs/pictures unless given; finished ones are taken as they are): the short one of
# results/2026-11-parts.md, for docs/parts.svg and docs/gradients.svg, and that of `make demo`, for docs/map.svg and
# docs/negatives.svg. docs/views.png needs none. No picture may be above 200 kB. DIPTYCH names another program.
set -euo pipefail
cd "$(dirname "$0")/.."
diptych=${DIPTYCH:-target/release/diptych}
runs=${1:-runs/pictures}
parts=$runs/parts demo=$runs/demo

"$diptych" views scenes/simclr --data synthetic:scenes --images 3 --out docs/views.png > /dev/null

"$diptych" pretrain scenes/simclr --data 'synthetic:scenes?parts=texture&train=640&test=240' --out "$parts" \
  backbone.width=0.125 backbone.stem=cifar data.batch_size=64 data.threads=1 train.max_steps=150 train.threads=1 \
  train.schedule.warmup_epochs=0 train.knn.every_epochs=0 'view.0.steps.0.scale=[0.1,0.125]' \
  'view.0.steps.0.ratio=[0.9,1.1]' view.0.steps.2.hue=0.5 view.0.steps.2.saturation=0.8 view.0.steps.3.probability=0.5
"$diptych" analyze parts "$parts" --name SimCLR --untrained --pixels --index 5 threads=1 \
  parts.size=96 parts.picture=64 parts.blocks=4 parts.clusters=2,4,5 parts.raw_grid=48
"$diptych" analyze gradients "$parts" backbone_only=true
cp "$parts/analyses/parts/image0-layers.svg" docs/parts.svg
cp "$parts/analyses/gradients/surface.svg" docs/gradients.svg

"$diptych" pretrain scenes/simclr --out "$demo"
"$diptych" analyze map "$demo" data.limit=300
"$diptych" analyze scores "$demo"
cp "$demo/analyses/map/tsne.svg" docs/map.svg
cp "$demo/analyses/scores/negatives.svg" docs/negatives.svg

for picture in docs/{parts,gradients,map,negatives}.svg docs/views.png; do
  bytes=$(stat -c %s "$picture")
  echo "$picture: $bytes bytes"
  if ((bytes > 200000)); then
    echo "pictures: $picture is larger than 200 kB" >&2
    exit 1
  fi
done
