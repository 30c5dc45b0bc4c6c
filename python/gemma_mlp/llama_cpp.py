"""Captures what llama.cpp computes with a Gemma in GGUF, into one safetensors file:

    python llama_cpp.py MODEL.gguf IDS.json OUT.safetensors

or from Python, `capture("model.gguf", ids, "theirs.safetensors")`.

`gemma-mlp compare theirs.safetensors --model MODEL` then says where it first departs from Gemma.
This file needs llama-cpp-python, numpy and safetensors, and `gguf` to tell which weights were used.

The GGUF decides what is computed in: llama.cpp keeps activations in f32, and rounds or quantizes the input of each
product to what the weights need. Keys and values are kept in f32 and attention is not fused, unless asked; llama.cpp's
own defaults are f16 and flash attention.
"""

import argparse
import ctypes
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

if Path(sys.argv[0]).name == "llama_cpp.py":
    # Run under this name, `import llama_cpp` would find this file.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(sys.argv[0]).resolve().parent]

import llama_cpp as llama
import numpy as np
from safetensors.numpy import save_file

FORMAT = "gemma-mlp-dump/1"
F32, F16 = 0, 1  # ggml's numbers for them.
ERROR = 4  # ggml's level of messages.

# llama.cpp's names of the graph's nodes; N is the layer's number, which follows a hyphen.
NODES = {
    "inp_scaled": "embedding",
    "attn_norm-N": "layers.N.attn.input",
    "attn_post_norm-N": "layers.N.attn.normed",
    "sa_out-N": "layers.N.attended",
    "ffn_norm-N": "layers.N.mlp.input",
    "ffn_gate-N": "layers.N.mlp.gate",
    "ffn_up-N": "layers.N.mlp.up",
    "ffn_geglu-N": "layers.N.mlp.product",
    "ffn_gate_par-N": "layers.N.mlp.product",  # In 2024 and early 2025.
    "ffn_out-N": "layers.N.mlp.output",
    "ffn_post_norm-N": "layers.N.mlp.normed",
    "l_out-N": "hidden.N",
    "result_norm": "normed",
    "result_output": "logits",
}
# These names are used several times over; the last node with the name and the operation counts.
ROTATED = {"Qcur-N": "layers.N.attn.q", "Kcur-N": "layers.N.attn.k"}
VALUES = {"Vcur-N": "layers.N.attn.v"}


@llama.llama_log_callback
def only_errors(level: int, text: bytes, _data: int) -> None:
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


class Tensor(ctypes.Structure):
    """The beginning of ggml_tensor."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),  # Elements by axis, the innermost first.
        ("nb", ctypes.c_size_t * 4),  # Bytes from one to the next.
    ]


class Nodes:
    """What llama.cpp's scheduler calls before each node (`ask`: shall I stop after it?) and after those wanted."""

    def __init__(self) -> None:
        self.dump: dict[str, np.ndarray] = {}
        self.error: Exception | None = None
        self.layer_of_output: str | None = None  # Set between the heads' output and its projection.
        self.callback = llama.ggml_backend_sched_eval_callback(self.call)

    def call(self, pointer: int, ask: bool, _data: int) -> bool:
        # An exception cannot pass through C.
        try:
            name = self.canonical(pointer, ask)
            if not ask and name:
                self.dump[name] = read(pointer, name)
            return not ask or name is not None
        except Exception as error:
            self.error = self.error or error
            return not ask

    def canonical(self, pointer: int, ask: bool) -> str | None:
        node, operation = ggml("ggml_get_name", pointer), ggml("ggml_op_desc", pointer)
        layer = re.search(r"-(\d+)$", node)
        number = layer[1] if layer else ""
        generic = node.removesuffix(f"-{number}") + "-N" if layer else node
        # The output projection has no name of its own: it is the next product after `kqv_out`, which is its input.
        if generic == "kqv_out-N":
            self.layer_of_output = number
        elif self.layer_of_output is not None and operation == "MUL_MAT":
            number = self.layer_of_output
            if not ask:
                self.layer_of_output = None
            return f"layers.{number}.attn.output"
        name = NODES.get(generic)
        if operation == "ROPE":
            name = ROTATED.get(generic)
        elif generic in VALUES:
            name = VALUES[generic]
        return name and name.replace("N", number)


