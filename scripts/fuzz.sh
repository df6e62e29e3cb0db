#!/usr/bin/env bash
# Fuzzes every reader of foreign bytes, a minute each: scripts/fuzz.sh [SECONDS [TARGET...]]
#
# Gets the nightly compiler and cargo-fuzz if they are missing. Inputs that reach something new are kept in fuzz/corpus,
# what is found goes to fuzz/artifacts and the output to fuzz/logs; run a finding again with
#   fuzz/target/<host>/release/TARGET fuzz/artifacts/TARGET/<file>
set -euo pipefail
cd "$(dirname "$0")/.."
toolchain=nightly-2026-10-30
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(recipe parquet tar idx cifar stl10 pickle mat image checkpoint weights tensors bundle features run)

command -v rustup >/dev/null || {
    echo "error: rustup is missing, without it there is no nightly compiler; install it with: curl https://sh.rustup.rs -sSf | sh" >&2
    exit 1
}
command -v c++ >/dev/null || {
    echo "error: a C++ compiler (c++) is missing, libFuzzer needs it; install it with: apt-get install g++" >&2
    exit 1
}
rustup toolchain list | grep -q "^$toolchain" || rustup toolchain install "$toolchain" --profile minimal
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked --version 0.13.2
export LIBTORCH=${LIBTORCH:-$PWD/.libtorch/torch}
[ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || {
    echo "error: libtorch is missing at \`$LIBTORCH\`; get it with: make libtorch" >&2
    exit 1
}
export LD_LIBRARY_PATH=$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# No sanitizer: our code is safe Rust, and panics and memory are watched by the targets themselves.
cargo "+$toolchain" fuzz build --sanitizer none
programs=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release

seeds() { # target
    case $1 in
        recipe) for file in recipes/*/*.toml; do cp "$file" "$2/$(basename "$(dirname "$file")")-$(basename "$file")"; done ;;
        tar) cp tests/golden/data/*.tar "$2" ;;
        pickle) cp tests/golden/data/*.pickle "$2" ;;
        tensors) cp tests/golden/weights/{views,views-legacy}.pth tests/golden/weights/{script.pt,numpy.4.pkl,cld.t7,bf16.safetensors} "$2" ;;
        mat) cp tests/golden/data/transfer/*.mat "$2" ;;
        image)
            cp tests/golden/decode/*.{jpg,png,webp,bmp,ppm,tif} "$2"
            cp tests/golden/data/grey16.{png,tif} "$2"
            ;;
        *) cp fuzz/seeds/"$1"/* "$2" ;;
    esac
}

# Readers that take paths get their inputs here, in memory where the system has that.
memory=/dev/shm
[ -w "$memory" ] || memory=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$memory/diptych-fuzz-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

failed=()
printf '%-12s %12s %8s %9s %9s\n' target executions seconds coverage features
for target in "${targets[@]}"; do
    mkdir -p fuzz/corpus/"$target" fuzz/artifacts/"$target" fuzz/logs
    seeds "$target" fuzz/corpus/"$target"
    log=fuzz/logs/$target.log
    outcome=0
    "$programs/$target" fuzz/corpus/"$target" -seed=1 -max_total_time="$seconds" -timeout=25 -rss_limit_mb=4096 \
        -print_final_stats=1 -artifact_prefix=fuzz/artifacts/"$target"/ >"$log" 2>&1 || outcome=$?
    last=$(grep -E '^#[0-9]+.* cov: ' "$log" | tail -1)
    printf '%-12s %12s %8s %9s %9s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(sed -n 's/^Done .* in \([0-9]*\) second.*/\1/p' "$log")" \
        "$(sed 's/.* cov: \([0-9]*\).*/\1/' <<<"$last")" "$(sed 's/.* ft: \([0-9]*\).*/\1/' <<<"$last")"
    if [ $outcome != 0 ]; then
        failed+=("$target")
        grep -m1 -E '^finding|ERROR: libFuzzer|panicked' "$log" || tail -5 "$log"
    fi
done
[ ${#failed[@]} -eq 0 ] || {
    echo "error: findings in ${failed[*]}; the inputs are in fuzz/artifacts, the output in fuzz/logs" >&2
    exit 1
}
