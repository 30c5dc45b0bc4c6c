"""rounding.safetensors: GELU and GEGLU of every bf16 and every f16, from torch and from JAX.

    {framework}.{mode}.{dtype}.activation      gelu(x)
    {framework}.{mode}.{dtype}.product         gelu(x)·up(x)

with framework torch or jax, mode exact or tanh, and dtype bf16 or f16. Element i belongs to the x whose bits are i,
and `ups` computes the factor from i. A NaN has one pattern, whichever the framework left.

transformers' activations are checked to be torch's, and so not stored.
"""

import os
import platform

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers.activations import ACT2FN

from goldens_common import ACTIVATIONS, MODES, check

TORCH_APPROXIMATE = {"exact": "none", "tanh": "tanh"}
JAX_APPROXIMATE = {"exact": False, "tanh": True}

HALVES = {"bf16": torch.bfloat16, "f16": torch.float16}
JAX_HALVES = {"bf16": jnp.bfloat16, "f16": jnp.float16}
NANS = {"bf16": 0x7FC0, "f16": 0x7E00}
# Bits of the mantissa, and the exponent's field for 1/8.
LAYOUTS = {"bf16": (7, 124), "f16": (10, 12)}

EVERY = np.arange(1 << 16, dtype=np.uint16)


def compute():
    check_settings()
    results = {}
    for dtype in HALVES:
        for mode in MODES:
            for framework, of in (("torch", of_torch), ("jax", of_jax)):
                activation, product = of(mode, dtype)
                for part, bits in (("activation", activation), ("product", product)):
                    results[f"{framework}.{mode}.{dtype}.{part}"] = with_one_nan(bits, dtype)
    check_results(results)
    return results, metadata()


def check_settings():
    # PyTorch's exact GELU of bf16 is oneDNN's where the processor has AVX-512, and its own elsewhere; AVX-512's bf16
    # instructions take subnormal results for 0.
    capability = torch.backends.cpu.get_cpu_capability()
    check(capability == "AVX512", f"the goldens are AVX-512's, and this is {capability}")
    check(torch.cpu._is_avx512_bf16_supported(), "the processor has no bf16 instructions")
    check(torch.backends.mkldnn.enabled, "oneDNN is off")
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "XLA_FLAGS"):
        check(name not in os.environ, f"{name} is set")


def metadata():
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


def ups(dtype):
    """The factor's bits: sign, mantissa and one of eight exponents, 1/8 to 16, from a permutation of i."""
    mantissa, eighth = LAYOUTS[dtype]
    mixed = EVERY.astype(np.uint32) * 40503 % (1 << 16)
    fraction = mixed & ((1 << mantissa) - 1)
    exponent = eighth + (mixed >> 2 & 7)
    return (mixed & 0x8000 | exponent << mantissa | fraction).astype(np.uint16)


def of_torch(mode, dtype):
    gate, up = (torch.from_numpy(bits.copy()).view(HALVES[dtype]) for bits in (EVERY, ups(dtype)))
    activation = torch.nn.functional.gelu(gate, approximate=TORCH_APPROXIMATE[mode])
    product = activation * up
    transformers = ACT2FN[ACTIVATIONS[mode]](gate)
    check(
        torch.equal(transformers.view(torch.uint16), activation.view(torch.uint16)),
        f"{mode} {dtype}: transformers is not torch",
    )
    return (result.view(torch.uint16).numpy() for result in (activation, product))


def of_jax(mode, dtype):
    gate, up = (jnp.asarray(bits.view(JAX_HALVES[dtype])) for bits in (EVERY, ups(dtype)))

    def gelu(x):
        return jax.nn.gelu(x, approximate=JAX_APPROXIMATE[mode])

    # Under jit, as models run. One compilation for the product: XLA may round less inside it.
    results = jax.jit(gelu)(gate), jax.jit(lambda gate, up: gelu(gate) * up)(gate, up)
    return (np.asarray(result).view(np.uint16) for result in results)


def with_one_nan(bits, dtype):
    bits = bits.copy()
    bits[np.isnan(bits.view(JAX_HALVES[dtype]))] = NANS[dtype]
    return torch.from_numpy(bits).view(HALVES[dtype])


def check_results(results):
    for name, tensor in results.items():
        check(tensor.shape == (1 << 16,), name)
        framework, mode, dtype, part = name.split(".")
        # At 1 each gives 0.84, to the last bit but a few.
        one = torch.ones((), dtype=HALVES[dtype]).view(torch.uint16).item()
        if part == "activation":
            check(abs(tensor[one].item() - 0.8413) < 4e-3, f"{name}: {tensor[one].item()} at 1")
    for dtype in HALVES:
        for mode in MODES:
            torch_bits, jax_bits = (results[f"{f}.{mode}.{dtype}.activation"].view(torch.uint16) for f in ("torch", "jax"))
            check(not torch.equal(torch_bits, jax_bits), f"{mode} {dtype}: torch and jax agree")
