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
    What could not be captured is said in a warning. Yields the tensors by name, on the CPU; they are there
    after the block.

    Raises ValueError if the model has no Gemma's layers, or none ran.
    """
    if not (folder := Path(path).absolute().parent).is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    owner, layers = find_layers(model)
    hidden_size = layers[0].mlp.gate_proj.weight.shape[-1]
    dump: dict[str, Tensor] = {} if tokens is None else {"tokens": tokens.detach().cpu()}
    expected = {"tokens"}
    metadata = describe(model, layers[0]) | ({"prompt": prompt} if prompt else {})
    passes = 0
    running: tuple[int, int] | None = None  # The layer that runs, and how many tokens it gets.

    def keep(name: str, value: Any) -> None:
        value = value[0] if isinstance(value, tuple | list) else value
        if passes <= 1 and name not in dump and isinstance(value, Tensor):
            dump[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    def keep_tokens(_module, args, kwargs) -> None:
        ids = first_tensor(args, kwargs)
        if not (ids.is_floating_point() or ids.is_complex()):
            keep("tokens", ids)

    def start_layer(layer: int, _module, args, kwargs) -> None:
        nonlocal passes, running
        x = first_tensor(args, kwargs)
        running = layer, x.shape[-2]
        if layer == 0:
            passes += 1
            if passes == 1:
                metadata["phase"] = "decode" if continues_a_cache(kwargs) else "prefill"
            if not logits_only:
                keep("embedding", x)

    def end_layer(_module, _args, _output) -> None:
        nonlocal running
        running = None

    def keep_logits(_module, _args, output) -> None:
        logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
        if isinstance(logits, Tensor) and logits.shape[-1] != hidden_size:
            keep("logits", logits)

    def keep_activated(_module, _args, output) -> None:
        # By the layer that runs: layers may share one activation.
        if running:
            keep(f"layers.{running[0]}.mlp.activated", output)

    def keep_rotated(function: Callable, args: tuple, kwargs: dict, output: Any) -> None:
        if running is None:
            return
        layer, length = running
        q, k = (f"layers.{layer}.attn.{part}" for part in "qk")
        # Some ports rotate queries and keys in one call, some in two.
        names = (q, k) if isinstance(output, tuple) else (k if q in dump else q,)
        outputs = output if isinstance(output, tuple) else (output,)
        for name, x in zip(names, outputs, strict=False):
            keep(name, x.transpose(1, 2) if heads_first(x, length, function, args, kwargs) else x)

    with ExitStack() as undo:

        def on_output(module: nn.Module | None, hook: Callable | str) -> None:
            if module is not None:
                if isinstance(hook, str):
                    expected.add(hook)
                    hook = functools.partial(lambda name, _module, _args, output: keep(name, output), hook)
                undo.callback(module.register_forward_hook(hook).remove)

        def on_input(module: nn.Module | None, hook: Callable | str) -> None:
            if module is not None:
                if isinstance(hook, str):
                    expected.add(hook)
                    hook = functools.partial(
                        lambda name, _module, args, kwargs: keep(name, first_tensor(args, kwargs)), hook
                    )
                undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        on_input(find_embedding(model, owner, hidden_size), keep_tokens)
        on_output(model, keep_logits)
        for n, layer in enumerate(layers):
            on_input(layer, functools.partial(start_layer, n))
            if logits_only:
                continue
            at, attention, mlp = f"layers.{n}", layer.self_attn, layer.mlp
            after_attention = layer.post_attention_layernorm
            before_mlp = getattr(layer, "pre_feedforward_layernorm", None)
            on_output(layer.input_layernorm, f"{at}.attn.input")
            on_output(getattr(attention, "v_proj", None), f"{at}.attn.v")
            on_output(attention, f"{at}.attn.output")
            # Gemma 1 has Llama's names: its norm after attention is the one before the MLP.
            on_output(after_attention if before_mlp is not None else None, f"{at}.attn.normed")
            on_input(after_attention if before_mlp is None else before_mlp, f"{at}.attended")
            on_input(mlp, f"{at}.mlp.input")
            on_output(mlp.gate_proj, f"{at}.mlp.gate")
            on_output(mlp.up_proj, f"{at}.mlp.up")
            if isinstance(getattr(mlp, "act_fn", None), nn.Module):
                on_output(mlp.act_fn, keep_activated)
            on_input(mlp.down_proj, f"{at}.mlp.product")
            on_output(mlp, f"{at}.mlp.output")
            on_output(getattr(layer, "post_feedforward_layernorm", None), f"{at}.mlp.normed")
            on_output(layer, f"hidden.{n}")
            on_output(layer, end_layer)
            expected |= {f"{at}.{point}" for point in ("attn.q", "attn.k", "attn.v", "mlp.activated")}
        if not logits_only:
            expected.add("embedding")
            on_output(getattr(owner, "norm", None), "normed")
            for namespace, name in rope_functions(layers):
                undo.callback(namespace.__setitem__, name, namespace[name])
                namespace[name] = observed(namespace[name], keep_rotated)
        yield dump

    if passes == 0:
        raise ValueError(f"{path} is not written: no forward pass of the model ran in the block")
    if "tokens" not in dump:
        raise ValueError(f"{path} is not written: the model got embeddings, so pass their ids: capture(…, tokens=ids)")
    for n in range(len(layers)):
        split_heads(dump, n)
    lacks = what_is_missing(dump, expected, passes, metadata)
    save_file(dump, path, metadata)
    for message in lacks:
        warnings.warn(f"{path}: {message}", stacklevel=3)


def find_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that owns Gemma's decoder layers, and these layers."""
    parts = ("input_layernorm", "post_attention_layernorm", "self_attn")

    def is_layer(module: nn.Module) -> bool:
        mlp = getattr(module, "mlp", None)
        projections = ("gate_proj", "up_proj", "down_proj")
        return all(hasattr(module, part) for part in parts) and all(hasattr(mlp, part) for part in projections)

    found = [
        (owner, child)
        for owner in model.modules()
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


def heads_first(x: Tensor, length: int, function: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether rotated heads are `[B, heads, T, head_dim]`, and not `[B, T, heads, head_dim]`."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    unsqueeze_dim = call.arguments.get("unsqueeze_dim")
    return x.shape[1] != length if unsqueeze_dim is None else unsqueeze_dim == 1


def split_heads(dump: dict[str, Tensor], layer: int) -> None:
    """Values `[B, T, heads * head_dim]` as `[B, T, heads, head_dim]`, like the keys."""
    k, v = (f"layers.{layer}.attn.{part}" for part in "kv")
    if v in dump:
        flat = dump.pop(v)
        if k in dump:
            dump[v] = flat.unflatten(-1, (-1, dump[k].shape[-1]))


def first_tensor(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The first tensor that a module is called with."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


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
    }
    if all(weight.is_floating_point() and weight.ndim == 2 for weight in (gate, up, down)):
        known["first_mlp_sha256"] = sha256_as_f32(gate, up, down)
    return {key: str(value) for key, value in known.items() if value}


def sha256_as_f32(*tensors: Tensor) -> str:
    """SHA-256 of tensors one after the other, as little-endian f32."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False))
    return digest.hexdigest()


def what_is_missing(dump: dict[str, Tensor], expected: set[str], passes: int, metadata: dict[str, str]) -> list[str]:
    """All that the file lacks. Drops logits of some tokens only."""
    lacks = []
    if passes > 1:
        lacks.append(f"holds the first of {passes} forward passes; the others are not captured")
    if metadata.get("phase") == "decode":
        lacks.append("the pass continues a cache, so the tokens before it are not in the file")
    if "first_mlp_sha256" not in metadata:
        lacks.append("cannot be checked to hold the same weights: those of the first MLP are quantized")
    count = dump["tokens"].shape[-1]
    if "logits" not in dump:
        lacks.append("has no logits: the model returned none")
    elif (got := dump["logits"].shape[-2]) != count:
        del dump["logits"]
        lacks.append(f"has no logits: the model returned those of {got} of {count} tokens; logits_to_keep=0 is all")
    if missing := expected - dump.keys():
        points = Counter(".".join("N" if part.isdigit() else part for part in name.split(".")) for name in missing)
        lacks.append("not captured: " + ", ".join(f"{point} ({times}×)" for point, times in sorted(points.items())))
    return lacks


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

    from transformers import AutoModelForCausalLM

    ids = torch.tensor(json.loads(args.ids.read_text()))
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=DTYPES[args.dtype], attn_implementation=args.attention
    )
    model = model.to(args.device).eval()
    with torch.no_grad(), capture(model, args.out, logits_only=args.logits_only):
        model(ids.reshape(-1, ids.shape[-1]).to(args.device), use_cache=False)


# Not where it is pasted into a notebook.
if __name__ == "__main__" and not hasattr(sys, "ps1"):
    main()
