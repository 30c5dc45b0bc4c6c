"""Captures what a Gemma in torch computes, point by point, into one safetensors file:

    python transformers.py MODEL IDS.json OUT.safetensors --dtype bf16

or around a forward pass of your own, of transformers' Gemma or of a port with its module names:

    with capture(model, "theirs.safetensors"):
        model(ids)

`gemma-mlp compare theirs.safetensors --model MODEL` then says where it first departs from Gemma.
This file needs torch and safetensors; transformers only to load a model on the command line.
"""

import argparse
import functools
import hashlib
import inspect
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

if Path(sys.argv[0]).name == "transformers.py":
    # Run under this name, `import transformers` would find this file.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(sys.argv[0]).resolve().parent]

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FORMAT = "gemma-mlp-dump/1"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
ROPE_FUNCTIONS = ("apply_rotary_pos_emb", "apply_rotary_emb")


@contextmanager
def capture(
    model: nn.Module,
    path: str | Path,
    *,
    logits_only: bool = False,
    tokens: Tensor | None = None,
    prompt: str | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Writes what the first forward pass of `model` in this block computes to `path`.

    Nothing of what is computed changes, and all hooks are gone after the block. An exception in it writes no file.
    `tokens` are the ids of a pass that is given embeddings; otherwise they are what the embedding gets.
    What could not be captured is said in a warning. Yields the tensors by name, on the CPU, which are all there
    after the block.

    Raises ValueError if the model has no layers of Gemma's, or none ran.
    """
    if not (folder := Path(path).absolute().parent).is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    owner, layers = find_layers(model)
    metadata = describe(model, layers[0]) | ({"prompt": prompt} if prompt else {})
    seen = Recorder(hidden_size=layers[0].mlp.gate_proj.weight.shape[-1])
    if tokens is not None:
        seen.keep("tokens", tokens)
    with ExitStack() as undo:

        def on_input(module: nn.Module, hook: Callable, *first: Any) -> None:
            hook = functools.partial(hook, *first)
            undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        def on_output(module: nn.Module, hook: Callable, *first: Any) -> None:
            undo.callback(module.register_forward_hook(functools.partial(hook, *first)).remove)

        on_input(model, seen.start_model)
        on_output(model, seen.end_model)
        if embedding := find_embedding(model, owner, seen.hidden_size):
            on_input(embedding, seen.start_embedding)
        for n, layer in enumerate(layers):
            on_input(layer, seen.start_layer, n)
            for name, module, side in points(layer) if not logits_only else ():
                hook, register = (seen.input, on_input) if side == "input" else (seen.output, on_output)
                seen.expected.add(name.replace("N", str(n)))
                if module is not None:
                    register(module, hook, name)
            on_output(layer, seen.end_layer)
        if not logits_only:
            seen.expected |= {"embedding", "normed"}
            if (norm := getattr(owner, "norm", None)) is not None:
                on_output(norm, seen.output, "normed")
            if isinstance(projection := getattr(owner, "embedding_projection", None), nn.Module):
                seen.expected.add("projected")
                on_output(projection, seen.output, "projected")
            for namespace, name in rope_functions(layers):
                undo.callback(namespace.__setitem__, name, namespace[name])
                namespace[name] = observed(namespace[name], seen.rotated)
        yield seen.dump

    if seen.passes == 0:
        raise ValueError(f"{path} is not written: no forward pass of the model ran, or a compiled one, without hooks")
    if "tokens" not in seen.dump:
        raise ValueError(f"{path} is not written: the model got embeddings, so pass their ids: capture(…, tokens=ids)")
    lacks = seen.finish()
    if metadata.get("experts", "eager") != "eager":
        kind = metadata["experts"]
        lacks.append(f"experts are computed by {kind}, which sums in another order: experts_implementation='eager' is exact")
    if "first_mlp_sha256" not in metadata:
        lacks.append("cannot be checked to hold the same weights: those of the first MLP are quantized or offloaded")
    save_file(seen.dump, path, metadata | {"phase": seen.phase})
    for message in lacks:
        warnings.warn(f"{path}: {message}", stacklevel=3)


def points(layer: nn.Module) -> list[tuple[str, nn.Module | None, str]]:
    """The points of a layer: names, in which N is its number, and the modules whose input or output they are.

    A point without a module is computed by a function, if at all. Queries and keys are those of `rotated`.
    """
    attention, mlp = layer.self_attn, layer.mlp
    # Of an input of the layer's own: Gemma 3n, 4, and EmbeddingGemma 2, which has a module for it.
    own_input = getattr(layer, "ple_block", layer)
    after_attention = layer.post_attention_layernorm
    before_mlp = getattr(layer, "pre_feedforward_layernorm", None)
    found = [
        ("layers.N.attn.input", layer.input_layernorm, "output"),
        ("layers.N.attn.q", None, "output"),
        ("layers.N.attn.k", None, "output"),
        # Gemma 3n and 4 norm values too.
        ("layers.N.attn.v", getattr(attention, "v_norm", getattr(attention, "v_proj", None)), "output"),
        ("layers.N.attn.output", attention, "output"),
        # Gemma 1 has Llama's names: its norm after attention is the one before the MLP.
        ("layers.N.attended", after_attention if before_mlp is None else before_mlp, "input"),
        ("layers.N.mlp.input", mlp, "input"),
        ("layers.N.mlp.gate", mlp.gate_proj, "output"),
        ("layers.N.mlp.up", mlp.up_proj, "output"),
        ("layers.N.mlp.activated", getattr(mlp, "act_fn", None), "output"),
        ("layers.N.mlp.product", mlp.down_proj, "input"),
        ("layers.N.mlp.output", mlp, "output"),
        ("hidden.N", layer, "output"),
    ]
    if getattr(attention, "is_kv_shared_layer", False):  # It has an earlier layer's.
        found = [point for point in found if point[0] not in ("layers.N.attn.k", "layers.N.attn.v")]
    if isinstance(getattr(layer, "experts", None), nn.Module):
        found += [
            ("layers.N.experts.probabilities", getattr(layer, "router", None), "output"),
            ("layers.N.experts.weights", None, "output"),
            ("layers.N.experts.output", layer.experts, "output"),
        ]
    if isinstance(getattr(own_input, "per_layer_input_gate", None), nn.Module):
        found += [
            ("layers.N.per_layer.gate", own_input.per_layer_input_gate, "output"),
            ("layers.N.per_layer.product", own_input.per_layer_projection, "input"),
            ("layers.N.per_layer.output", own_input.post_per_layer_input_norm, "output"),
        ]
    if before_mlp is not None:
        found.append(("layers.N.attn.normed", after_attention, "output"))
    if hasattr(layer, "post_feedforward_layernorm"):
        found.append(("layers.N.mlp.normed", layer.post_feedforward_layernorm, "output"))
    return [(name, module if isinstance(module, nn.Module) else None, side) for name, module, side in found]


class Recorder:
    """Copies what the first forward pass computes. Its methods are hooks of torch, behind what is bound first."""

    def __init__(self, hidden_size: int):
        self.hidden_size = hidden_size
        self.dump: dict[str, Tensor] = {}
        self.expected: set[str] = set()
        self.passes = 0
        self.phase = "prefill"
        self.padded = False
        self.layer: int | None = None  # The one that runs.
        self.length = 0  # How many tokens it gets.
        self.shape: tuple[int, ...] = ()  # [B, T] of the first layer.
        self.shorter = 0  # How many layers got fewer tokens.

    def keep(self, name: str, value: Any) -> None:
        """A point's value: a tensor, or the first of a tuple. N in its name is the layer that runs."""
        name = name.replace("N", str(self.layer))
        value = value[0] if isinstance(value, tuple | list) else value
        if self.passes <= 1 and name not in self.dump and isinstance(value, Tensor):
            if value.ndim == 4 and (name == "embedding" or name.startswith("hidden.")):
                # Gemma 3n's residual streams [A, B, T, H], side by side: [B, T, A·H].
                value = value.permute(1, 2, 0, 3).flatten(2)
            elif value.ndim == 2 and ".experts." in name and len(self.shape) == 2:
                value = value.unflatten(0, (-1, self.length))  # They get rows, without the texts' axis.
            self.dump[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    def input(self, name: str, _module, args, kwargs) -> None:
        self.keep(name, first_tensor(args, kwargs))

    def output(self, name: str, _module, _args, output) -> None:
        self.keep(name, output)
        if name.endswith(".experts.probabilities") and isinstance(output, tuple) and len(output) == 3:
            # What is chosen: of equal probabilities torch takes either.
            probabilities, weights, experts = output
            chosen = torch.zeros_like(probabilities).scatter(-1, experts, weights.to(probabilities.dtype))
            self.keep(name.replace("probabilities", "weights"), chosen)

    def start_model(self, _module, _args, kwargs) -> None:
        mask = kwargs.get("attention_mask")
        self.padded |= self.passes == 0 and isinstance(mask, Tensor) and mask.ndim == 2 and not mask.all()

    def end_model(self, _module, _args, output) -> None:
        logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
        # A model without a head returns its last hidden state.
        if isinstance(logits, Tensor) and logits.shape[-1] != self.hidden_size:
            self.keep("logits", logits)

    def start_embedding(self, _module, args, kwargs) -> None:
        ids = first_tensor(args, kwargs)
        if ids is not None and not ids.is_floating_point():
            self.keep("tokens", ids)

    def start_layer(self, layer: int, _module, args, kwargs) -> None:
        x = first_tensor(args, kwargs)
        self.layer, self.length = layer, x.shape[-2]
        self.shorter += self.passes == 1 and layer > 0 and self.length < self.shape[-1]
        if layer == 0:
            self.shape = tuple(x.shape[-3:-1])
            self.passes += 1
            if self.passes == 1 and continues_a_cache(kwargs):
                self.phase = "decode"
            if "embedding" in self.expected:
                self.keep("embedding", x)

    def end_layer(self, _module, _args, _output) -> None:
        self.layer = None

    def rotated(self, function: Callable, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """What a function that rotates returns: queries and keys, or one of them; queries come first."""
        if self.layer is None:
            return
        if isinstance(output, tuple):
            names = ("layers.N.attn.q", "layers.N.attn.k")
        else:
            has_queries = f"layers.{self.layer}.attn.q" in self.dump
            names, output = ("layers.N.attn.k" if has_queries else "layers.N.attn.q",), (output,)
        for name, x in zip(names, output, strict=False):
            self.keep(name, x.transpose(1, 2) if heads_first(x, self.length, function, args, kwargs) else x)

    def finish(self) -> list[str]:
        """Gives values their heads, drops logits of some tokens only, and tells all that is missing."""
        dump, lacks = self.dump, []
        for name in [name for name in dump if name.endswith(".attn.v")]:
            k = dump.get(name.removesuffix("v") + "k")
            if k is not None and dump[name].ndim < k.ndim:
                dump[name] = dump[name].unflatten(-1, (-1, k.shape[-1]))
        if self.passes > 1:
            lacks.append(f"holds the first of {self.passes} forward passes; the others are not captured")
        if self.shorter:
            lacks.append(f"{self.shorter} layers got the last tokens alone; logits_to_keep=0, and no generate, is all")
        if self.phase == "decode":
            lacks.append("the pass continues a cache, so the tokens before it are not in the file")
        if self.padded:
            lacks.append("some positions are padding, and the file does not say which: run each text by itself")
        count = dump["tokens"].shape[-1]
        if "logits" not in dump:
            lacks.append("has no logits: the model returned none")
        elif (got := dump["logits"].shape[-2]) != count:
            del dump["logits"]
            lacks.append(f"has no logits: the model returned those of {got} of {count} tokens; logits_to_keep=0 is all")
        if missing := self.expected - dump.keys():
            points = Counter(".".join("N" if part.isdigit() else part for part in name.split(".")) for name in missing)
            lacks.append("not captured: " + ", ".join(f"{point} ({times}×)" for point, times in sorted(points.items())))
        return lacks


def find_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that owns Gemma's decoder layers, and these layers."""
    parts = ("input_layernorm", "post_attention_layernorm", "self_attn")

    def is_layer(module: nn.Module) -> bool:
        mlp = getattr(module, "mlp", None)
        projections = ("gate_proj", "up_proj", "down_proj")
        return all(hasattr(module, part) for part in parts) and all(hasattr(mlp, part) for part in projections)

    found = [
        (owner, child)
        for name, owner in model.named_modules()
        if not any(other in name for other in ("vision", "audio"))
        for child in owner.children()
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child) and all(map(is_layer, child))
    ]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found) or 'no'} stacks of Gemma's layers, where one is expected: a "
            f"ModuleList of layers with {', '.join(parts)} and an mlp with gate_proj, up_proj and down_proj"
        )
    return found[0]


