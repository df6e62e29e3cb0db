#!/usr/bin/env bash
# Makes docs/parts.svg and docs/gradients.svg, pictures of README.md and docs/analyses.md, with the program from made data: a
# minute or two.
#
#     scripts/pictures.sh [RUN]
#
# trains the short network of results/2026-11-parts.md into RUN (runs/pictures unless given; a finished run is taken as it is).
# No picture may be above 200 kB. DIPTYCH names another program.
set -euo pipefail
cd "$(dirname "$0")/.."
diptych=${DIPTYCH:-target/release/diptych}
run=${1:-runs/pictures}

"$diptych" pretrain scenes/simclr --data 'synthetic:scenes?parts=texture&train=640&test=240' --out "$run" \
  backbone.width=0.125 backbone.stem=cifar data.batch_size=64 data.threads=1 train.max_steps=150 train.threads=1 \
  train.schedule.warmup_epochs=0 train.knn.every_epochs=0 'view.0.steps.0.scale=[0.1,0.125]' \
  'view.0.steps.0.ratio=[0.9,1.1]' view.0.steps.2.hue=0.5 view.0.steps.2.saturation=0.8 view.0.steps.3.probability=0.5
"$diptych" analyze parts "$run" --name SimCLR --untrained --pixels --index 5 threads=1 \
  parts.size=96 parts.picture=64 parts.blocks=4 parts.clusters=2,4,5 parts.raw_grid=48
"$diptych" analyze gradients "$run" backbone_only=true
cp "$run/analyses/parts/image0-layers.svg" docs/parts.svg
cp "$run/analyses/gradients/surface.svg" docs/gradients.svg
for picture in docs/parts.svg docs/gradients.svg docs/views.png; do
  bytes=$(stat -c %s "$picture")
  echo "$picture: $bytes bytes"
  if ((bytes > 200000)); then
    echo "pictures: $picture is larger than 200 kB" >&2
    exit 1
  fi
done
