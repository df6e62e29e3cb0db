#!/usr/bin/env bash
# Everything that is claimed of speed and memory, in one go: the parts of `proof`, beside the peer where its Python packages
# are there, then the benches of single pieces. Results go to results/bench/; one that is there gives way to a whole new one
# only.
#
# scripts/bench.sh [--quick] [PART...]   parts: speed loader memory limit accuracy, augment loss tiled optim cost
#                                          cluster knn logistic tsne loss_memory
#
# Without a part: all but accuracy. --quick: small runs to see that everything works; nothing is written.
# CIFAR10, PHOTOGRAPHS: folders of pictures; without them, pictures are made. PEER_PYTHON: a Python that has lightly
# (and scikit-learn, for cluster, logistic and tsne).
set -uo pipefail
cd "$(dirname "$0")/.."
export DIPTYCH_BENCH_CIFAR10=${CIFAR10:-${DIPTYCH_BENCH_CIFAR10:-}}
export DIPTYCH_BENCH_PHOTOGRAPHS=${PHOTOGRAPHS:-${DIPTYCH_BENCH_PHOTOGRAPHS:-}}
results=results/bench
temporary=$(mktemp -d)
# Nothing is compared with what this checkout measured before.
export CRITERION_HOME=$temporary/criterion
trap 'rm -rf "$temporary"' EXIT
trap 'exit 130' INT TERM

# One profile only, so that libtorch's bindings are not built again.
bench() {
    local name=$1
    shift
    cargo bench --locked --quiet --profile release --bench "$name" -- "$@"
}

quick=() proof=() pieces=()
for word; do
    case $word in
        --quick) quick=(--quick) ;;
        speed | loader | memory | limit | accuracy) proof+=("$word") ;;
        augment | loss | tiled | optim | cost | cluster | knn | logistic | tsne | loss_memory) pieces+=("$word") ;;
        *) echo "there is no part \`$word\`, see the head of scripts/bench.sh" >&2 && exit 2 ;;
    esac
done
if ((${#proof[@]} + ${#pieces[@]} == 0)); then
    proof=(speed loader memory limit) pieces=(augment loss tiled optim cost cluster knn logistic tsne loss_memory)
fi

failed=()
if ((${#proof[@]})); then
    bench proof "${quick[@]}" "${proof[@]}" || failed+=("one of ${proof[*]}")
fi
if ((${#pieces[@]})); then
    machine=$(bench proof "${quick[@]}" --machine)
    printf '%s\n\n' "$machine"
fi
for name in "${pieces[@]}"; do
    echo "== $name"
    options=("${quick[@]}")
    case $name in
        loss_memory) options=(${quick:+4096}) ;;
        knn) options=(${quick:+1000 5000 128 1}) ;;
        logistic) options=(--every 4 ${quick:+--images 2000 --dimensions 64}) ;;
    esac
    printf '%s\n\n' "$machine" > "$temporary/$name"
    if bench "$name" "${options[@]}" 2> "$temporary/errors" | tee -a "$temporary/$name"; then
        [[ ${quick:-} ]] && continue
        mkdir -p "$results"
        cp "$temporary/$name" "$results/$name.txt.tmp" && mv "$results/$name.txt.tmp" "$results/$name.txt"
    else
        tail -n 20 "$temporary/errors" >&2
        failed+=("$name")
    fi
done
if ((${#failed[@]})); then
    printf 'not whole: %s\n' "${failed[@]}" >&2
    exit 1
fi
