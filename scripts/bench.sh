#!/usr/bin/env bash
# Everything that is claimed of speed and memory, in one go: the parts of `proof`, beside the peer where its Python packages
# are there, then the benches of single pieces. Results go to results/bench/; one that is there gives way to a whole new one
# only. With words, only those parts: speed loader memory limit accuracy, or augment loss tiled optim loss_memory.
#
# CIFAR10, PHOTOGRAPHS: folders of pictures; without them, pictures are made. PEER_PYTHON: a Python that has lightly.
set -uo pipefail
cd "$(dirname "$0")/.."
export DIPTYCH_BENCH_CIFAR10=${CIFAR10:-${DIPTYCH_BENCH_CIFAR10:-}}
export DIPTYCH_BENCH_PHOTOGRAPHS=${PHOTOGRAPHS:-${DIPTYCH_BENCH_PHOTOGRAPHS:-}}
results=results/bench
mkdir -p "$results"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
trap 'exit 130' INT TERM

# One profile only, so that libtorch's bindings are not built again.
bench() {
    local name=$1
    shift
    cargo bench --locked --quiet --profile release --bench "$name" -- "$@"
}

proof=() pieces=()
for part in "${@:-}"; do
    case $part in
        "") proof=(speed loader memory limit) pieces=(augment loss tiled optim loss_memory) ;;
        speed | loader | memory | limit | accuracy) proof+=("$part") ;;
        augment | loss | tiled | optim | loss_memory) pieces+=("$part") ;;
        *) echo "there is no part \`$part\`; known are speed loader memory limit accuracy augment loss tiled optim loss_memory" >&2
           exit 2 ;;
    esac
done

failed=()
if ((${#proof[@]})); then
    bench proof "${proof[@]}"
    code=$?
    ((code == 130)) && exit 130
    ((code == 0)) || failed+=("${proof[*]}")
fi
((${#pieces[@]})) && machine=$(bench proof --machine)
for name in "${pieces[@]}"; do
    echo "== $name"
    # Nothing is compared with earlier runs of this checkout, which a record should not depend on.
    options=(--discard-baseline)
    [[ $name == loss_memory ]] && options=()
    { echo "$machine"; echo; } > "$temporary/$name.txt"
    if bench "$name" "${options[@]}" 2> "$temporary/errors" | tee -a "$temporary/$name.txt"; then
        cp "$temporary/$name.txt" "$results/$name.txt.tmp" && mv "$results/$name.txt.tmp" "$results/$name.txt"
    else
        tail -n 20 "$temporary/errors" >&2
        failed+=("$name")
    fi
done
if ((${#failed[@]})); then
    echo "not whole: ${failed[*]}" >&2
    exit 1
fi
