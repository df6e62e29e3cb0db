#!/usr/bin/env bash
# Puts libtorch 2.11.0 where the build looks for it: .libtorch/torch.
#
# In this order: LIBTORCH if set; a Python that has torch 2.11 (LIBTORCH_USE_PYTORCH=0 leaves it alone); else the pinned
# wheels, downloaded with pip and unpacked side by side, so that the wheel's own rpath finds the two CUDA libraries
# that even its CPU part links.
set -euo pipefail
cd "$(dirname "$0")/.."

missing() { # name, command that installs it
    echo "error: $1 is missing; install it with: $2" >&2
    exit 1
}
command -v cargo >/dev/null || missing "Rust (cargo)" "curl https://sh.rustup.rs -sSf | sh"
command -v c++ >/dev/null || missing "a C++ compiler (c++)" "apt-get install g++"

version=2.11.0
link() { # folder, why
    mkdir -p .libtorch
    ln -sfn "$1" .libtorch/torch
    echo "libtorch: $1 ($2)"
}

if [ -n "${LIBTORCH:-}" ]; then
    [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || {
        echo "error: LIBTORCH is \`$LIBTORCH\`, which has no lib/libtorch_cpu.so; unset it or point it to libtorch $version" >&2
        exit 1
    }
    link "$LIBTORCH" "from LIBTORCH"
    exit
fi
if [ -e .libtorch/torch/lib/libtorch_cpu.so ]; then
    exit
fi
command -v python3 >/dev/null || missing "Python (python3)" "apt-get install python3 python3-pip"
if [ "${LIBTORCH_USE_PYTORCH:-1}" != 0 ]; then
    found=$(python3 -c '
import os, torch
if torch.__version__.split("+")[0] == "'$version'" and torch.compiled_with_cxx11_abi():
    print(os.path.dirname(torch.__file__))' 2>/dev/null || true)
    if [ -n "$found" ]; then
        link "$found" "from the torch of $(command -v python3)"
        exit
    fi
fi
python3 -m pip --version >/dev/null 2>&1 || missing "pip" "apt-get install python3-pip"

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
if [ "$(uname -sm)" != "Linux x86_64" ] || [ "$(printf '%s\n' 2.28 "${glibc:-0}" | sort -V | head -1)" != 2.28 ]; then
    echo "error: the pinned libtorch needs Linux x86-64 with glibc 2.28 or newer; set LIBTORCH to a libtorch $version of yours" >&2
    exit 1
fi

echo "libtorch: downloading the pinned wheels (545 MB) into .libtorch/"
rm -rf .libtorch
mkdir -p .libtorch/wheels
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --dest .libtorch/wheels --requirement scripts/libtorch.txt
for wheel in .libtorch/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" .libtorch/unpacked
done
rm -rf .libtorch/wheels .libtorch/unpacked/functorch .libtorch/unpacked/torchgen
mv .libtorch/unpacked/nvidia .libtorch/nvidia
# Last, so that an interrupted set-up starts again.
mv .libtorch/unpacked/torch .libtorch/torch
rm -rf .libtorch/unpacked
echo "libtorch: ready in .libtorch/torch"
