"""gelu.safetensors: the exact and the tanh GELU, and their derivatives, from torch and from JAX.

    x                                F32   the arguments
    x_bf16                           BF16  the same, rounded
    {framework}.{mode}.{dtype}.y           the activation
    {framework}.{mode}.{dtype}.dy          its derivative

with framework torch or jax, mode exact or tanh, and dtype f32 or bf16. A bf16 result was computed from x_bf16 and
is stored as BF16.
"""

import jax
import numpy as np
import torch

from goldens_common import DTYPES, MODES, check, check_finite, relative_l2, to_jax, to_torch

GRID_POINTS = 601
EXTREMES = (0.0, 1e-30, 40.0, 100.0, 1e4)

TORCH_APPROXIMATE = {"exact": "none", "tanh": "tanh"}
JAX_APPROXIMATE = {"exact": False, "tanh": True}


def compute():
    x = arguments()
    inputs = {dtype: x.to(DTYPES[dtype]) for dtype in DTYPES}
    results = {}
    for mode in MODES:
        for dtype, values in inputs.items():
            for framework, gelu in (("torch", torch_gelu), ("jax", jax_gelu)):
                prefix = f"{framework}.{mode}.{dtype}"
                results[f"{prefix}.y"], results[f"{prefix}.dy"] = gelu(values, mode)
    check_results(results)
    return {"x": inputs["f32"], "x_bf16": inputs["bf16"], **results}, {}


def arguments():
    grid = np.linspace(-12.0, 12.0, GRID_POINTS)
    extremes = [sign * value for value in EXTREMES for sign in (1.0, -1.0)]
    return torch.from_numpy(np.concatenate([grid, extremes]).astype(np.float32))


def torch_gelu(x, mode):
    x = x.clone().requires_grad_()
    y = torch.nn.functional.gelu(x, approximate=TORCH_APPROXIMATE[mode])
    y.sum().backward()
    return y.detach(), x.grad


def jax_gelu(x, mode):
    def gelu(values):
        return jax.nn.gelu(values, approximate=JAX_APPROXIMATE[mode])

    # Under jit, as models run: where a bf16 result is rounded on the way is then XLA's choice.
    x = to_jax(x)
    y = jax.jit(gelu)(x)
    dy = jax.jit(jax.grad(lambda values: gelu(values).sum()))(x)
    return to_torch(y), to_torch(dy)


def check_results(results):
    check_finite(results)
    for framework in ("torch", "jax"):
        for result in ("y", "dy"):
            check_modes_differ(results, framework, result)
            check_dtypes_differ(results, framework, result)
    for mode in MODES:
        for result in ("y", "dy"):
            check_frameworks_agree(results, mode, result)


def check_modes_differ(results, framework, result):
    # On the grid alone: the extremes would drown the difference in their own size.
    tanh, exact = (results[f"{framework}.{mode}.f32.{result}"][:GRID_POINTS] for mode in ("tanh", "exact"))
    difference = relative_l2(tanh, exact)
    check(1e-5 < difference < 1e-2, f"{framework} {result}: tanh is {difference:.1e} away from exact")


def check_dtypes_differ(results, framework, result):
    for mode in MODES:
        f32, bf16 = (results[f"{framework}.{mode}.{dtype}.{result}"] for dtype in ("f32", "bf16"))
        check(not torch.equal(f32, bf16.float()), f"{framework} {mode} {result}: bf16 equals f32")


def check_frameworks_agree(results, mode, result):
    ours, theirs = (results[f"{framework}.{mode}.f32.{result}"] for framework in ("torch", "jax"))
    check(
        torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5),
        f"{mode} {result}: torch and jax are {(ours - theirs).abs().max():.1e} apart",
    )
