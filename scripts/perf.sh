#!/usr/bin/env bash
# Every figure of docs/performance.md that is compared between machines, measured on this one in one go:
#     bash scripts/perf.sh OUT [MODEL]
# OUT/MACHINE/   raw figures as JSON, and tables.md; what lies there already is not measured again
# OUT.md         the machines of OUT side by side, where the page is there (docs/performance.md of docs/performance);
#                otherwise OUT/page.md
# MODEL is the directory of a Gemma 3. Without it, whole models in f32 and bf16 and the drift run are left out.
#
# Peers that are not there yet are built below ${XDG_CACHE_HOME:-~/.cache}/gemma-mlp-perf: PyTorch and transformers as in
# scripts/requirements.txt, and llama-bench of the llama.cpp inside llama-cpp-python. One that cannot be had is named in
# the tables. What is measured takes 30 minutes at most: each section has a limit of its own.
#
#     PERF_MACHINE=NAME      the machine's name in the tables [default: the processor's, and how many cores]
#     PERF_GGUF=FILE         a model with quantised weights, measured as it is beside llama.cpp
#     PERF_TORCH=PYTHON      an interpreter that has PyTorch, and transformers for experts and models
#     PERF_LLAMA_SOURCE=DIR  the source of llama.cpp, whose script converts MODEL
#     PERF_LLAMA_BENCH=FILE  its llama-bench
#     PERF_BUSY=1            measure though the machine is busy; the tables say so
#     PERF_PATIENCE=N        N times the limits of all sections
#     PERF_QUICK=1           a few small cases, to try the script; its figures mean nothing
set -euo pipefail
fail() { echo "perf.sh: $1" >&2; exit 1; }
say() { echo "perf.sh: $1" >&2; }

[ $# -ge 1 ] && [ $# -le 2 ] || fail "usage: perf.sh OUT [MODEL]"
mkdir -p "$1"
out=$(realpath "$1") model=
if [ -n "${2:-}" ]; then
    [ -f "$2/config.json" ] || fail "$2 is not the directory of a model: it has no config.json"
    model=$(realpath "$2")
fi
gguf=
if [ -n "${PERF_GGUF:-}" ]; then
    [ -f "$PERF_GGUF" ] || fail "PERF_GGUF: there is no file $PERF_GGUF"
    gguf=$(realpath "$PERF_GGUF")
fi
cd "$(dirname "$0")/.."
for command in lscpu timeout python3 cargo; do
    command -v "$command" > /dev/null || fail "the command '$command' is missing"
done
LLAMA="llama-cpp-python==0.3.36"
quick=${PERF_QUICK:-} patience=${PERF_PATIENCE:-1}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gemma-mlp-perf
mkdir -p "$cache/logs"
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-$(nproc)} # as many for all
threads=$RAYON_NUM_THREADS

# Which machine this is, and which version.

load() { cut -d ' ' -f 1 /proc/loadavg; }
calm() { awk -v load="$(load)" 'BEGIN { exit !(load <= 0.5) }'; }

about() {
    LC_ALL=C lscpu | sed -E 's/^ +//; s/: +/: /' |
        grep -E '^(Architecture|Model name|CPU family|Model|Stepping|CPU\(s\)|L1d cache|L2 cache|L3 cache|Flags):'
    echo "Threads: $threads"
    local version changes
    version=$(git rev-parse --short HEAD 2> /dev/null || echo unknown)
    changes=$(git status --porcelain --untracked-files=no -- src crates/*/src benches crates/*/benches Cargo.lock 2> /dev/null || true)
    echo "Version: $version${changes:+, with changes}"
}
of() { sed -n "s/^$1: //p" <<< "$here"; }
here=$(about)
name=${PERF_MACHINE:-$(of 'Model name')-$(of 'CPU family')-$(of Model)-$(of 'CPU(s)')}
name=$(tr '[:upper:]' '[:lower:]' <<< "$name" | sed -E 's/[^a-z0-9]+/-/g; s/^-|-$//g')${quick:+-quick}
machine=$out/$name
if [ -f "$machine/machine.txt" ]; then
    [ "$(grep -vE '^(Date|Load|Note):' "$machine/machine.txt")" = "$here" ] || fail \
        "$machine was measured on another machine or with another version. Remove it to measure anew, or set PERF_MACHINE; 'python3 scripts/perf_tables.py OUT PAGE' writes tables alone"