def find_embedding(model: nn.Module, owner: nn.Module, hidden_size: int) -> nn.Module | None:
    """The module that gets the token ids."""

    def embeds(module: nn.Module) -> bool:
        weight = getattr(module, "weight", None)
        return "Embed" in type(module).__name__ and weight is not None and weight.shape[-1] == hidden_size

    return getattr(owner, "embed_tokens", None) or next(filter(embeds, model.modules()), None)


def rope_functions(layers: nn.ModuleList) -> list[tuple[dict[str, Any], str]]:
    """Where the functions that rotate queries and keys lie: namespaces of modules, and names in them."""
    classes = {base for layer in layers for base in type(layer.self_attn).__mro__}
    modules = {base.__module__ for base in classes if not base.__module__.startswith(("torch.", "builtins"))}
    namespaces = [vars(sys.modules[module]) for module in sorted(modules) if module in sys.modules]
    return [(namespace, name) for namespace in namespaces for name in ROPE_FUNCTIONS if callable(namespace.get(name))]


def observed(function: Callable, observe: Callable) -> Callable:
    """The same function, whose calls are shown to `observe`."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        output = function(*args, **kwargs)
        observe(function, args, kwargs, output)
        return output

    return call


def heads_first(x: Tensor, length: int, function: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether rotated heads are `[B, heads, T, head_dim]`, and not `[B, T, heads, head_dim]`."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    unsqueeze_dim = call.arguments.get("unsqueeze_dim")
    return x.shape[1] != length if unsqueeze_dim is None else unsqueeze_dim == 1


def first_tensor(args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
    """The first tensor that a module is called with."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)


