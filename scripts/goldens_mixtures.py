"""Writes tests/goldens/mixtures.json: what llama.cpp's quantize makes of small models, by mixture and tensor.

It needs llama-cpp-python 0.3.36 and gguf 0.19.0:

    python scripts/goldens_mixtures.py

For each model (its sizes and number of layers) and each mixture: of every matrix the type that llama_model_quantize
stores it in, and the first digits of its bytes' SHA-256. The n-th of a model's matrices, sorted by the names that transformers has for
them, has these weights, of which every one is exact in f32:

    h = (2654435761 * i + 40503 * n) mod 2^32, for its i-th weight
    h = ((h xor h >> 15) * 2246822519) mod 2^32
    ((h xor h >> 13) >> 8) / 2^27 - 1 / 16
"""

import hashlib
import json
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "mixtures.json"

# By hidden and intermediate size, and number of layers: whole blocks of 256, those of 32 alone, none at all.
MODELS = {"whole": (256, 256, 11), "small": (96, 256, 2), "odd": (40, 64, 1)}
HEAD_DIM, VOCABULARY = 32, 64
MIXTURES = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q6_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "q5_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q5_k_s": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_S,
    "q5_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q4_k_s": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def shapes(hidden, intermediate, layers):
    """Of all matrices, by transformers' names, with those that GGUF has."""
    all = {"model.embed_tokens.weight": ("token_embd.weight", (VOCABULARY, hidden))}
    for i in range(layers):
        heads = 2 * HEAD_DIM
        for theirs, own, shape in [
            ("self_attn.q_proj", "attn_q", (heads, hidden)),
            ("self_attn.k_proj", "attn_k", (HEAD_DIM, hidden)),
            ("self_attn.v_proj", "attn_v", (HEAD_DIM, hidden)),
            ("self_attn.o_proj", "attn_output", (hidden, heads)),
            ("mlp.gate_proj", "ffn_gate", (intermediate, hidden)),
            ("mlp.up_proj", "ffn_up", (intermediate, hidden)),
            ("mlp.down_proj", "ffn_down", (hidden, intermediate)),
        ]:
            all[f"model.layers.{i}.{theirs}.weight"] = (f"blk.{i}.{own}.weight", shape)
    return dict(sorted(all.items()))


def weights(n, shape):
    h = np.arange(shape[0] * shape[1], dtype=np.uint64) * 2654435761 + 40503 * n & 0xFFFFFFFF
    h = (h ^ h >> 15) * 2246822519 & 0xFFFFFFFF
    h = (h ^ h >> 13) >> 8
    return (h.astype(np.float64) / 2**27 - 1 / 16).astype(np.float32).reshape(shape)


def write(path, hidden, intermediate, layers):
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(intermediate)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(16)
    for n, (own, shape) in enumerate(shapes(hidden, intermediate, layers).values()):
        writer.add_tensor(own, weights(n, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    listed = {}
    for name, sizes in MODELS.items():
        listed[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            write(folder / "f32.gguf", *sizes)
            for mixture, kind in MIXTURES.items():
                params = llama_cpp.llama_model_quantize_default_params()
                params.ftype, params.nthread = kind, 1
                made = folder / f"{mixture}.gguf"
                paths = [str(path).encode() for path in [folder / "f32.gguf", made]]
                assert llama_cpp.llama_model_quantize(*paths, params) == 0, mixture
                tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(made).tensors}
                listed[name][mixture] = {
                    theirs: [tensors[own].tensor_type.name, hashlib.sha256(tensors[own].data.tobytes()).hexdigest()[:16]]
                    for theirs, (own, _) in shapes(*sizes).items()
                }
    OUT.write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    main()
