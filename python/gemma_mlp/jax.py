"""Captures what DeepMind's Gemma 3 in JAX (the package `gemma`) computes, into one safetensors file:

    python jax.py MODEL IDS.json OUT.safetensors --dtype bf16

MODEL is a Hugging Face directory; its weights are given to DeepMind's model under DeepMind's names.
Around a forward pass of your own, of any flax.linen model that has DeepMind's module names:

    with capture(model, "theirs.safetensors"):
        model.apply({"params": params}, ids)

`gemma-mlp compare theirs.safetensors --model MODEL` then says where it first departs from Gemma.
This file needs jax, flax, numpy and safetensors; `gemma` only to build the model on the command line.
"""

import argparse
import functools
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

if Path(sys.argv[0]).name == "jax.py":
    # Run under this name, `import jax` would find this file.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(sys.argv[0]).resolve().parent]

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

FORMAT = "gemma-mlp-dump/1"
DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16}

# What a module's methods return, by its path and what flax calls the method; a number picks from a tuple.
OUTPUTS = {
    "embedder.encode": "embedding",
    "layer_N.pre_attention_norm.__call__": "layers.N.attn.input",
    "layer_N.attn.kv_einsum.__call__": ("layers.N.attn.v", 1),
    "layer_N.attn.qkv_einsum.__call__": ("layers.N.attn.v", 2),
    "layer_N.attn.__call__": ("layers.N.attn.output", 1),
    "layer_N.post_attention_norm.__call__": "layers.N.attn.normed",
    "layer_N.pre_ffw_norm.__call__": "layers.N.mlp.input",
    "layer_N.mlp.__call__": "layers.N.mlp.output",
    "layer_N.post_ffw_norm.__call__": "layers.N.mlp.normed",
    "layer_N.__call__": ("hidden.N", 1),
    "final_norm.__call__": "normed",
    "embedder.decode": "logits",
}
METHODS = {"__call__", "encode", "decode"}


