#!/usr/bin/env bash
# The pictures in README.md and docs/gelu.md, from a run on the real Gemma 3 270M:
#   bash scripts/figures.sh DIRECTORY
set -euo pipefail
model=$(realpath "${1:?the directory of Gemma 3 270M}")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo run --release -- drift --model "$model" --text docs/gelu.md --out "$work/run.json"
cargo run --release -- report "$work/run.json" --figures "$work"
mkdir -p docs/figures
cp "$work/layers.svg" "$work/gates.svg" docs/figures/
cargo run --release -- plot --derivative --svg docs/figures/gelu.svg
