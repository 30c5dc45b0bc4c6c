"""PyTorch's block on a CUDA GPU, eager and compiled, at the sizes of `cargo bench --features cuda --bench cuda`:

    python3 scripts/bench_cuda.py

One markdown table in ms, for the exact and the tanh form; beside it a copy in GB/s, for a check that both programs met
the same machine. Rounds in turns, medians, as in the Rust benchmark.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

ROUNDS, ROUND = 9, 0.1
ELEMENTS = 4096 * 16384
BLOCKS = (2048, 16384), (2304, 9216), (3072, 24576), (5376, 21504)
TOKENS = 1, 16, 512, 4096


def main():
    if not torch.cuda.is_available():
        sys.exit("nothing measured, as PyTorch finds no CUDA GPU")
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    print("| copy | dtype | GB/s |\n|---|---|---|")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.randn(ELEMENTS, device="cuda").to(dtype)
        (seconds,) = medians([x.clone])
        print(f"| copy | {name(dtype)} | {2 * x.numel() * x.element_size() / seconds / 1e9:.0f} |")
        del x
    print("\n| block | dtype | tokens | eager tanh | compiled tanh | eager exact | compiled exact |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for dtype in (torch.bfloat16, torch.float16):
        for hidden, intermediate in BLOCKS:
            rows(dtype, hidden, intermediate)


@torch.inference_mode()
def rows(dtype, hidden, intermediate):
    weight = lambda out, from_: (torch.randn(out, from_, device="cuda") / from_**0.5).to(dtype)
    gate, up, down = weight(intermediate, hidden), weight(intermediate, hidden), weight(hidden, intermediate)
    for tokens in TOKENS:
        torch._dynamo.reset()
        x = torch.randn(tokens, hidden, device="cuda").to(dtype)

        def block(x, approximate):
            return F.linear(F.gelu(F.linear(x, gate), approximate=approximate) * F.linear(x, up), down)

        # With CUDA graphs, where launches count.
        compiled = torch.compile(block, mode="reduce-overhead" if tokens <= 16 else "default")
        work = [
            lambda block=block, form=form: block(x, form) for form in ("tanh", "none") for block in (block, compiled)
        ]
        cells = " | ".join(f"{seconds * 1e3:.4f}" for seconds in medians(work))
        print(f"| {hidden}x{intermediate} | {name(dtype)} | {tokens} | {cells} |", flush=True)


def medians(work):
    """The medians of pieces of work in seconds, a round of each in turns."""
    repeats = []
    for each in work:
        timed(each, 5)  # compiles, and records graphs
        repeats.append(min(10_000, max(1, round(ROUND / timed(each, 3)))))
    times = [[] for _ in work]
    for _ in range(ROUNDS):
        for each, count, of_each in zip(work, repeats, times):
            of_each.append(timed(each, count))
    return [statistics.median(of_each) for of_each in times]


def timed(work, count):
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def name(dtype):
    return {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}[dtype]


if __name__ == "__main__":
    main()
