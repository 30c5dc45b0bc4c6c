"""Captures what keras-hub's Gemma 3 computes, into one safetensors file:

    python keras.py MODEL IDS.json OUT.safetensors --dtype bf16

MODEL is a Hugging Face directory, which keras-hub converts. Around a forward pass of your own, of keras-hub's
Gemma3Backbone or Gemma3CausalLM or of a port with its layers' names:

    with capture(model, "theirs.safetensors"):
        model({"token_ids": ids, "padding_mask": mask})

`gemma-mlp compare theirs.safetensors --model MODEL` then says where it first departs from Gemma.
This file needs keras, numpy and safetensors; keras-hub only to load a model on the command line. Keras must run
eagerly: `model(…)`, not `model.predict(…)` or `model.generate(…)`, which compile.
"""

import argparse
import functools
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

if Path(sys.argv[0]).name == "keras.py":
    # Run under this name, `import keras` would find this file.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(sys.argv[0]).resolve().parent]

if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

FORMAT = "gemma-mlp-dump/1"
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@contextmanager
def capture(model: Any, path: str | Path, *, prompt: str | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Writes what the first forward pass of `model` in this block computes to `path`.

    Nothing of what is computed changes, and all layers are as before after the block. An exception in it writes no
    file. What could not be captured is said in a warning. Yields the arrays by name; they are there after the block.

    Raises ValueError if the model has no Gemma's layers, if none ran, or if they were compiled.
    """
    if not (folder := Path(path).absolute().parent).is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    backbone = getattr(model, "backbone", model)
    layers = getattr(backbone, "transformer_layers", None)
    if not layers or not hasattr(layers[0], "gating_ffw"):
        raise ValueError(
            f"{type(model).__name__} is not keras-hub's Gemma: it has no transformer_layers with gating_ffw"
        )
    dump: dict[str, np.ndarray] = {}
    expected = {"tokens", "embedding", "normed", "logits"}
    metadata = describe(layers[0]) | ({"prompt": prompt} if prompt else {})
    running: list[int] = []
    compiled: Exception | None = None

    def keep(name: str, value: Any) -> None:
        nonlocal compiled
        expected.add(name)
        if name not in dump:
            try:
                dump[name] = to_numpy(value[0] if isinstance(value, tuple | list) else value)
            except Exception as error:
                # Raised here, it would cost the model its weights: Keras takes them out while it compiles for JAX.
                compiled = error

    with ExitStack() as undo:

        def on_call(layer: Any, before: Callable | str | None = None, after: Callable | str | None = None) -> None:
            """What to do with a layer's first input and with its output; a string is the name to keep it by."""
            if layer is None:
                return
            before, after = (
                functools.partial(keep, hook) if isinstance(hook, str) else hook for hook in (before, after)
            )
            call = layer.call

            @functools.wraps(call)
            def observed(*args: Any, **kwargs: Any) -> Any:
                if before:
                    before(args[0] if args else next(iter(kwargs.values())))
                output = call(*args, **kwargs)
                if after:
                    after(output)
                return output

            layer.call = observed
            undo.callback(delattr, layer, "call")

        def ids_or_logits(x: Any) -> None:
            # One layer does both ends: ids to vectors, and vectors to logits.
            if keras.backend.is_int_dtype(x.dtype):
                keep("tokens", x)

        def logits(x: Any) -> None:
            if x.shape[-1] == backbone.token_embedding.input_dim:
                keep("logits", x)

        def rotated(n: int, x: Any) -> None:
            # Queries first, then keys.
            keep(f"layers.{n}.attn.{'k' if f'layers.{n}.attn.q' in dump else 'q'}", x)

        def start(n: int, x: Any) -> None:
            running.append(n)
            if n == 0:
                keep("embedding", x)

        def end(n: int, x: Any) -> None:
            running.pop()
            keep(f"hidden.{n}", x)

        def gelu(x: Any, *args: Any, **kwargs: Any) -> Any:
            output = activation(x, *args, **kwargs)
            if running:
                keep(f"layers.{running[-1]}.mlp.activated", output)
            return output

        on_call(backbone.token_embedding, ids_or_logits, logits)
        on_call(backbone.layer_norm, after="normed")
        for n, layer in enumerate(layers):
            at, attention = f"layers.{n}", layer.attention
            on_call(layer, functools.partial(start, n), functools.partial(end, n))
            on_call(layer.pre_attention_norm, after=f"{at}.attn.input")
            on_call(attention.rope_layer, after=functools.partial(rotated, n))
            on_call(attention.value_dense, after=f"{at}.attn.v")
            on_call(attention, after=f"{at}.attn.output")
            on_call(getattr(layer, "post_attention_norm", None), after=f"{at}.attn.normed")
            on_call(layer.pre_ffw_norm, f"{at}.attended", f"{at}.mlp.input")
            on_call(layer.gating_ffw, after=f"{at}.mlp.gate")
            on_call(layer.gating_ffw_2, after=f"{at}.mlp.up")
            on_call(layer.ffw_linear, f"{at}.mlp.product", f"{at}.mlp.output")
            on_call(getattr(layer, "post_ffw_norm", None), after=f"{at}.mlp.normed")
            expected |= {f"{at}.attn.q", f"{at}.attn.k", f"{at}.mlp.activated", f"{at}.mlp.product"}
        activation = keras.activations.gelu  # The layers find it here by name.
        keras.activations.gelu = gelu
        undo.callback(setattr, keras.activations, "gelu", activation)
        yield dump

    if compiled:
        raise ValueError(
            f"{path} is not written: the model ran compiled; call it as model(…), not by predict or generate"
        ) from compiled
    if "embedding" not in dump:
        raise ValueError(f"{path} is not written: no forward pass of the model ran in the block")
    if "tokens" not in dump:
        raise ValueError(f"{path} is not written: the model's token_embedding got no ids")
    if missing := sorted(expected - dump.keys()):
        warnings.warn(f"{path}: not captured: {', '.join(missing)}", stacklevel=3)
    save_file(dump, path, metadata)


def to_numpy(x: Any) -> np.ndarray:
    """A copy of a tensor of any backend, in its own dtype."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    array = keras.ops.convert_to_numpy(x)
    return np.array(array, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, order="C")


def describe(layer: Any) -> dict[str, str]:
    """The dump's metadata, as far as the first layer tells."""
    library = sys.modules.get("keras_hub")
    dtype = keras.backend.standardize_dtype(layer.compute_dtype)
    metadata = {
        "format": FORMAT,
        "framework": "keras",
        "framework_version": library.__version__ if library else keras.__version__,
        "keras_version": keras.__version__,
        "keras_backend": keras.backend.backend(),
        "device": keras.distribution.list_devices()[0].split(":")[0].lower(),
        "dtype": next((name for name, known in DTYPES.items() if known == dtype), dtype),
        "attention": "flash" if layer.attention._use_fused_attention_op() else "eager",
        "phase": "prefill",
    }
    kernels = [to_numpy(dense.kernel).T for dense in (layer.gating_ffw, layer.gating_ffw_2, layer.ffw_linear)]
    return metadata | {"first_mlp_sha256": sha256_as_f32(*kernels)}


def sha256_as_f32(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays one after the other, as little-endian f32."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<f4"))
    return digest.hexdigest()


