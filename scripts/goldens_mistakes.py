"""families/mistakes.json: what mistakes in porting the later Gemmas change, each put into transformers by itself.

    .venv/bin/python scripts/goldens_mistakes.py

It reads the checkpoints that goldens.py wrote to tests/goldens/families, and writes mistakes.json beside them: for each
mistake and each model that it is tried on

    slug, what             its name, and what exactly is computed
    model                  the directory
    dtype                  of both runs, f64 save where rounding is the mistake
    rel_l2                 |wrong - right| / |right| of all logits
    kl_mean_nats, kl_max_nats
                           KL(right | wrong) of the next token's distribution, over all positions of both texts

The weights are random: the sizes tell what a test on these models catches, not what a real model suffers.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.models.gemma4 import modeling_gemma4
from transformers.models.t5gemma2 import modeling_t5gemma2

from goldens_common import check, relative_l2
from goldens_families import MODELS
from goldens_families_common import load, run

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "families"

Put = Callable[[str, PreTrainedModel], AbstractContextManager | None]


@dataclass(frozen=True)
class Mistake:
    """How a mistake gets into a model, by its directory's name; what must last for the run is a context."""

    slug: str
    what: str
    models: tuple[str, ...]
    put: Put
    dtype: str = "f64"
    exact: bool = False


def stack(name: str, model: PreTrainedModel, prefix: str = "") -> nn.Module:
    return MODELS[name].stacks(model)[prefix]


def to_layers(change: Callable[[nn.Module], None]) -> Put:
    def put(name: str, model: PreTrainedModel) -> None:
        for text in MODELS[name].stacks(model).values():
            for layer in text.layers:
                change(layer)

    return put


def to_norms(change: Callable[[nn.Module], None], weighted: bool = False) -> Put:
    def put(name: str, model: PreTrainedModel) -> None:
        for module in stack(name, model).modules():
            if type(module).__name__.endswith("RMSNorm") and (hasattr(module, "weight") or not weighted):
                change(module)

    return put


def during(mode: type[TorchFunctionMode]) -> Put:
    return lambda name, model: mode()


def bf16(x: Tensor) -> Tensor:
    """Rounded to bf16, in its own dtype."""
    return x.bfloat16().to(x.dtype)


def add_one(norm: nn.Module) -> None:
    norm.weight.data += 1


def scale_by_head_dim(layer: nn.Module) -> None:
    layer.self_attn.scaling = layer.self_attn.head_dim**-0.5


def fill(buffer: str, value: float) -> Callable[[nn.Module], None]:
    def change(layer: nn.Module) -> None:
        module = layer
        for part in buffer.split("."):
            module = getattr(module, part)
        module.data.fill_(value)

    return change


def own_frequencies(change: Callable[[Tensor, int, int, dict], Tensor]) -> Put:
    """Other inverse frequencies of full layers, from the right ones, head size, number of angles and parameters."""

    def put(name: str, model: PreTrainedModel) -> None:
        rotary = stack(name, model).rotary_emb
        right = rotary.full_attention_inv_freq
        parameters = rotary.config.rope_parameters["full_attention"]
        wrong = change(right, 2 * len(right), int((right > 0).sum()), parameters)
        rotary.full_attention_inv_freq = wrong.to(right.dtype)

    return put


def divide_by_rotated(right: Tensor, _head_dim: int, angles: int, parameters: dict) -> Tensor:
    wrong = right.clone()
    exponents = torch.arange(angles) / angles
    wrong[:angles] = parameters["rope_theta"] ** -exponents / parameters.get("factor", 1.0)
    return wrong


def rotate_all(_right: Tensor, head_dim: int, _angles: int, parameters: dict) -> Tensor:
    exponents = torch.arange(0, head_dim, 2) / head_dim
    return parameters["rope_theta"] ** -exponents / parameters.get("factor", 1.0)


