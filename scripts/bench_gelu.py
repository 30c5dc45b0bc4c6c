"""PyTorch's GELU beside ours and candle's, one thread each, alternating:

    .venv/bin/python scripts/bench_gelu.py [--chunk 16384] [--json]

A million Gaussian numbers in chunks of 16,384 that stay in the cache, and for PyTorch in one piece as well, which
spares it 63 of 64 calls. Prints the median of five rounds of each, in nanoseconds a number. Without PyTorch ours and
candle's alone are measured.
"""

import argparse
import json
import re
import statistics
import subprocess
import time

import perf_tables

try:
    import torch
except ImportError:
    torch = None

COUNT = 1 << 20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunk", type=int, default=1 << 14, help="numbers in a piece [default: 16384]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--binary", help="what cargo bench --bench gelu builds; without it, that is run")
    parser.add_argument("--json", action="store_true", help="print JSON, as scripts/perf_tables.py reads it")
    arguments = parser.parse_args()
    chunk = arguments.chunk
    measured = {}
    for _ in range(arguments.rounds):
        for row, who, nanoseconds in [*ours(chunk, arguments.binary), *(pytorch(chunk) if torch else [])]:
            measured.setdefault(row, {}).setdefault(who, []).append(nanoseconds)
    rows = [
        {"form": form, "dtype": dtype} | {who: statistics.median(times) for who, times in by.items()}
        for (form, dtype), by in measured.items()
    ]
    found = {"chunk": chunk, "rows": rows}
    if torch:
        found |= {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"PyTorch {found['torch']}, {found['capability']}, " if torch else "no PyTorch, ", end="")
    print(f"chunks of {chunk}; ns a number\n")
    print(perf_tables.detail("gelu", list(perf_tables.gelus(found))))


def ours(chunk, binary):
    command = [binary, "--bench"] if binary else ["cargo", "bench", "-q", "--bench", "gelu", "--"]
    command += ["--chunk", str(chunk)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    for form, dtype, own, candle in re.findall(r"\| (\w+) (\w+) \| ([\d.]+) \| ([\d.]+) \|", output):
        yield (form, dtype), "ours", float(own)
        yield (form, dtype), "candle", float(candle)


def pytorch(chunk):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for form, approximate in (("exact", "none"), ("tanh", "tanh")):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = (torch.randn(COUNT) * 2).to(dtype)
            name = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
            yield (form, name), "PyTorch", median(x, chunk, approximate)
            yield (form, name), "whole", median(x, COUNT, approximate)


def median(x, chunk, approximate):
    pieces, times = x.split(chunk), []
    with torch.no_grad():
        for _ in range(15):
            start = time.perf_counter()
            for piece in pieces:
                torch.nn.functional.gelu(piece, approximate=approximate)
            times.append(time.perf_counter() - start)
    return statistics.median(times) / COUNT * 1e9


if __name__ == "__main__":
    main()
