"""PyTorch's GELU beside ours and candle's, one thread each, alternating:

    .venv/bin/python scripts/bench_gelu.py [chunk]

A million Gaussian numbers in chunks of 16,384 that stay in the cache, and for PyTorch in one piece as well, which
spares it 63 of 64 calls. Prints the median of five rounds of each, in nanoseconds a number.
"""

import re
import statistics
import subprocess
import sys
import time

import torch

COUNT, ROUNDS = 1 << 20, 5


def main():
    chunk = int(sys.argv[1]) if len(sys.argv) > 1 else 1 << 14
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, chunks of {chunk}")
    measured = {}
    for _ in range(ROUNDS):
        for row, who, nanoseconds in [*ours(chunk), *pytorch(chunk)]:
            measured.setdefault(row, {}).setdefault(who, []).append(nanoseconds)
    columns = ["ours", "candle", "PyTorch", "PyTorch, whole"]
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for row, by in measured.items():
        cells = [f"{statistics.median(by[who]):.2f}" if who in by else "" for who in columns]
        print(f"| {row} | " + " | ".join(cells) + " |")


def ours(chunk):
    command = ["cargo", "bench", "-q", "--bench", "gelu", "--", "--chunk", str(chunk)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for form, dtype, own, candle in re.findall(r"\| (\w+) (\w+) \| ([\d.]+) \| ([\d.]+) \|", output):
        yield f"{form} {dtype}", "ours", float(own)
        yield f"{form} {dtype}", "candle", float(candle)


def pytorch(chunk):
    for form, approximate in (("exact", "none"), ("tanh", "tanh")):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = (torch.randn(COUNT) * 2).to(dtype)
            name = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
            yield f"{form} {name}", "PyTorch", median(x, chunk, approximate)
            yield f"{form} {name}", "PyTorch, whole", median(x, COUNT, approximate)


@torch.no_grad()
def median(x, chunk, approximate):
    pieces, times = x.split(chunk), []
    for _ in range(15):
        start = time.perf_counter()
        for piece in pieces:
            torch.nn.functional.gelu(piece, approximate=approximate)
        times.append(time.perf_counter() - start)
    return statistics.median(times) / COUNT * 1e9


if __name__ == "__main__":
    main()
