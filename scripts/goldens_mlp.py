"""mlp.safetensors: whole gated-GELU blocks, forward and backward.

Shared by all blocks, F32 but with values that bf16 can hold, so that both dtypes see the same numbers:

    x, dy                                   [2, 7, 24]  the block's input, and the gradient at its output
    input                                   [2, 7, 40]  what input_gate gates
    gate_proj.weight, up_proj.weight        [40, 24]
    down_proj.weight                        [24, 40]
    gate_proj.bias, up_proj.bias            [40]        for recurrent_gemma, the only block with biases
    down_proj.bias                          [24]

Per block, in the dtype that computed them:

    {block}.{mode}.{dtype}.y                the block's output
    {block}.{mode}.{dtype}.dx               the gradient of sum(y * dy) for x
    {block}.{mode}.{dtype}.d{parameter}     and for each parameter, under the parameter's name above

with block gemma, gemma2, gemma3, gemma3n or recurrent_gemma (from transformers), input_gate (as transformers' Gemma 3n
and 4 gate a layer's own input; without up_proj, and with the gradient of input) or deepmind (from DeepMind's gemma, in
the layout of transformers, and with mode tanh alone, the only one it has), mode exact or tanh, and dtype f32 or bf16.
gemma3n makes its gate sparse by a fraction of 0.75.
"""

import jax
import jax.numpy as jnp
import torch

# Before gemma: it loads Triton, gemma loads TensorFlow, and each brings an LLVM. In the other order the second one
# aborts the process.
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextConfig, Gemma3nTextMLP  # isort: skip
from gemma.gm.nn._modules import FeedForward
from transformers.activations import ACT2FN
from transformers.models.gemma.modeling_gemma import GemmaConfig, GemmaMLP
from transformers.models.gemma2.modeling_gemma2 import Gemma2Config, Gemma2MLP
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP, Gemma3TextConfig
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaConfig, RecurrentGemmaMlp

from goldens_common import (
    ACTIVATIONS,
    DTYPES,
    MODES,
    as_bf16_values,
    check,
    check_finite,
    normal,
    relative_l2,
    to_jax,
    to_torch,
)

BATCH, SEQUENCE, HIDDEN, INTERMEDIATE = 2, 7, 24, 40
# Of the gate's numbers, one in four is left: enough for every row to have some, and the cutoff is not the mean.
SPARSITY = 0.75
HEADS = 4  # No MLP has heads, but the configs want the hidden size to be a multiple of them.


def compute():
    shared = shared_tensors()
    results = {}
    for dtype in DTYPES:
        for block, build in TRANSFORMERS_BLOCKS.items():
            for mode in MODES:
                results |= prefixed(f"{block}.{mode}.{dtype}", run_transformers(build(mode), shared, dtype))
        results |= prefixed(f"deepmind.tanh.{dtype}", run_deepmind(shared, dtype))
    check_results(shared, results)
    return shared | results, {}


def prefixed(prefix, tensors):
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def shared_tensors():
    # The gate's scale puts its pre-activations where exact and tanh GELU differ most, between 1 and 3.
    scales = {
        "x": ((BATCH, SEQUENCE, HIDDEN), 1.0),
        "dy": ((BATCH, SEQUENCE, HIDDEN), 1.0),
        "input": ((BATCH, SEQUENCE, INTERMEDIATE), 1.0),
        "gate_proj.weight": ((INTERMEDIATE, HIDDEN), 1.5 * HIDDEN**-0.5),
        "up_proj.weight": ((INTERMEDIATE, HIDDEN), HIDDEN**-0.5),
        "down_proj.weight": ((HIDDEN, INTERMEDIATE), INTERMEDIATE**-0.5),
        "gate_proj.bias": ((INTERMEDIATE,), 0.5),
        "up_proj.bias": ((INTERMEDIATE,), 0.5),
        "down_proj.bias": ((HIDDEN,), 0.5),
    }
    return {name: as_bf16_values(normal(f"mlp.{name}", shape, std)) for name, (shape, std) in scales.items()}


def sizes(intermediate=INTERMEDIATE):
    return {"hidden_size": HIDDEN, "intermediate_size": intermediate, "num_attention_heads": HEADS}


def gemma(mode):
    config = GemmaConfig(**sizes())
    # Not an argument: GemmaConfig takes hidden_act="gelu" for the slip it was in Gemma's first release, and turns it
    # into the tanh form.
    config.hidden_act = ACTIVATIONS[mode]
    return GemmaMLP(config)


def gemma2(mode):
    return Gemma2MLP(Gemma2Config(**sizes(), hidden_activation=ACTIVATIONS[mode]))


def gemma3(mode):
    return Gemma3MLP(Gemma3TextConfig(**sizes(), hidden_activation=ACTIVATIONS[mode]))


def gemma3n(mode):
    config = Gemma3nTextConfig(
        **sizes(), num_hidden_layers=1, activation_sparsity_pattern=[SPARSITY], hidden_activation=ACTIVATIONS[mode]
    )
    return Gemma3nTextMLP(config, layer_idx=0)


