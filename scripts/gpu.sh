#!/usr/bin/env bash
# Everything that takes an NVIDIA GPU to show, into a directory:
#     bash scripts/gpu.sh [--build] DIRECTORY [CHECKPOINT]
# devices.txt   the tests of devices, on the GPU too
# ours.md       kernels beside a copy, the block beside its products and candle's operations
# pytorch.md    the same block by PyTorch, where python3 has it
# memory.md     drift and forward of a checkpoint [default: the one inside the program]: seconds, and the GPU's memory
# What was built lies in DIRECTORY/bin. With --build it stops there, and a machine with a GPU and without Rust takes it.
set -euo pipefail
fail() { echo "gpu.sh: $1" >&2; exit 1; }

only_build=
if [ "${1:-}" = --build ]; then only_build=1; shift; fi
mkdir -p "${1:?a directory for what comes out}"
out=$(realpath "$1") model=${2:+--model $(realpath "$2")}
cd "$(dirname "$0")/.."

[ -n "$only_build" ] || nvidia-smi -L > /dev/null 2>&1 || fail "there is no GPU: nvidia-smi finds none"

if [ ! -d "$out/bin" ]; then
    built=$(cargo build --release --locked --features cuda --bin gemma-mlp --test library --test drift --bench cuda \
        --message-format json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    mkdir "$out/bin"
    for file in $built; do
        name=$(basename "$file")
        cp "$file" "$out/bin/${name%-????????????????}" # without cargo's hash
    done
fi
[ -z "$only_build" ] || exit 0

# CUDA's libraries out of PyTorch's wheels, where they are not installed.
wheels=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2> /dev/null || true)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$wheels/cu13/lib

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.csv"
{
    export GEMMA_MLP_REQUIRE=gpu
    "$out/bin/library" devices:: --nocapture
    "$out/bin/drift" model_on_devices:: --nocapture
} 2>&1 | tee "$out/devices.txt"
"$out/bin/cuda" | tee "$out/ours.md"
if python3 -c 'import torch' 2> /dev/null; then
    python3 scripts/bench_cuda.py | tee "$out/pytorch.md"
else
    echo "python3 has no PyTorch; it is not measured"
fi

# Runs a command; a row with its seconds and the most memory that the GPU had in use.
row() {
    local start=$EPOCHREALTIME used most=0
    "${@:2}" > /dev/null &
    while kill -0 $! 2> /dev/null; do
        used=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -1)
        most=$((used > most ? used : most))
    done
    wait $! || fail "failed: ${*:2}"
    awk -v name="$1" -v from="$start" -v to="$EPOCHREALTIME" -v most="$most" \
        'BEGIN { printf "| %s | %.1f | %d |\n", name, to - from, most }'
}

# The same words four times over: of a longer text memory must not be more.
cat docs/gelu.md > "$out/text.txt"
for _ in 1 2 3 4; do cat docs/gelu.md; done > "$out/longer.txt"
{
    printf '| | seconds | MiB at most |\n|---|---|---|\n'
    for dtype in bf16 f16 f32; do
        row "forward, $dtype" "$out/bin/gemma-mlp" forward $model --dtype $dtype --text "$out/text.txt"
        row "drift, $dtype" "$out/bin/gemma-mlp" drift $model --dtype $dtype --text "$out/text.txt"
        row "drift, $dtype, four times the text" "$out/bin/gemma-mlp" drift $model --dtype $dtype --text "$out/longer.txt"
    done
} | tee "$out/memory.md"