def rotate_first(name: str, model: PreTrainedModel) -> AbstractContextManager:
    right = modeling_gemma4.apply_rotary_pos_emb
    frequencies = stack(name, model).rotary_emb.full_attention_inv_freq
    head_dim, angles = 2 * len(frequencies), int((frequencies > 0).sum())

    def rotate(x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Tensor:
        if x.shape[-1] != head_dim:
            return right(x, cos, sin, unsqueeze_dim)
        first = [torch.cat([table[..., :angles]] * 2, dim=-1) for table in (cos, sin)]
        rotated = right(x[..., : 2 * angles], *first, unsqueeze_dim)
        return torch.cat([rotated, x[..., 2 * angles :]], dim=-1)

    return patch.object(modeling_gemma4, "apply_rotary_pos_emb", rotate)


def route_normed(layer: nn.Module) -> None:
    right = layer.router.forward
    layer.router.forward = lambda x: right(layer.pre_feedforward_layernorm_2(x))


def exchange_post_norms(layer: nn.Module) -> None:
    first, second = layer.post_feedforward_layernorm_1, layer.post_feedforward_layernorm_2
    first.weight, second.weight = second.weight, first.weight


def do_not_renormalise(layer: nn.Module) -> None:
    router, right = layer.router, layer.router.forward

    def route(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities, _, chosen = right(x)
        return probabilities, probabilities.gather(-1, chosen) * router.per_expert_scale[chosen], chosen

    router.forward = route


def ignore_sharing(name: str, model: PreTrainedModel) -> None:
    """With the k and v tensors that the file has for such layers."""
    text = stack(name, model)
    weights = load_file(DIRECTORY / name / "model.safetensors")
    layers = text.layers
    for index, layer in enumerate(layers):
        attention = layer.self_attn
        if not attention.is_kv_shared_layer:
            continue
        own = next(layer.self_attn for layer in layers if layer.self_attn.layer_type == attention.layer_type)
        for part in ("k_proj", "v_proj", "k_norm"):
            found = [value for key, value in weights.items() if f".layers.{index}.self_attn.{part}." in key]
            if part == "v_proj" and not found:
                # Keys are values here.
                attention.v_proj = None
                continue
            (weight,) = found
            if part == "k_norm":
                module = type(own.k_norm)(len(weight), own.k_norm.eps)
            else:
                module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            module.weight.data = weight.to(model.dtype)
            setattr(attention, part, module)
        attention.v_norm = own.v_norm
        attention.is_kv_shared_layer = False


def v_after_k_norm(layer: nn.Module) -> None:
    attention = layer.self_attn
    if attention.v_proj is not None:
        return
    k_norm, v_norm, seen = attention.k_norm.forward, attention.v_norm.forward, []

    def norm_k(x: Tensor) -> Tensor:
        seen[:] = [k_norm(x)]
        return seen[0]

    attention.k_norm.forward, attention.v_norm.forward = norm_k, lambda _: v_norm(seen[0])


def leave_out_v_norm(layer: nn.Module) -> None:
    if hasattr(layer.self_attn, "v_norm"):
        layer.self_attn.v_norm = nn.Identity()


def ple_unscaled(name: str, model: PreTrainedModel) -> None:
    stack(name, model).embed_tokens_per_layer.embed_scale.fill_(1)


def ple_without_root(name: str, model: PreTrainedModel) -> None:
    text = stack(name, model)
    if isinstance(text.per_layer_input_scale, Tensor):
        text.per_layer_input_scale.fill_(1)
    else:
        text.per_layer_input_scale = 1.0


def ple_to_all_streams(layer: nn.Module) -> None:
    added = []
    layer.post_per_layer_input_norm.register_forward_hook(lambda module, args, output: added.append(output))

    def add(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.cat([output[:1] + added.pop(), output[1:]])

    layer.register_forward_hook(add)


def use_pre_ffn_norm(layer: nn.Module) -> None:
    layer.post_attention_layernorm.weight = layer.pre_feedforward_layernorm.weight


def sparsity(value: float) -> Callable[[nn.Module], None]:
    def change(layer: nn.Module) -> None:
        layer.mlp.activation_sparsity = value

    return change


class Unbiased(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.std:
            check(kwargs.pop("unbiased") is False, "another standard deviation than that of the sparsity")
            kwargs["correction"] = 1
        return func(*args, **kwargs)


class SoftmaxInBf16(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is nn.functional.softmax:
            scores = args[0]
            return func(scores.bfloat16(), dim=kwargs["dim"]).to(scores.dtype)
        return func(*args, **kwargs)


def clip_coefficients(layer: nn.Module) -> None:
    clip = layer.altup.config.altup_coef_clip
    for coefficients in (layer.altup.prediction_coefs, layer.altup.correction_coefs):
        coefficients.weight.data.clamp_(-clip, clip)


def transpose_coefficients(layer: nn.Module) -> None:
    weight = layer.altup.prediction_coefs.weight
    streams = weight.shape[1]
    weight.data = weight.data.reshape(streams, streams, streams).transpose(0, 1).reshape(weight.shape)


def altup_in_f32(layer: nn.Module) -> None:
    altup = layer.altup.float()
    predict, correct, dtype = altup.predict, altup.correct, layer.input_layernorm.weight.dtype
    altup.predict = lambda streams: predict(streams.float()).to(dtype)
    altup.correct = lambda predictions, activated: correct(predictions.float(), activated.float()).to(dtype)


def laurel_from_unnormed(layer: nn.Module) -> None:
    seen, right = [], layer.laurel.forward
    layer.input_layernorm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer.laurel.forward = lambda _: right(seen.pop())


def no_softcap(name: str, model: PreTrainedModel) -> None:
    # A cap that bends nothing: Gemma 3n's config takes no None.
    model.config.get_text_config().final_logit_softcapping = 1e7


def squares_in_bf16(norm: nn.Module) -> None:
    """x in f32; each x² rounded to bf16, their mean (taken in f32) rounded to bf16; all else in f32."""

    def forward(x: Tensor) -> Tensor:
        mean = bf16(bf16(x.pow(2)).mean(-1, keepdim=True))
        y = x * (mean + norm.eps).pow(-0.5)
        return y * norm.weight if hasattr(norm, "weight") else y

    norm.forward = forward


def norm_in_bf16(norm: nn.Module) -> None:
    """x rounded to bf16, and the result of every step after it: squares, mean, eps added, rsqrt, product, times w.

    rsqrt in f64, since PyTorch's rounds the root as well in what vectors leave over.
    """

    def forward(x: Tensor) -> Tensor:
        wide, x = x.dtype, x.bfloat16()
        mean = x.pow(2).mean(-1, keepdim=True) + norm.eps
        y = x * mean.double().rsqrt().bfloat16()
        y = y * norm.weight.bfloat16() if hasattr(norm, "weight") else y
        return y.to(wide)

    norm.forward = forward


def rotate_cross_keys(name: str, model: PreTrainedModel) -> None:
    decoder = stack(name, model, "decoder.")
    length = MODELS[name].call["input_ids"].shape[1]
    positions = torch.arange(length)[None]
    for layer in decoder.layers:
        norm = layer.self_attn.k_norm

        def forward(x: Tensor, right: Callable = norm.forward, kind: str = layer.attention_type) -> Tensor:
            key = right(x)
            if key.shape[2] != length:
                return key
            cos, sin = decoder.rotary_emb(key, positions, kind)
            return modeling_t5gemma2.apply_rotary_pos_emb(key, key, cos, sin)[1]

        norm.forward = forward


def symmetric_window(name: str, model: PreTrainedModel) -> AbstractContextManager:
    def window(size: int, is_causal: bool = True) -> Callable:
        check(not is_causal, "a decoder's window")
        return lambda batch, head, query, key: (query - key).abs() <= size // 2

    return patch.object(modeling_t5gemma2, "sliding_window_mask_function", window)


def unrounded_scale(name: str, model: PreTrainedModel) -> None:
    text = stack(name, model)
    text.normalizer = torch.tensor(text.config.hidden_size**0.5, dtype=torch.float64)


DENSE, THREE_N = ("gemma4-dense",), ("gemma3n-a", "gemma3n-b", "gemma3n-c")
WITH_LOGITS = tuple(name for name in MODELS if name != "embedding-gemma2")
MISTAKES = [
    Mistake(
        "norm-1-plus-w", "every norm with a weight w multiplies by 1 + w", (*DENSE, *THREE_N), to_norms(add_one, True)
    ),
    Mistake(
        "attention-head-dim", "scores times head_dim^(-1/2), not 1", (*DENSE, *THREE_N), to_layers(scale_by_head_dim)
    ),
    Mistake("no-layer-scalar", "layer_scalar is 1", ("gemma4-dense", "gemma4-e4b"), to_layers(fill("layer_scalar", 1))),
    Mistake(
        "rope-first-dims",
        "proportional RoPE of n angles with its own frequencies turns the first 2n dimensions: pairs (i, i + n)",
        ("gemma4-dense", "gemma4-proportional"),
        rotate_first,
    ),
    Mistake(
        "rope-rotated-denominator",
        "proportional RoPE of n angles with frequencies theta^(-i/n), not theta^(-2i/head_dim); pairs as they should",
        ("gemma4-dense", "gemma4-proportional"),
        own_frequencies(divide_by_rotated),
    ),
    Mistake(
        "rope-whole-head",
        "partial_rotary_factor ignored: all head_dim/2 pairs turn",
        ("gemma4-dense", "gemma4-proportional"),
        own_frequencies(rotate_all),
    ),
    Mistake(
        "router-normed",
        "the router gets pre_feedforward_layernorm_2's output",
        ("gemma4-moe",),
        to_layers(route_normed),
    ),
    Mistake(
        "post-norms-exchanged",
        "post_feedforward_layernorm_1's weight is _2's and the other way round",
        ("gemma4-moe",),
        to_layers(exchange_post_norms),
    ),
    Mistake(
        "kv-sharing-ignored",
        "layers that share keys and values project their own, with the k and v tensors in the file",
        ("gemma4-e4b", "gemma4-e2b", "gemma4-unified", "gemma3n-a", "gemma3n-c"),
        ignore_sharing,
    ),
    Mistake("v-after-k-norm", "where k = v, values are k_norm's output, then normed", DENSE, to_layers(v_after_k_norm)),
    Mistake("no-v-norm", "values are not normed", ("gemma4-dense", *THREE_N), to_layers(leave_out_v_norm)),
    Mistake(
        "no-ple",
        "the per-layer inputs add nothing: per_layer_projection is 0",
        ("gemma4-e4b", *THREE_N),
        to_layers(fill("per_layer_projection.weight", 0)),
    ),
    Mistake("ple-unscaled", "the per-layer table not scaled by sqrt(P)", ("gemma4-e4b", *THREE_N), ple_unscaled),
    Mistake("ple-no-root", "per-layer inputs without the factor 1/sqrt(2)", ("gemma4-e4b", *THREE_N), ple_without_root),
    Mistake(
        "pre-ffn-norm-as-post-attention",
        "post_attention_layernorm has pre_feedforward_layernorm's weight",
        DENSE,
        to_layers(use_pre_ffn_norm),
    ),
    Mistake("no-sparsity", "gates are not made sparse", ("gemma3n-a", "gemma3n-b"), to_layers(sparsity(0.0))),
    Mistake(
        "sparsity-n-minus-1",
        "the gate's standard deviation divides by n - 1",
        ("gemma3n-a", "gemma3n-b"),
        during(Unbiased),
    ),
    Mistake(
        "sparsity-everywhere",
        "the first ten layers are sparse by 0.95 (all of these)",
        ("gemma3n-b",),
        to_layers(sparsity(0.95)),
    ),
    Mistake(
        "altup-clipped",
        "prediction_coefs and correction_coefs clipped to ±altup_coef_clip, 0.25 here",
        ("gemma3n-a",),
        to_layers(clip_coefficients),
    ),
    Mistake(
        "altup-f32",
        "in a bf16 model, predict and correct in f32 with their weights in f32, each result rounded to bf16",
        THREE_N,
        to_layers(altup_in_f32),
        dtype="bf16",
    ),
    Mistake(
        "altup-transposed",
        "pred_j = h_j + sum over i of C[i,j] h_i, not C[j,i]",
        THREE_N,
        to_layers(transpose_coefficients),
    ),
    Mistake(
        "ple-all-streams", "the per-layer input is added to stream 0 as well", THREE_N, to_layers(ple_to_all_streams)
    ),
    Mistake(
        "laurel-unnormed", "Laurel starts from what input_layernorm gets", THREE_N, to_layers(laurel_from_unnormed)
    ),
    Mistake(
        "no-final-softcap",
        "logits without final_logit_softcapping",
        ("gemma4-dense", "gemma4-moe", "gemma3n-b"),
        no_softcap,
    ),
    Mistake(
        "no-per-expert-scale", "per_expert_scale is 1", ("gemma4-moe",), to_layers(fill("router.per_expert_scale", 1))
    ),
    Mistake(
        "top-k-not-renormalised",
        "an expert's weight is its probability among all, times its scale",
        ("gemma4-moe",),
        to_layers(do_not_renormalise),
    ),
    Mistake(
        "norm-squares-bf16",
        "f32 model: in every norm each x² is rounded to bf16, and their mean (taken in f32) too; all else in f32",
        ("gemma4-dense", "gemma3n-b"),
        to_norms(squares_in_bf16),
        dtype="f32",
    ),
    Mistake(
        "softmax-bf16",
        "attention's softmax in bf16: scores, masked, cast to bf16, softmax rounded to bf16, back",
        ("gemma4-dense",),
        during(SoftmaxInBf16),
    ),
    Mistake(
        "norm-bf16",
        "every norm in bf16, input and each step rounded: squares, mean, + eps, rsqrt, product, times w; back",
        ("gemma4-dense", "gemma3n-b"),
        to_norms(norm_in_bf16),
    ),
    Mistake(
        "linear-rope-ignored",
        "full layers' frequencies not divided by 8",
        ("gemma3-linear", "gemma3n-c"),
        own_frequencies(lambda right, *_: 8 * right),
    ),
    Mistake(
        "cross-keys-rotated",
        "keys of the encoder's states turned by their positions there",
        ("t5gemma2-odd", "t5gemma2-even"),
        rotate_cross_keys,
    ),
    Mistake(
        "encoder-window-symmetric", "the encoder's window is |q - k| <= W // 2", ("t5gemma2-even",), symmetric_window
    ),
    Mistake("scale-not-rounded", "embeddings times sqrt(H), not rounded to bf16", ("recurrent",), unrounded_scale),
    Mistake(
        "exact-gelu", "the exact GELU wherever the model has one", WITH_LOGITS, to_layers(lambda _: None), exact=True
    ),
]


def logits(name: str, dtype: str, mistake: Mistake | None = None) -> Tensor:
    golden = MODELS[name]
    model = load(golden, DIRECTORY / name, dtype)
    context = (mistake.put(name, model) if mistake else None) or nullcontext()
    with torch.no_grad(), context:
        return run(golden, model, exact=bool(mistake) and mistake.exact)["logits"].double()


def compare(wrong: Tensor, right: Tensor) -> dict[str, float]:
    right_log, wrong_log = right.log_softmax(-1), wrong.log_softmax(-1)
    kl = (right_log.exp() * (right_log - wrong_log)).sum(-1)
    values = {"rel_l2": relative_l2(wrong, right), "kl_mean_nats": float(kl.mean()), "kl_max_nats": float(kl.max())}
    return {key: float(f"{value:.3e}") for key, value in values.items()}


def main() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    right, rows = {}, []
    for mistake in MISTAKES:
        for name in mistake.models:
            key = name, mistake.dtype
            if key not in right:
                right[key] = logits(*key)
            sizes = compare(logits(*key, mistake), right[key])
            check(sizes["rel_l2"] > 1e-7, f"{mistake.slug} changes nothing of {name}")
            rows.append({"slug": mistake.slug, "what": mistake.what, "model": name, "dtype": mistake.dtype} | sizes)
            print(f"{mistake.slug:32} {name:20} {sizes['rel_l2']:.1e} {sizes['kl_mean_nats']:.1e}", flush=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    versions = json.dumps({"torch": torch.__version__, "transformers": transformers.__version__})
    path = DIRECTORY / "mistakes.json"
    path.write_text(f'{{"versions": {versions}, "mistakes": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
