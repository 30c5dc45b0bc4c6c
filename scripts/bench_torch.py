"""PyTorch's block beside ours, candle's and the machine's limits, as one markdown table:

    gemma-mlp bench --json > bench.json
    .venv/bin/python scripts/bench_torch.py bench.json
    .venv/bin/python scripts/bench_torch.py --binary target/release/gemma-mlp --shape 640x2048

The second form runs the benchmark itself; what follows the binary goes to it. With --json PyTorch's figures alone are
printed, as scripts/perf_tables.py reads them. PyTorch computes the same rows with as
many threads, eager and compiled (torch.compile's default mode), in turns, on weights of the same distribution and
dtype. As in ours, the caches are filled with other things before every round.

Of a mixture of experts (bench --experts 128 --top 8) PyTorch's are those of transformers' Gemma 4, eager and by
grouped_mm (transformers/integrations/moe.py), the default on a recent PyTorch. Experts are chosen at random for every
token, as in ours.
"""

import argparse
import functools
import json
import math
import statistics
import subprocess
import sys
import time

import perf_tables
import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
FEWEST, MOST, ENOUGH = 3, 15, 0.5
COLD = torch.ones(64 << 20)  # 256 MiB


def main():
    parser = argparse.ArgumentParser(usage="%(prog)s [--json] REPORT | --binary PATH [ARGUMENT ...]")
    parser.add_argument("report", nargs="?", help="JSON of gemma-mlp bench")
    parser.add_argument("--json", action="store_true", help="print PyTorch's figures alone")
    parser.add_argument("--binary", nargs=argparse.REMAINDER, help="gemma-mlp, and what it is to measure")
    arguments = parser.parse_args()
    if bool(arguments.report) == bool(arguments.binary):
        parser.error("pass either a report or --binary")
    bench = read(arguments.report) if arguments.report else run(*arguments.binary)
    theirs = measured(bench)
    if arguments.json:
        print(json.dumps(theirs, indent=1))
        return
    limits = bench["limits"]
    print(
        f"{limits['fma_gflops']:.0f} GFLOP/s of f32 multiply-adds, {limits['bf16_gflops']:.0f} of bf16, "
        f"{limits['read_gbps']:.1f} GB/s of reading memory, {limits['threads']} threads; "
        f"PyTorch {theirs['torch']}, {theirs['capability']}; medians in ms\n"
    )
    figures = list(perf_tables.blocks(bench, theirs))
    print(perf_tables.detail(figures[0].section, figures))
    for way, why in theirs["failed"].items():
        print(f"\n{way} failed: {why}")


def read(path):
    with open(path) as file:
        return json.load(file)


def run(binary, *arguments):
    command = [binary, "bench", "--json", *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def measured(bench):
    """PyTorch's figures in the rows of bench, and which way of computing failed."""
    torch.set_num_threads(bench["limits"]["threads"])
    torch.manual_seed(0)
    rows, failed, block = [], {}, None
    for row in bench["rows"]:
        key = row["hidden"], row["intermediate"], row["weights"]
        if "experts" in row:
            key += row["experts"], row["top_k"]
        if block is None or block[0] != key:
            block = None  # the old weights go before the new ones come
            torch._dynamo.reset()
            block = key, Experts(*key) if "experts" in row else Block(*key)
        same = {name: row[name] for name in ("hidden", "intermediate", "weights", "tokens")}
        rows.append(same | medians(block[1], row["tokens"], failed))
        print(rows[-1], file=sys.stderr, flush=True)
    found = {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
    if any("experts" in row for row in bench["rows"]):
        import transformers

        found["transformers"] = transformers.__version__
    return found | {"rows": rows, "failed": failed}


class Block(torch.nn.Module):
    def __init__(self, hidden, intermediate, weights):
        super().__init__()
        self.dtype, self.hidden = DTYPES[weights], hidden

        def weight(rows, columns):
            values = torch.randn(rows, columns) / math.sqrt(columns)
            return torch.nn.Parameter(values.to(self.dtype), requires_grad=False)

        self.gate, self.up = weight(intermediate, hidden), weight(intermediate, hidden)
        self.down = weight(hidden, intermediate)

    def forward(self, x):
        linear, gelu = torch.nn.functional.linear, torch.nn.functional.gelu
        return linear(gelu(linear(x, self.gate), approximate="tanh") * linear(x, self.up), self.down)

    def passes(self, tokens):
        """Eager and compiled."""
        x = torch.randn(tokens, self.hidden).to(self.dtype)
        compiled = torch.compile(self, dynamic=False)
        return {"eager": lambda: self(x), "compiled": lambda: compiled(x)}


class Experts:
    def __init__(self, hidden, intermediate, weights, experts, top_k):
        from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
        from transformers.models.gemma4.modeling_gemma4 import Gemma4TextExperts

        self.dtype, self.hidden, self.experts, self.top_k = DTYPES[weights], hidden, experts, top_k
        config = Gemma4TextConfig(
            hidden_size=hidden,
            num_experts=experts,
            top_k_experts=top_k,
            moe_intermediate_size=intermediate,
            hidden_activation="gelu_pytorch_tanh",
        )
        with torch.device("meta"):
            self.module = Gemma4TextExperts(config)
        self.module.gate_up_proj = self.weight(experts, 2 * intermediate, hidden)
        self.module.down_proj = self.weight(experts, hidden, intermediate)

    def weight(self, experts, rows, columns):
        values = torch.empty(experts, rows, columns, dtype=self.dtype)
        for expert in values:  # one at a time in f32
            expert.copy_(torch.randn(rows, columns) / math.sqrt(columns))
        return torch.nn.Parameter(values, requires_grad=False)

    def passes(self, tokens):
        """Eager and by grouped_mm."""
        x = torch.randn(tokens, self.hidden).to(self.dtype)
        chosen = torch.stack([torch.randperm(self.experts)[: self.top_k] for _ in range(tokens)])
        weights = torch.full(chosen.shape, 1 / self.top_k)

        def forward(implementation):
            self.module.config._experts_implementation = implementation
            return self.module(x, chosen, weights)

        return {name: functools.partial(forward, name) for name in ("eager", "grouped_mm")}


@torch.inference_mode()
def medians(block, tokens, failed):
    """Milliseconds of each way of computing, and of CPU time. One that fails goes to `failed`, and is not tried again:
    torch.compile takes a C++ compiler."""
    work = {}
    for name, forward in block.passes(tokens).items():
        if name in failed:
            continue
        try:
            forward()  # compiles
            forward()
            work[name] = forward
        except Exception as e:  # of any kind, out of a compiler
            if name == "eager":
                raise
            failed[name] = str(e).strip().splitlines()[0]
    times, cpu = ({name: [] for name in work} for _ in range(2))
    while any(map(unfinished, times.values())):
        for name, forward in work.items():
            if unfinished(times[name]):
                COLD.sum()
                start, start_cpu = time.perf_counter(), time.process_time()
                forward()
                times[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    found = {f"{name}_ms": statistics.median(seconds) * 1e3 for name, seconds in times.items()}
    return found | {f"{name}_cpu_ms": statistics.median(seconds) * 1e3 for name, seconds in cpu.items()}


def unfinished(seconds):
    """As in crates/cli/src/bench/timing.rs."""
    return len(seconds) < FEWEST or (len(seconds) < MOST and sum(seconds) < ENOUGH)


if __name__ == "__main__":
    main()
