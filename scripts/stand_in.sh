#!/usr/bin/env bash
# Runs a program of the feature cuda without a GPU, on a stand-in for NVIDIA's libraries (tests/kernels/stand_in.cpp):
#     bash scripts/stand_in.sh PROGRAM [ARGUMENTS]
# The program must open those libraries when it needs them (cudarc's dynamic-loading), not on its start.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
to=$root/target/stand-in
mkdir -p "$to"
${CXX:-c++} -std=c++17 -O2 -Wall -Wno-unknown-pragmas -ffp-contract=off -fno-math-errno -shared -fPIC \
    -I "$root/src/kernels/geglu/cuda" "$root/tests/kernels/stand_in.cpp" -o "$to/libcuda.so" -ldl
ln -sf libcuda.so "$to/libcublas.so"
ln -sf libcuda.so "$to/libcurand.so"
LD_LIBRARY_PATH=$to${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$@"
