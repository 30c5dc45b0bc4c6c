"""The error of PyTorch's and JAX's GELU and of their derivatives, by the harness that measures ours:

    cargo build --release --example prove_gelu
    .venv/bin/python scripts/gelu_peers.py          all rows of docs/numerics.md that are theirs

Every bf16 and f16 and the sample of 2^24 f32 goes through F.gelu and jax.nn.gelu under jit, on the CPU, and through
their automatic differentiation. The results go to examples/prove_gelu.rs, which prints the rows.
"""

import os
import subprocess
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

PROVE = Path(__file__).resolve().parent.parent / "target" / "release" / "examples" / "prove_gelu"
HALVES = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}
TORCH_DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def main():
    versions = f"PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), JAX {jax.__version__}"
    print(versions, flush=True)
    for who, compute in (("PyTorch", with_torch), ("JAX", with_jax)):
        for function in ("exact", "tanh", "exact'", "tanh'"):
            for dtype in ("bf16", "f16", "f32"):
                results = compute(function, inputs(dtype), dtype)
                command = [PROVE, "--stdin", who, function, dtype]
                subprocess.run(command, input=results.tobytes(), check=True)


def inputs(dtype):
    """All halves in the order of their bits, or the f32 of prove_gelu's `strided(i, 256)`."""
    if dtype in HALVES:
        return np.arange(65536, dtype=np.uint16)
    i = np.arange(1 << 24, dtype=np.uint64)
    return (i * 256 + i * 0x9E3779B9 % 256).astype(np.uint32)


def with_torch(function, bits, dtype):
    signed = bits.view(np.int16 if dtype in HALVES else np.int32)
    x = torch.from_numpy(signed.copy()).view(TORCH_DTYPES[dtype])
    approximate = "none" if function.startswith("exact") else "tanh"
    if function.endswith("'"):
        x.requires_grad_()
        y = torch.nn.functional.gelu(x, approximate=approximate)
        (y,) = torch.autograd.grad(y, x, torch.ones_like(y))
    else:
        y = torch.nn.functional.gelu(x, approximate=approximate)
    return y.contiguous().view(torch.int16 if dtype in HALVES else torch.int32).numpy()


def with_jax(function, bits, dtype):
    x = jnp.asarray(bits.view(HALVES.get(dtype, np.float32)))

    def gelu(values):
        return jax.nn.gelu(values, approximate=not function.startswith("exact"))

    def derivative(values):
        y, vjp = jax.vjp(gelu, values)
        return vjp(jnp.ones_like(y))[0]

    return np.asarray(jax.jit(derivative if function.endswith("'") else gelu)(x))


if __name__ == "__main__":
    main()