@contextmanager
def capture(model: nn.Module, path: str | Path, *, prompt: str | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Writes what the first `model.apply(variables, ids, …)` in this block computes to `path`.

    `variables` hold `params`; `ids`, integers `[T]` or `[B, T]`, come behind them or as `tokens`. flax captures what
    the modules return (`capture_intermediates`); what they do not, such as queries and keys after RoPE and the
    activated gate, is sown beside it, into the same collection. Nothing else changes: on a CPU, logits are bit for bit
    those of a pass without capture (jax 0.10, bf16). An exception in the block writes no file. What could not be
    captured is said in a warning. Yields the arrays by name; they are there after the block.

    Raises TypeError if the model is none of flax.linen, ValueError if it has no layers of DeepMind's names, or if
    none ran.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model of flax.linen is wanted, not {type(model).__module__}.{type(model).__name__}")
    if not (folder := Path(path).absolute().parent).is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    dump: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {"prompt": prompt} if prompt else {}
    apply = model.apply

    @functools.wraps(apply)
    def captured(variables: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if dump:  # The first pass counts.
            return apply(variables, *args, **kwargs)
        if kwargs.get("mutable") or kwargs.get("capture_intermediates"):
            raise ValueError("inside of capture, call model.apply without mutable and capture_intermediates")
        tokens = np.asarray(args[0] if args else kwargs["tokens"])
        # A function that was compiled before has no places to capture at.
        jax.clear_caches()
        with sown():
            output, state = apply(
                variables,
                *args,
                **kwargs | {"mutable": ["intermediates"]},
                capture_intermediates=lambda _module, method: method in METHODS,
            )
        jax.clear_caches()
        dump["tokens"] = np.ascontiguousarray(tokens, np.int32)
        for name, value in named(state.get("intermediates", {})):
            dump[name] = np.ascontiguousarray(value)
        logits = getattr(output, "logits", None)  # After the soft cap, where there is one.
        if logits is not None:
            dump["logits"] = np.asarray(logits)
        metadata.update(describe(variables["params"]))
        return output

    # linen's modules are frozen, and flax passes what it wants through __setattr__ only.
    object.__setattr__(model, "apply", captured)
    try:
        yield dump
    finally:
        object.__delattr__(model, "apply")

    if not dump:
        raise ValueError(f"{path} is not written: no model.apply ran in the block")
    if not any(name.startswith("hidden.") for name in dump):
        raise ValueError(f"{path} is not written: the model has no modules named layer_0, layer_1, …")
    if missing := [point for point in points(dump) if point not in dump]:
        warnings.warn(f"{path}: not captured: {', '.join(missing)}", stacklevel=3)
    save_file(dump, path, metadata)


@contextmanager
def sown() -> Iterator[None]:
    """Inside, modules with DeepMind's names also keep what their methods do not return."""
    running: list[nn.Module] = []

    def keep(module: nn.Module, name: str, value: jax.Array) -> None:
        if module.is_mutable_collection("intermediates"):
            module.sow("intermediates", name, value)

    def around(method: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or module.scope is None:
            return method(*args, **kwargs)
        name, parent = module.name, running[-1] if running else None
        if name == "pre_ffw_norm":
            keep(module, "input", args[0])
        running.append(module)
        try:
            output = method(*args, **kwargs)
        finally:
            running.pop()
        # The two products of the MLP are modules that share its scope, so that only their weights' names differ.
        match getattr(module, "weight_name", None):
            case "gating_einsum":
                keep(parent, "gate", output[..., 0, :])
                keep(parent, "up", output[..., 1, :])
            case "linear":
                keep(parent, "product", args[1])
        return output

    def observed(function: Callable, point: str) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> jax.Array:
            output = function(*args, **kwargs)
            if running:
                keep(running[-1], point, output)
            return output

        return call

    with nn.intercept_methods(around), ExitStack() as undo:
        # Queries are rotated first, then keys. DeepMind's modules find both functions where they lie, by name.
        for library, name, point in (
            (sys.modules.get("gemma.gm.math._positional_embeddings"), "apply_rope", "rotated"),
            (nn, "gelu", "activated"),
        ):
            if function := getattr(library, name, None):
                undo.callback(setattr, library, name, function)
                setattr(library, name, observed(function, point))
        yield


def named(intermediates: dict[str, Any]) -> Iterator[tuple[str, jax.Array]]:
    """What was captured, by the dump's names."""
    for path, calls in leaves(intermediates):
        layer = re.search(r"layer_(\d+)", path)
        number = layer[1] if layer else ""
        match path.replace(f"layer_{number}.", "layer_N."):
            case "layer_N.attn.rotated":
                found = [(f"layers.N.attn.{part}", x) for part, x in zip("qk", calls, strict=False)]
            case "layer_N.pre_ffw_norm.input":
                found = [("layers.N.attended", calls[0])]
            case "layer_N.mlp.gate" | "layer_N.mlp.up" | "layer_N.mlp.activated" | "layer_N.mlp.product" as point:
                found = [(point.replace("layer_", "layers."), calls[0])]
            case known if known in OUTPUTS:
                match OUTPUTS[known]:
                    case name, index:
                        found = [(name, calls[-1][index])]
                    case name:
                        found = [(name, calls[-1])]  # The MLP's own comes after its products'.
            case _:
                found = []
        for name, value in found:
            yield name.replace("N", number), value


def leaves(tree: dict[str, Any], at: str = "") -> Iterator[tuple[str, tuple]]:
    """The calls of each method, by its path."""
    for name, value in tree.items():
        if isinstance(value, tuple):
            yield f"{at}{name}", value
        else:
            yield from leaves(value, f"{at}{name}.")


def points(dump: dict[str, Any]) -> Iterator[str]:
    """What a dump of Gemma 3 should hold."""
    layers = sum(name.startswith("hidden.") for name in dump)
    yield from ("embedding", "normed", "logits")
    for n in range(layers):
        yield from (f"layers.{n}.attn.{part}" for part in ("input", "q", "k", "v", "output", "normed"))
        yield from (
            f"layers.{n}.mlp.{part}" for part in ("input", "gate", "up", "activated", "product", "output", "normed")
        )
        yield from (f"layers.{n}.attended", f"hidden.{n}")


def describe(params: dict[str, Any]) -> dict[str, str]:
    """The dump's metadata, as far as the weights tell."""
    first = params.get("layer_0", {}).get("mlp", {})
    dtype = jax.tree.leaves(params)[0].dtype
    metadata = {
        "format": FORMAT,
        "framework": "jax",
        "framework_version": jax.__version__,
        "flax_version": sys.modules["flax"].__version__,
        "device": jax.default_backend(),
        "dtype": next((name for name, known in DTYPES.items() if known == dtype), str(dtype)),
        "attention": "eager",
        "phase": "prefill",
    }
    if "gemma" in sys.modules:
        metadata["gemma_version"] = sys.modules["gemma"].__version__
    if "gating_einsum" in first and "linear" in first:
        gating, down = np.asarray(first["gating_einsum"]), np.asarray(first["linear"])
        if gating.shape[-1] != down.shape[-1]:  # [2, features, hidden], as in Gemma 1.
            gating = gating.swapaxes(1, 2)
        metadata["first_mlp_sha256"] = sha256_as_f32(gating[0], gating[1], down.T)
    return metadata


def sha256_as_f32(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays one after the other, as little-endian f32."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4"))
    return digest.hexdigest()


def load(directory: Path, dtype: Any) -> tuple[nn.Module, dict[str, Any]]:
    """DeepMind's model for a Hugging Face directory of a Gemma 3 for text, and its parameters."""
    from gemma import gm
    from gemma.gm.nn import _config, _transformer

    config = json.loads((directory / "config.json").read_text())
    config = config.get("text_config", config)
    if config["model_type"] != "gemma3_text":
        raise ValueError(f"{directory}: this script loads Gemma 3, not {config['model_type']!r}")
    heads, kv_heads, head_dim = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    hidden, pattern = config["hidden_size"], config.get("sliding_window_pattern", 6)
    types = config.get("layer_types") or [
        "full_attention" if (n + 1) % pattern == 0 else "sliding_attention" for n in range(config["num_hidden_layers"])
    ]
    scalar = config.get("query_pre_attn_scalar", head_dim)
    norms = _config.QueryPreAttentionNormalisation
    if scalar not in (head_dim, hidden // heads):
        raise ValueError(f"{directory}: query_pre_attn_scalar is {scalar}, which DeepMind's Gemma cannot be told")
    if config["rms_norm_eps"] != 1e-6:
        raise ValueError(f"{directory}: rms_norm_eps is {config['rms_norm_eps']}, but DeepMind's Gemma has 1e-6")
    # transformers 5 writes one entry a kind of layer, earlier ones three of the config's own.
    rope = config.get("rope_parameters") or {}
    full, sliding = rope.get("full_attention", {}), rope.get("sliding_attention", {})
    factor = full.get("factor") or (config.get("rope_scaling") or {}).get("factor", 1.0)
    model = _transformer.Transformer(
        dtype=dtype,
        tokens="batch.tokens",
        config=_config.TransformerConfig(
            num_embed=config["vocab_size"],
            embed_dim=hidden,
            hidden_dim=config["intermediate_size"],
            num_heads=heads,
            head_dim=head_dim,
            num_kv_heads=kv_heads,
            final_logit_softcap=config.get("final_logit_softcapping"),
            attn_logits_soft_cap=config.get("attn_logit_softcapping"),
            use_post_attn_norm=True,
            use_post_ffw_norm=True,
            use_qk_norm=True,
            attention_types=[
                gm.nn.AttentionType.GLOBAL if kind == "full_attention" else gm.nn.AttentionType.LOCAL_SLIDING
                for kind in types
            ],
            query_pre_attn_norm=norms.BY_ONE_OVER_SQRT_HEAD_DIM
            if scalar == head_dim
            else norms.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS,
            sliding_window_size=config["sliding_window"],
            transpose_gating_einsum=True,
            local_base_frequency=int(sliding.get("rope_theta") or config.get("rope_local_base_freq", 10_000)),
            global_base_frequency=int(full.get("rope_theta") or config.get("rope_theta", 1_000_000)),
            global_scale_factor=factor,
        ),
    )
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "np") as opened:
            tensors |= {
                re.sub(r"^.*?(embed_tokens|layers|norm)\b", r"\1", k): opened.get_tensor(k)
                for k in opened.keys()  # noqa: SIM118 (it is no dict)
                if "vision" not in k and "projector" not in k
            }

    def take(name: str) -> np.ndarray:
        return tensors.pop(f"{name}.weight")

    def projection(name: str, count: int) -> np.ndarray:
        return take(name).reshape(count, head_dim, hidden).swapaxes(1, 2)  # [heads, features, head_dim]

    params: dict[str, Any] = {
        "embedder": {"input_embedding": take("embed_tokens")},
        "final_norm": {"scale": take("norm")},
    }
    for n in range(config["num_hidden_layers"]):
        at = f"layers.{n}"
        q = projection(f"{at}.self_attn.q_proj", heads)
        k, v = (projection(f"{at}.self_attn.{part}_proj", kv_heads) for part in "kv")
        attention = (
            {"qkv_einsum": {"w": np.stack([q, k, v])}}
            if heads == kv_heads
            else {"q_einsum": {"w": q}, "kv_einsum": {"w": np.stack([k, v])}}
        )
        params[f"layer_{n}"] = {
            "pre_attention_norm": {"scale": take(f"{at}.input_layernorm")},
            "attn": attention
            | {
                "_query_norm": {"scale": take(f"{at}.self_attn.q_norm")},
                "_key_norm": {"scale": take(f"{at}.self_attn.k_norm")},
                "attn_vec_einsum": {"w": take(f"{at}.self_attn.o_proj").T.reshape(heads, head_dim, hidden)},
            },
            "post_attention_norm": {"scale": take(f"{at}.post_attention_layernorm")},
            "pre_ffw_norm": {"scale": take(f"{at}.pre_feedforward_layernorm")},
            "mlp": {
                "gating_einsum": np.stack([take(f"{at}.mlp.gate_proj"), take(f"{at}.mlp.up_proj")]),
                "linear": take(f"{at}.mlp.down_proj").T,
            },
            "post_ffw_norm": {"scale": take(f"{at}.post_feedforward_layernorm")},
        }
    if tensors:
        raise ValueError(f"{directory}: no place in DeepMind's Gemma for {', '.join(sorted(tensors))}")
    return model, {"params": jax.tree.map(lambda x: jnp.asarray(x, dtype), params)}


def read_ids(path: Path, vocabulary: int) -> list[int]:
    """The token ids in a JSON file, all of the vocabulary."""
    ids = json.loads(path.read_text())
    if not (isinstance(ids, list) and ids and all(type(token) is int for token in ids)):
        raise ValueError(f"{path}: not a JSON array of token ids")
    if not all(0 <= token < vocabulary for token in ids):
        raise ValueError(f"{path}: the vocabulary has ids from 0 to {vocabulary - 1}, not {min(ids)} to {max(ids)}")
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description="Captures what DeepMind's Gemma 3 in JAX computes.")
    parser.add_argument("model", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("ids", type=Path, help="a JSON array of token ids, BOS first")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="what to compute in [default: bf16]")
    args = parser.parse_args()
    model, variables = load(args.model, DTYPES[args.dtype])
    ids = read_ids(args.ids, model.config.num_embed)
    if 0 in ids:
        warnings.warn(f"{args.ids}: DeepMind's Gemma takes id 0 for padding, and masks it", stacklevel=2)
    with capture(model, args.out):
        model.apply(variables, jnp.asarray([ids], jnp.int32))


# Not where it is pasted into a notebook.
if __name__ == "__main__" and not hasattr(sys, "ps1"):
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