class InputGate(torch.nn.Module):
    """What Gemma3nTextDecoderLayer and Gemma4TextDecoderLayer compute in their forward, with its input as a parameter."""

    def __init__(self, activation):
        super().__init__()
        self.gate_proj = torch.nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.down_proj = torch.nn.Linear(INTERMEDIATE, HIDDEN, bias=False)
        self.input = torch.nn.Parameter(torch.empty(BATCH, SEQUENCE, INTERMEDIATE))
        self.activation = activation

    def forward(self, x):
        return self.down_proj(self.activation(self.gate_proj(x)) * self.input)


def input_gate(mode):
    return InputGate(ACT2FN[ACTIVATIONS[mode]])


def recurrent_gemma(mode):
    # Its MLP halves the config's intermediate size.
    config = RecurrentGemmaConfig(**sizes(2 * INTERMEDIATE), hidden_activation=ACTIVATIONS[mode])
    return RecurrentGemmaMlp(config)


TRANSFORMERS_BLOCKS = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3n": gemma3n,
    "input_gate": input_gate,
    "recurrent_gemma": recurrent_gemma,
}


def run_transformers(block, shared, dtype):
    block.load_state_dict({name: shared[name] for name in block.state_dict()})
    block.to(DTYPES[dtype])
    # A copy even in f32, where .to() would hand back the shared tensor and gradients would add up on it.
    x = shared["x"].to(DTYPES[dtype], copy=True).requires_grad_()
    y = block(x)
    y.backward(shared["dy"].to(DTYPES[dtype]))
    gradients = {f"d{name}": parameter.grad for name, parameter in block.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients}


def run_deepmind(shared, dtype):
    inputs = {name: to_jax(tensor.to(DTYPES[dtype])) for name, tensor in shared.items()}
    params = {
        "gating_einsum": jnp.stack([inputs["gate_proj.weight"], inputs["up_proj.weight"]]),
        "linear": inputs["down_proj.weight"].T,
    }
    feed_forward = FeedForward(features=HIDDEN, hidden_dim=INTERMEDIATE, transpose_gating_einsum=True)

    def forward(params, x):
        return feed_forward.apply({"params": params}, x)

    def backward(params, x, dy):
        return jax.vjp(forward, params, x)[1](dy)

    y = jax.jit(forward)(params, inputs["x"])
    dparams, dx = jax.jit(backward)(params, inputs["x"], inputs["dy"])
    results = {
        "y": y,
        "dx": dx,
        "dgate_proj.weight": dparams["gating_einsum"][0],
        "dup_proj.weight": dparams["gating_einsum"][1],
        "ddown_proj.weight": dparams["linear"].T,
    }
    return {name: to_torch(array) for name, array in results.items()}


def check_results(shared, results):
    check_finite(results)
    check_gate_scale(shared)
    for name, tensor in results.items():
        check(bool(tensor.any()), f"{name} is zero")
    for block in TRANSFORMERS_BLOCKS:
        check_modes_differ(results, block)
    check_dtypes_differ(results)
    check_gemmas_are_equal(results)
    check_sparsity_matters(results)
    check_biases_matter(shared, results)
    check_deepmind_agrees(results)


def check_gate_scale(shared):
    std = float((shared["x"] @ shared["gate_proj.weight"].T).std())
    check(1.2 < std < 1.8, f"the gate's pre-activations have a standard deviation of {std:.2f}")


def check_modes_differ(results, block):
    difference = relative_l2(results[f"{block}.tanh.f32.y"], results[f"{block}.exact.f32.y"])
    check(1e-5 < difference < 1e-2, f"{block}: tanh is {difference:.1e} away from exact")


def check_dtypes_differ(results):
    for name, tensor in results.items():
        if tensor.dtype == torch.bfloat16:
            f32 = results[name.replace(".bf16.", ".f32.")]
            check(not torch.equal(tensor.float(), f32), f"{name} equals the f32 result")


def check_gemmas_are_equal(results):
    for name, tensor in results.items():
        block, rest = name.split(".", 1)
        if block in ("gemma2", "gemma3"):
            check(torch.equal(tensor, results[f"gemma.{rest}"]), f"{name} is not what gemma computes")


def check_sparsity_matters(results):
    for mode in MODES:
        difference = relative_l2(results[f"gemma3n.{mode}.f32.y"], results[f"gemma.{mode}.f32.y"])
        check(difference > 0.1, f"gemma3n {mode}: the sparsity moves it by {difference:.1e} alone")


def check_biases_matter(shared, results):
    """recurrent_gemma is gemma with biases: it differs, and without them it does not."""
    without = {name: tensor * (not name.endswith(".bias")) for name, tensor in shared.items()}
    for mode in MODES:
        gemma_y = results[f"gemma.{mode}.f32.y"]
        difference = relative_l2(results[f"recurrent_gemma.{mode}.f32.y"], gemma_y)
        check(difference > 0.1, f"recurrent_gemma {mode}: biases move it by {difference:.1e} alone")
        difference = relative_l2(run_transformers(recurrent_gemma(mode), without, "f32")["y"], gemma_y)
        check(difference < 1e-6, f"recurrent_gemma {mode}: without biases still {difference:.1e} away from gemma")


def check_deepmind_agrees(results):
    for name, tensor in results.items():
        if name.startswith("deepmind.tanh.f32."):
            difference = relative_l2(tensor, results[name.replace("deepmind", "gemma")])
            check(difference < 1e-5, f"{name} is {difference:.1e} away from transformers")