else
    mkdir -p "$machine"
    { echo "$here"; echo "Date: $(date -u +%F)"; } > "$machine/machine.txt"
fi
say "$name: $(of 'Model name'), $threads threads; into $machine"

# What is measured: ours, and the peers. A peer that cannot be had is left out, and why stands in NAME.missing.

# As `cargo bench` does it: for tests candle's models are compiled without optimisation.
built=$(cargo build --profile bench --locked --bin gemma-mlp --bench model --bench gelu --message-format json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
built() { grep -E "/$1(-[0-9a-f]{16})?\$" <<< "$built" || fail "cargo built no $1"; }
program=$(built gemma-mlp)
model_bench=$(built model)
gelu_bench=$(built gelu)

missing() { say "$1: $2"; echo "$2" > "$machine/$1.missing"; }
there() { rm -f "$machine/$1.missing"; }

# Runs what makes a peer; its output goes to a log.
logged() { "${@:2}" > "$cache/logs/$1.log" 2>&1; }

make_torch() {
    rm -rf "$cache/torch"
    python3 -m venv "$cache/torch" &&
        grep -E '^(numpy|safetensors|torch|transformers)==' scripts/requirements.txt > "$cache/requirements.txt" &&
        "$cache/torch/bin/pip" install -r "$cache/requirements.txt"
}
torch=${PERF_TORCH:-$cache/torch/bin/python}
if ! "$torch" -c 'import torch' 2> /dev/null; then
    [ -z "${PERF_TORCH:-}" ] || fail "PERF_TORCH: $torch has no PyTorch"
    say "installing PyTorch and transformers"
    logged torch make_torch || torch=
fi
if [ -n "$torch" ]; then there torch; else missing torch "PyTorch could not be installed"; fi

make_llama_source() {
    rm -rf "$cache/llama" "$cache/sdist"
    python3 -m venv "$cache/llama-tools" && "$cache/llama-tools/bin/pip" install cmake ninja &&
        "$cache/llama-tools/bin/pip" download --no-deps --no-binary llama-cpp-python -d "$cache/sdist" "$LLAMA" &&
        mkdir "$cache/llama" && tar -xzf "$cache"/sdist/*.tar.gz -C "$cache/llama" --strip-components 1
}
make_llama_bench() {
    local -x PATH=$cache/llama-tools/bin:$PATH
    cmake -G Ninja -S "$cache/llama/vendor/llama.cpp" -B "$cache/llama/build" -DCMAKE_BUILD_TYPE=Release \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF &&
        cmake --build "$cache/llama/build" --target llama-bench -j "${CARGO_BUILD_JOBS:-$(nproc)}"
}
llama=${PERF_LLAMA_SOURCE:-$cache/llama/vendor/llama.cpp} llama_bench=${PERF_LLAMA_BENCH:-$cache/llama/build/bin/llama-bench}
llama_version=$LLAMA
[ -z "${PERF_LLAMA_SOURCE:-}${PERF_LLAMA_BENCH:-}" ] || llama_version='a build of its own'
wants_llama() { [ -n "$1" ] && [ ! -s "$machine/$2" ]; }
if wants_llama "$model" model-llama.jsonl || wants_llama "$gguf" gguf-llama.jsonl; then
    if [ ! -f "$llama/convert_hf_to_gguf.py" ]; then
        [ -z "${PERF_LLAMA_SOURCE:-}" ] || fail "PERF_LLAMA_SOURCE: $llama has no convert_hf_to_gguf.py"
        say "fetching llama.cpp"
        logged llama-source make_llama_source || { rm -rf "$cache/llama"; llama=; }
    fi
    if [ -n "$llama" ] && [ ! -x "$llama_bench" ]; then
        [ -z "${PERF_LLAMA_BENCH:-}" ] || fail "PERF_LLAMA_BENCH: $llama_bench is no program"
        say "building llama.cpp"
        logged llama-bench make_llama_bench || llama_bench=
    fi
fi

# GGUF files of the model in the current directory, by llama.cpp's own script. The vocabulary, which that finds in some
# forms only, is left out: llama-bench computes random tokens.
convert() {
    "$torch" - "$llama" "$model" <<'PYTHON'
import sys

source, model = sys.argv[1:]
sys.path.insert(0, source)
import convert_hf_to_gguf
from conversion.base import TextModel


def no_vocabulary(self):
    self.gguf_writer.add_tokenizer_model("none")
    self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])


TextModel._set_vocab_sentencepiece = TextModel._set_vocab_gpt2 = no_vocabulary
TextModel._create_vocab_sentencepiece = lambda self: ([b""] * self.hparams["vocab_size"], [], [])
for dtype in "f32", "bf16":
    sys.argv = ["convert", model, "--outtype", dtype, "--outfile", f"{dtype}.gguf"]
    convert_hf_to_gguf.main()
PYTHON
}

# Before the first section that is measured: builds are work too, and their load has to fade. Keeps the largest load.
settle() {
    settle() { :; }
    for _ in {1..18}; do
        if calm || [ -n "${PERF_BUSY:-}$quick" ]; then break; fi
        say "waiting until the load of $(load) has gone"
        sleep 10
    done
    calm || [ -n "${PERF_BUSY:-}$quick" ] || fail "the machine is busy: its load is $(load). Wait, or set PERF_BUSY=1"
    local before
    before=$(sed -n 's/^Load: //p' "$machine/machine.txt")
    before=$(printf '%s\n' "${before:-0}" "$(load)" | sort -g | tail -n 1)
    sed -i '/^Load:/d' "$machine/machine.txt"
    echo "Load: $before" >> "$machine/machine.txt"
}

# The sections.

# What a log says of a failure: its first error, or its last line.
reason() {
    local said
    said=$(grep -m 1 -iE '^(fatal )?error' "$cache/logs/$1.log" || grep -v '^ *$' "$cache/logs/$1.log" | tail -n 1)
    echo "${said:-it said nothing}"
}

# section FILE SECONDS COMMAND...: keeps what the command prints, unless that is there already.
section() {
    local file=$machine/$1 limit=$(($2 * patience)) code=0 start
    if [ -s "$file" ]; then say "${1%.*}: there already"; return; fi
    settle
    start=$SECONDS
    say "${1%.*}, at most $limit s"
    timeout -k 5 "$limit" "${@:3}" > "$file.part" 2> "$cache/logs/${1%.*}.log" || code=$?
    if [ "$code" = 0 ]; then
        mv "$file.part" "$file"
        say "${1%.*} took $((SECONDS - start)) s"
        return
    fi
    rm -f "$file.part"
    if [ "$code" = 124 ]; then why="it took more than $limit s (PERF_PATIENCE=2 doubles that)"; else why=$(reason "${1%.*}"); fi
    return 1
}
ours() { section "$@" || fail "${1%.*} failed: $why (more in $cache/logs/${1%.*}.log)"; }
# peer WHO FILE SECONDS COMMAND...
peer() { if section "${@:2}"; then there "${2%.*}"; else missing "${2%.*}" "$1 failed: $why"; fi; }

# Seconds of some runs of a command, as JSON.
times() {
    local seconds='' start
    for _ in $(seq "$2"); do
        start=$EPOCHREALTIME
        "${@:3}" > /dev/null
        seconds+=${seconds:+, }$(awk -v from="$start" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.2f", to - from }')
    done
    echo "{\"tokens\": $1, \"seconds\": [$seconds]}"
}
export -f times

block=(bench --json) quantised=(bench --json --weights q8_0,q4_0,q4_k,q5_k,q6_k --shape 2048x16384 --tokens 1,4,16,512)
experts=(bench --json --experts 128 --top 8 --shape 2816x704)
chunk=() tokens=1822 runs=3
if [ -n "$quick" ]; then
    block+=(--shape 64x96 --tokens 1 --tokens 4)
    quantised=(bench --json --weights q8_0 --shape 64x96 --tokens 1)
    experts=(bench --json --experts 4 --top 2 --shape 64x32 --tokens 1)
    chunk=(--rounds 1) tokens=64 runs=1
fi

ours block.json 180 "$program" "${block[@]}"
[ -z "$torch" ] || peer PyTorch block-torch.json 360 "$torch" scripts/bench_torch.py --json "$machine/block.json"
ours quantised.json 240 "$program" "${quantised[@]}"
ours experts.json 180 "$program" "${experts[@]}"
[ -z "$torch" ] || peer PyTorch experts-torch.json 180 "$torch" scripts/bench_torch.py --json "$machine/experts.json"
ours gelu.json 60 "${torch:-python3}" scripts/bench_gelu.py --json --binary "$gelu_bench" "${chunk[@]}"

if [ -n "$model" ]; then
    work=$(mktemp -d "$cache/work-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -c "print([2] + [4 + i * 37 % 900 for i in range($tokens - 1)])" > "$work/ids.json"
    from=$(dirname "$model") directory=$(basename "$model")
    if [ -s "$machine/model.json" ] && ! grep -qF "\"directory\": \"$directory\"" "$machine/model.json"; then
        fail "$machine/model.json is of another model than $directory. Remove it, or pass that one"
    fi
    ours model.json 90 env -C "$from" "$model_bench" "$directory" --json
    [ -z "$torch" ] ||
        peer transformers model-torch.json 120 env -C "$from" "$torch" "$PWD/scripts/bench_model.py" --json "$machine/model.json"
    if [ -s "$machine/model-llama.jsonl" ]; then
        say "model-llama: there already"
    elif [ -z "$llama" ] || [ -z "$llama_bench" ]; then
        missing model-llama "llama.cpp could not be built"
    elif [ -z "$torch" ]; then
        missing model-llama "llama.cpp takes PyTorch to convert the model"
    elif ! (cd "$work" && logged llama-convert convert); then
        missing model-llama "llama.cpp's script did not convert the model: $(reason llama-convert)"
    else
        # shellcheck disable=SC2016 # for the shell that is started
        peer llama.cpp model-llama.jsonl 120 env -C "$work" bash -euc '
            echo "{\"version\": \"$3\"}"
            for dtype in f32 bf16; do
                "$1" -m $dtype.gguf -t "$2" -o jsonl -p 512 -n 0
                "$1" -m $dtype.gguf -t "$2" -o jsonl -p 0 -n 32 -d 16
            done' bash "$llama_bench" "$threads" "$llama_version"
    fi
    rm -f "$work"/*.gguf
    ours drift.json 90 bash -euc 'times "$@"' bash "$tokens" "$runs" \
        "$program" drift --cpu --model "$model" --ids "$work/ids.json" --json
    [ -z "$torch" ] ||
        peer PyTorch drift-torch.json 90 "$torch" scripts/time_torch.py --json "$model" "$work/ids.json" "$threads"
else
    [ -s "$machine/model.json" ] || missing model "Whole models and the drift run were left out: no MODEL was given"
fi
[ ! -s "$machine/model.json" ] || there model

if [ -n "$gguf" ]; then
    from=$(dirname "$gguf") file=$(basename "$gguf")
    if [ -s "$machine/gguf.json" ] && ! grep -qF "\"directory\": \"$file\"" "$machine/gguf.json"; then
        fail "$machine/gguf.json is of another model than $file. Remove it, or pass that one"
    fi
    ours gguf.json 240 env -C "$from" "$model_bench" "$file" --json
    there gguf
    if [ -z "$llama" ] || [ -z "$llama_bench" ]; then
        missing gguf-llama "llama.cpp could not be built"
    else
        # shellcheck disable=SC2016 # for the shell that is started
        peer llama.cpp gguf-llama.jsonl 120 env -C "$from" bash -euc '
            echo "{\"version\": \"$3\"}"
            "$1" -m "$4" -t "$2" -o jsonl -p 512 -n 0
            "$1" -m "$4" -t "$2" -o jsonl -p 0 -n 32 -d 16' bash "$llama_bench" "$threads" "$llama_version" "$file"
    fi
elif [ ! -s "$machine/gguf.json" ]; then
    missing gguf "A model with quantised weights was left out: PERF_GGUF is not set"
fi

page=$out.md
[ -f "$page" ] || page=$out/page.md
python3 scripts/perf_tables.py "$out" "$page"
say "$machine/tables.md and $page, after $((SECONDS / 60)) minutes in all"
