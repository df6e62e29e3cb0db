#!/usr/bin/env bash
# Fetches the CUDA libraries libtorch's GPU part needs (2 GB to download) and unpacks them beside it, where its rpath finds them.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/libtorch.sh
if [ -L .libtorch/torch ]; then
    echo "error: libtorch is your own ($(readlink .libtorch/torch)); its CUDA libraries belong beside it: install that torch with CUDA" >&2
    exit 1
fi
if [ -e .libtorch/nvidia/cudnn/lib ]; then
    exit
fi
echo "cuda: downloading the pinned wheels (2 GB) into .libtorch/"
rm -rf .libtorch/wheels
mkdir -p .libtorch/wheels
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_18 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 "${platforms[@]}" --dest .libtorch/wheels --requirement scripts/cuda.txt
for wheel in .libtorch/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" .libtorch/unpacked
done
cp -r --link .libtorch/unpacked/nvidia/. .libtorch/nvidia/
rm -rf .libtorch/wheels .libtorch/unpacked
echo "cuda: ready; \`diptych doctor\` lists the devices"