def check(directory: Path) -> None:
    """keras-hub 0.32 has these fixed, whatever the config says."""
    config = json.loads((directory / "config.json").read_text())
    config = config.get("text_config", config)
    types = config.get("layer_types") or []
    if any((kind == "full_attention") != (n % 6 == 5) for n, kind in enumerate(types)):
        raise ValueError(
            f"{directory}: keras-hub's Gemma 3 has full attention in every sixth layer; layer_types differ"
        )
    if config.get("sliding_window_pattern", 6) != 6:
        raise ValueError(f"{directory}: keras-hub's Gemma 3 has full attention in every sixth layer")
    for name, value in (("rope_local_base_freq", 10_000), ("rope_theta", 1_000_000)):
        if config.get(name, value) != value:
            raise ValueError(f"{directory}: {name} is {config[name]}, but keras-hub's Gemma 3 has {value}")


def read_ids(path: Path, vocabulary: int) -> list[int]:
    """The token ids in a JSON file, all of the vocabulary."""
    ids = json.loads(path.read_text())
    if not (isinstance(ids, list) and ids and all(type(token) is int for token in ids)):
        raise ValueError(f"{path}: not a JSON array of token ids")
    if not all(0 <= token < vocabulary for token in ids):
        raise ValueError(f"{path}: the vocabulary has ids from 0 to {vocabulary - 1}, not {min(ids)} to {max(ids)}")
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description="Captures what keras-hub's Gemma 3 computes.")
    parser.add_argument("model", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("ids", type=Path, help="a JSON array of token ids, BOS first")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="what to compute in [default: bf16]")
    args = parser.parse_args()
    check(args.model)

    import keras_hub

    backbone = keras_hub.models.Gemma3Backbone.from_preset(str(args.model), dtype=DTYPES[args.dtype])
    ids = np.asarray([read_ids(args.ids, backbone.vocabulary_size)], "int32")
    with capture(backbone, args.out):
        hidden = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
        backbone.token_embedding(hidden, reverse=True)  # What Gemma3CausalLM does.


# Not where it is pasted into a notebook.
if __name__ == "__main__" and not hasattr(sys, "ps1"):
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
