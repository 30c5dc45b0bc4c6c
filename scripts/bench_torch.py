"""PyTorch's block beside ours, candle's and the machine's limits, as one markdown table:

    gemma-mlp bench --json > bench.json
    .venv/bin/python scripts/bench_torch.py bench.json
    .venv/bin/python scripts/bench_torch.py --binary target/release/gemma-mlp --shape 640x2048

The second form runs the benchmark itself; what follows the binary goes to it. PyTorch computes the same rows with as
many threads, eager and compiled (torch.compile's default mode), in turns, on weights of the same distribution and
dtype. As in ours, the caches are filled with other things before every round.

Of a mixture of experts (bench --experts 128 --top 8) PyTorch's are those of transformers' Gemma 4, eager and by
grouped_mm (transformers/integrations/moe.py), the default on a recent PyTorch. Experts are chosen at random for every
token, as in ours.
"""

import argparse
import json
import math
import statistics
import subprocess
import time

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
FEWEST, MOST, ENOUGH = 3, 15, 0.5
COLD = torch.ones(64 << 20)  # 256 MiB


def main():
    parser = argparse.ArgumentParser(usage="%(prog)s REPORT | --binary PATH [ARGUMENT ...]")
    parser.add_argument("report", nargs="?", help="JSON of gemma-mlp bench")
    parser.add_argument("--binary", nargs=argparse.REMAINDER, help="gemma-mlp, and what it is to measure")
    arguments = parser.parse_args()
    if bool(arguments.report) == bool(arguments.binary):
        parser.error("pass either a report or --binary")
    bench = read(arguments.report) if arguments.report else run(*arguments.binary)
    limits = bench["limits"]
    torch.set_num_threads(limits["threads"])
    torch.manual_seed(0)
    print(
        f"{limits['fma_gflops']:.0f} GFLOP/s of f32 multiply-adds, {limits['bf16_gflops']:.0f} of bf16, "
        f"{limits['read_gbps']:.1f} GB/s of reading memory, {limits['threads']} threads; "
        f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}; medians in ms\n"
    )
    other = "grouped_mm" if any("experts" in row for row in bench["rows"]) else "compiled"
    header = "block", "weights", "tokens", "limit", "ours", "candle", "eager", other
    header += "ours, CPU", "candle, CPU", "eager, CPU"
    ratios = "ours, of limit", "candle / ours", "eager / ours", f"{other} / ours"
    print("| " + " | ".join(header + ratios) + " |")
    print("|---" * len(header + ratios) + "|")
    block = None
    for row in bench["rows"]:
        key = row["hidden"], row["intermediate"], row["weights"]
        if "experts" in row:
            key += row["experts"], row["top_k"]
        if block is None or block[0] != key:
            block = None  # the old weights go before the new ones come
            torch._dynamo.reset()
            block = key, Experts(*key) if "experts" in row else Block(*key)
        print(line(row, *medians(block[1], row["tokens"])), flush=True)


def read(path):
    with open(path) as file:
        return json.load(file)


def run(binary, *arguments):
    command = [binary, "bench", "--json", *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def line(row, eager, other, eager_cpu):
    ours = row["median_ms"]
    times = [row["limit_ms"], ours, row["candle_ms"], eager, other]
    times += [row["cpu_ms"], row["candle_cpu_ms"], eager_cpu]
    ratios = [row["ratio_to_candle"], eager / ours, other / ours]
    experts = f", {row['top_k']} of {row['experts']}" if "experts" in row else ""
    cells = [f"{row['hidden']}x{row['intermediate']}{experts}", row["weights"], str(row["tokens"])]
    cells += [f"{ms:#.3g}".rstrip(".") if ms < 999.5 else f"{ms:.0f}" for ms in times]
    cells += [f"{100 * row['of_limit']:.0f} %"] + [f"{ratio:.2f}" for ratio in ratios]
    return "| " + " | ".join(cells) + " |"


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
        return lambda: self(x), lambda: compiled(x)


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

        return lambda: forward("eager"), lambda: forward("grouped_mm")


@torch.inference_mode()
def medians(block, tokens):
    """Eager, the other way, and eager's CPU time, in milliseconds."""
    work, times, cpu = block.passes(tokens), ([], []), ([], [])
    for forward in work:
        forward()  # compiles
        forward()
    while any(map(unfinished, times)):
        for forward, seconds, computed in zip(work, times, cpu):
            if unfinished(seconds):
                COLD.sum()
                start, start_cpu = time.perf_counter(), time.process_time()
                forward()
                seconds.append(time.perf_counter() - start)
                computed.append(time.process_time() - start_cpu)
    return [statistics.median(seconds) * 1e3 for seconds in (*times, cpu[0])]


def unfinished(seconds):
    """As in crates/cli/src/bench/timing.rs."""
    return len(seconds) < FEWEST or (len(seconds) < MOST and sum(seconds) < ENOUGH)


if __name__ == "__main__":
    main()
