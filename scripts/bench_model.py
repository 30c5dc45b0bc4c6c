"""PyTorch's whole model beside ours, candle-transformers' and the machine's limits, as one markdown table:

    cargo bench --bench model -- DIRECTORY --json > model.json
    .venv/bin/python scripts/bench_model.py model.json [--attention eager]

transformers' AutoModelForCausalLM runs the same prompt and generates as many tokens, in f32 and bf16, in turns, with
as many threads: logits of the last position alone, its own cache, always the likeliest token. Loading a checkpoint
in the dtype of its file maps it, and the first prompt reads it: such a load is not comparable. With --json PyTorch's
figures alone are printed, as scripts/perf_tables.py reads them.
"""

import argparse
import json
import statistics
import time

import perf_tables
import torch
import transformers
from transformers import AutoModelForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
BEFORE = 16
ROUNDS, GOES = 5, 3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("report", help="JSON of cargo bench --bench model")
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    parser.add_argument("--json", action="store_true", help="print PyTorch's figures alone")
    arguments = parser.parse_args()
    with open(arguments.report) as file:
        bench = json.load(file)
    limits = bench["limits"]
    torch.set_num_threads(limits["threads"])
    transformers.utils.logging.disable_progress_bar()
    theirs = {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "transformers": transformers.__version__,
        "attention": arguments.attention,
        "rows": measured(bench, arguments.attention),
    }
    if arguments.json:
        print(json.dumps(theirs, indent=1))
        return
    print(
        f"{limits['fma_gflops']:.0f} GFLOP/s of f32 multiply-adds, {limits['bf16_gflops']:.0f} of bf16, "
        f"{limits['read_gbps']:.1f} GB/s of reading memory, {limits['threads']} threads; "
        f"PyTorch {theirs['torch']}, {theirs['capability']}, "
        f"transformers {theirs['transformers']} with {theirs['attention']} attention; "
        "tokens a second, and seconds to load\n"
    )
    print(perf_tables.detail("model", list(perf_tables.models(bench, theirs))))
    for note in bench["notes"]:
        print("\n" + note)


def measured(bench, attention):
    """PyTorch's rows, as the report's are."""
    loaded = {dtype: load(bench["directory"], dtype, attention) for dtype in DTYPES}
    prompt, generation = ({dtype: [] for dtype in DTYPES} for _ in range(2))
    for model, _ in loaded.values():
        run_prompt(model, bench["prompt"]["tokens"])  # brings allocations and threads up
    for _ in range(ROUNDS):
        for dtype, (model, _) in loaded.items():
            prompt[dtype].append(run_prompt(model, bench["prompt"]["tokens"]))
    for _ in range(GOES):
        for dtype, (model, _) in loaded.items():
            generation[dtype].append(generate(model, bench["generation"]["tokens"]))
    return [
        {
            "side": "PyTorch",
            "dtype": dtype,
            "load_s": seconds,
            "prompt": figures(bench, dtype, "prompt", prompt[dtype]),
            "generation": figures(bench, dtype, "generation", generation[dtype]),
        }
        for dtype, (_, seconds) in loaded.items()
    ]


def load(directory, dtype, attention):
    """The model, and seconds to load it when the system has the file in memory."""
    for _ in range(2):
        start = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=DTYPES[dtype], attn_implementation=attention)
        seconds = time.perf_counter() - start
    return model.eval(), seconds


@torch.inference_mode()
def run_prompt(model, tokens):
    start = time.perf_counter()
    model(ids(tokens), use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


@torch.inference_mode()
def generate(model, tokens):
    """Seconds for the tokens behind a short prompt. Without model.generate, whose checks take time too."""
    out = model(ids(BEFORE), use_cache=True, logits_to_keep=1)
    start = time.perf_counter()
    for _ in range(tokens):
        likeliest = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(likeliest, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
    out.logits[:, -1].argmax(-1, keepdim=True)
    return time.perf_counter() - start


def ids(tokens):
    """As in benches/model.rs."""
    return torch.tensor([[4 + i * 37 % 900 for i in range(tokens)]])


def figures(bench, dtype, what, times):
    work, limits = bench[what], bench["limits"]
    seconds = statistics.median(times)
    size = torch.finfo(DTYPES[dtype]).bits // 8
    reading = work["passes"] * bench["weights"] * size / limits["read_gbps"] / 1e9
    arithmetic = work["operations"] / limits["fma_gflops" if dtype == "f32" else "bf16_gflops"] / 1e9
    limit = max(reading, arithmetic)
    ours = next(row for row in bench["rows"] if (row["side"], row["dtype"]) == ("ours", dtype))
    return {
        "tokens_per_s": work["tokens"] / seconds,
        "limit": work["tokens"] / limit,
        "of_limit": limit / seconds,
        "ratio": ours[what]["tokens_per_s"] * seconds / work["tokens"],
    }


if __name__ == "__main__":
    main()