def continues_a_cache(kwargs: dict[str, Any]) -> bool:
    """Whether a layer is called with keys and values of earlier tokens."""
    caches = (kwargs.get(name) for name in ("cache", "past_key_values", "past_key_value"))
    return any(hasattr(cache, "get_seq_length") and cache.get_seq_length() > 0 for cache in caches)


def describe(model: nn.Module, layer: nn.Module) -> dict[str, str]:
    """The dump's metadata, as far as the model tells."""
    gate, up, down = (getattr(layer.mlp, name).weight for name in ("gate_proj", "up_proj", "down_proj"))
    config = getattr(model, "config", None)
    library = sys.modules.get("transformers")
    is_theirs = any(base.__module__.startswith("transformers.") for base in type(model).__mro__)
    known = {
        "format": FORMAT,
        "framework": "transformers" if is_theirs else "torch",
        "framework_version": library.__version__ if is_theirs and library else torch.__version__,
        "torch_version": torch.__version__,
        "device": gate.device.type,
        "model": getattr(config, "_name_or_path", None),
        "revision": getattr(config, "_commit_hash", None),
        "dtype": next((name for name, dtype in DTYPES.items() if dtype == gate.dtype), str(gate.dtype)),
        "attention": getattr(config, "_attn_implementation", None),
        "experts": getattr(config, "_experts_implementation", None) if hasattr(layer, "experts") else None,
    }
    if all(weight.is_floating_point() and weight.ndim == 2 and not weight.is_meta for weight in (gate, up, down)):
        known["first_mlp_sha256"] = sha256_as_f32(gate, up, down)
    return {key: str(value) for key, value in known.items() if value}