def capture(
    model: str | Path,
    ids: Iterable[int],
    path: str | Path,
    *,
    cache: int = F32,
    flash: bool = False,
    threads: int = 0,
    prompt: str | None = None,
) -> np.ndarray:
    """Runs the GGUF `model` over `ids` in one batch and writes what it computes to `path`.

    `cache` is ggml's number for the type of keys and values. Returns the logits, `[T, vocabulary]`, f32.

    Raises ValueError if llama.cpp cannot load or run the model.
    """
    if not (folder := Path(path).absolute().parent).is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    ids = [int(token) for token in ids]
    nodes = Nodes()
    llama.llama_log_set(only_errors, None)
    llama.llama_backend_init()
    weights = llama.llama_model_load_from_file(str(model).encode(), llama.llama_model_default_params())
    if not weights:
        raise ValueError(f"{model}: llama.cpp cannot load it")
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = len(ids)
    parameters.type_k = parameters.type_v = cache
    parameters.flash_attn_type = 1 if flash else 0
    if threads:
        parameters.n_threads = parameters.n_threads_batch = threads
    parameters.cb_eval = nodes.callback
    context = llama.llama_init_from_model(weights, parameters)
    if not context:
        llama.llama_model_free(weights)
        raise ValueError(f"{model}: llama.cpp cannot make a context of {len(ids)} tokens")
    batch = llama.llama_batch_init(len(ids), 0, 1)
    try:
        batch.n_tokens = len(ids)
        for n, token in enumerate(ids):
            batch.token[n], batch.pos[n], batch.n_seq_id[n], batch.seq_id[n][0] = token, n, 1, 0
            batch.logits[n] = True  # Without it, the last layer keeps the last row only.
        status = llama.llama_decode(context, batch)
        if nodes.error:
            raise nodes.error
        if status:
            raise ValueError(f"{model}: llama.cpp's llama_decode failed with {status}")
        metadata = describe(weights, Path(model), cache, flash)
    finally:
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        llama.llama_model_free(weights)
    dump = nodes.dump
    for name in [name for name in dump if name.endswith(".attn.v")]:
        dump[name] = dump[name].reshape(len(ids), -1, dump[name.replace(".v", ".k")].shape[-1])
    dump["tokens"] = np.asarray(ids, "<i8")
    if missing := [name for name in points(dump) if name not in dump]:
        warnings.warn(f"{path}: not captured: {', '.join(missing)}", stacklevel=2)
    if "first_mlp_sha256" not in metadata:
        warnings.warn(f"{path}: cannot be checked to hold the same weights: {metadata['weights']}", stacklevel=2)
    save_file(dump, path, metadata | ({"prompt": prompt} if prompt else {}))
    return dump["logits"]


def ggml(function: str, pointer: int) -> str:
    """A string that ggml says of a tensor."""
    call = getattr(libggml(), function)
    call.argtypes, call.restype = [ctypes.c_void_p], ctypes.c_char_p
    return call(pointer).decode()


def libggml() -> ctypes.CDLL:
    """llama.cpp's library; what it links, it finds too."""
    return llama.llama_cpp._lib


def read(pointer: int, name: str) -> np.ndarray:
    """A copy of a tensor as `[T, …]`: ggml has the innermost axis first."""
    tensor = Tensor.from_address(pointer)
    shape = list(reversed(tensor.ne))
    while len(shape) > 2 and shape[0] == 1:
        shape.pop(0)
    strides = [4]
    for size in tensor.ne[:3]:
        strides.append(strides[-1] * size)
    if tensor.type != F32 or any(n > 1 and a != b for n, a, b in zip(tensor.ne, tensor.nb, strides, strict=True)):
        raise ValueError(f"{name} lies in memory as llama.cpp's nodes did not when this was written: {shape}")
    array = np.empty(shape, "<f4")
    get = libggml().ggml_backend_tensor_get
    get.argtypes, get.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], None
    get(pointer, array.ctypes.data, 0, array.nbytes)
    return array


def points(dump: dict[str, np.ndarray]) -> Iterable[str]:
    """What a dump of llama.cpp's Gemma 3 holds; the activation is fused with the product that follows it."""
    yield from ("embedding", "normed", "logits")
    for n in range(sum(name.startswith("hidden.") for name in dump)):
        yield from (f"layers.{n}.attn.{part}" for part in ("input", "q", "k", "v", "output", "normed"))
        yield from (f"layers.{n}.mlp.{part}" for part in ("input", "gate", "up", "product", "output", "normed"))
        yield from (f"layers.{n}.attended", f"hidden.{n}")


def describe(weights: int, path: Path, cache: int, flash: bool) -> dict[str, str]:
    """The dump's metadata. `dtype` is what is between the products, `weights` what these multiply with."""
    buffer = ctypes.create_string_buffer(256)
    llama.llama_model_desc(weights, buffer, len(buffer))
    metadata = {
        "format": FORMAT,
        "framework": "llama.cpp",
        "framework_version": f"llama-cpp-python {llama.__version__}",
        "device": "cpu",
        "model": path.name,
        "dtype": "f32",
        "weights": buffer.value.decode(),
        "cache": {F32: "f32", F16: "f16"}.get(cache, str(cache)),
        "attention": "flash" if flash else "eager",
        "phase": "prefill",
    }
    try:
        import gguf
    except ImportError:
        return metadata
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name.startswith("blk.0.ffn_")}
    first = [tensors[f"blk.0.ffn_{part}.weight"] for part in ("gate", "up", "down")]
    if all(tensor.tensor_type.name in ("F32", "F16", "BF16") for tensor in first):
        digest = hashlib.sha256()
        for tensor in first:
            rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            digest.update(np.ascontiguousarray(rows, "<f4"))
        metadata["first_mlp_sha256"] = digest.hexdigest()
    return metadata


def read_ids(path: Path) -> list[int]:
    """The token ids in a JSON file."""
    ids = json.loads(path.read_text())
    if not (isinstance(ids, list) and ids and all(type(token) is int for token in ids)):
        raise ValueError(f"{path}: not a JSON array of token ids")
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description="Captures what llama.cpp computes with a Gemma in GGUF.")
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("ids", type=Path, help="a JSON array of token ids, BOS first")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--cache", choices=("f32", "f16"), default="f32", help="keys and values [default: f32]")
    parser.add_argument("--flash", action="store_true", help="fused attention, with keys and values in f16")
    parser.add_argument("--threads", type=int, default=0, help="[default: llama.cpp's]")
    args = parser.parse_args()
    cache = F16 if args.flash or args.cache == "f16" else F32
    capture(args.model, read_ids(args.ids), args.out, cache=cache, flash=args.flash, threads=args.threads)


# Not where it is pasted into a notebook.
if __name__ == "__main__" and not hasattr(sys, "ps1"):
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
