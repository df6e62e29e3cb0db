#!/usr/bin/env bash
# Writes THIRD_PARTY.md: every package the program is built from, with its licence, and what libtorch brings.
# Needs cargo and Python 3.10 or newer; cargo reads the packages it has, and downloads what other platforms would use.
set -euo pipefail
cd "$(dirname "$0")/.."
all=$(mktemp)
here=$(mktemp)
trap 'rm -f "$all" "$here"' EXIT
cargo metadata --locked --format-version 1 >"$all"
cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu >"$here"
python3 scripts/third_party.py "$all" "$here" THIRD_PARTY.md
echo "THIRD_PARTY.md"
