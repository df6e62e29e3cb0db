#!/usr/bin/env bash
# Speed and memory: the loader and one view, the loss, the optimizers, and the loss at 65,536 images. One profile only, so
# that libtorch's bindings are not built again.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p results
for bench in augment loss optim loss_memory; do
    echo "== $bench"
    cargo bench --locked --profile release --bench "$bench" 2>/dev/null | tee "results/bench-$bench.txt"
done
