#!/usr/bin/env bash
# Pre-trains SimCLR on the built-in scenes, judges it against raw pixels and untrained weights, and writes the report.
set -euo pipefail
cd "$(dirname "$0")/.."
diptych=target/release/diptych
run=${1:-runs/demo}

"$diptych" pretrain scenes/simclr --out "$run"
"$diptych" evaluate knn "$run" --baselines
"$diptych" evaluate linear "$run"
"$diptych" report "$run" >/dev/null
echo
echo "The report: $(pwd)/$run/report.html"