def sha256_as_f32(*tensors: Tensor) -> str:
    """SHA-256 of tensors one after the other, as little-endian f32."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False))
    return digest.hexdigest()


def load(name: str | Path, dtype: torch.dtype, attention: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model of transformers, and what to call it with for the logits of all tokens."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(name)
    text = getattr(config, "text_config", None) or config
    options = {"dtype": dtype, "attn_implementation": attention}
    if getattr(text, "enable_moe_block", False):
        options["experts_implementation"] = "eager"  # The others sum in another order.
    if config.model_type.startswith("embedding_gemma2"):  # It has no head.
        return AutoModel.from_pretrained(name, **options).eval(), {}
    model = AutoModelForCausalLM.from_pretrained(name, **options).eval()
    return model, {"logits_to_keep": 0, "use_cache": False}


def main() -> None:
    """Loads a model from a folder, or by its id on the Hugging Face Hub, and captures one pass."""
    parser = argparse.ArgumentParser(description="Captures what transformers' Gemma computes.")
    parser.add_argument("model", help="a folder with config.json and model.safetensors, or an id on the Hub")
    parser.add_argument("ids", type=Path, help="a JSON array of token ids, BOS first")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="what to compute in [default: bf16]")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa", help="[default: sdpa]")
    parser.add_argument("--device", default="cpu", help="as torch names it [default: cpu]")
    parser.add_argument("--logits-only", action="store_true", help="leave out what is inside the model")
    args = parser.parse_args()

    ids = torch.tensor(json.loads(args.ids.read_text()))
    model, options = load(args.model, DTYPES[args.dtype], args.attention)
    model = model.to(args.device)
    with torch.no_grad(), capture(model, args.out, logits_only=args.logits_only):
        model(ids.reshape(-1, ids.shape[-1]).to(args.device), **options)


# Not where it is pasted into a notebook.
if __name__ == "__main__" and not hasattr(sys, "ps1"):
    main()
