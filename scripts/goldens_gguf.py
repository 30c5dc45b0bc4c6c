"""Writes tests/goldens/gguf: small GGUF files by llama.cpp's own converter and quantisation.

It needs a checkout of llama.cpp (its convert_hf_to_gguf.py, conversion/ and gguf-py/; made with that of llama-cpp-python
0.3.36), ggml's library for the quantised types (libggml-base.so, as in llama-cpp-python's wheel), torch and transformers
of scripts/requirements.txt, and sentencepiece 0.2.3:

    python scripts/goldens_gguf.py LLAMA_CPP LIBGGML_BASE

    NAME.gguf           converted to bf16 from small random checkpoints that are here already, of tests/goldens/families
                        and of tests/goldens/model.safetensors (whose weights are rounded to bf16 first); by the
                        converter's own classes, with no vocabulary but gemma4-dense's
    split-0000N-of-…    gemma3.gguf in parts of 20 tensors
    types.gguf          a random Gemma 3 whose matrices are each stored as another type, quantised by ggml, with the
                        small tokenizer below, as the converter writes it
    types.json          of each of its tensors the type, and SHA-256 of what gguf-py dequantises it to, f32 little-endian
    ggml.safetensors    what libggml-cpu.so beside LIBGGML_BASE makes of some rows: x f32 [rows, 512], and x quantised by
                        quantize_row_q8_0 and quantize_row_q8_K and dequantised again, f32; and its table of GELU, u8, as
                        SHA-256 of the f16 of all 65,536 f16 in order. x86-64 with AVX2 and FMA
    tokenizer.json      a small tokenizer of Gemma's kind, trained by SentencePiece on generated words and converted by
                        transformers' own rule: the one that types.gguf and gemma4-dense.gguf have

Nothing of llama.cpp or of a released model is in them. Every value comes from a fixed seed.
"""

import ctypes
import hashlib
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
GOLDENS = ROOT / "tests" / "goldens"
OUT = GOLDENS / "gguf"
FAMILIES = ["gemma3n-a", "gemma4-dense", "gemma4-e2b", "gemma4-moe"]
MODELS = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gemma3_bidirectional": "Gemma3TextModel",
}


def tokenizer(folder: Path):
    """tokenizer.model and its tokenizer.json and tokenizer_config.json."""
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers.tokenization_utils_base import generate_merges

    rng = random.Random(7)
    parts = ["th", "e", "an", "ing", "er", "st", "ou", "re", "qu", "ck", "o", "a", "y", "l", "ö", "é", "ж", "и", "の"]
    words = ["".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(600)]
    lines = [" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(3000)]
    special = ["<mask>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n" * n for n in range(2, 8)] + ["▁" * n for n in range(2, 8)] + ["\t" * n for n in range(2, 4)]
    user = special + runs + ["<table>", "[multimodal]"]
    text = folder / "text.txt"
    text.write_text("\n".join(lines) + "\n1 2 3 4 5 6 7 8 9 0 . , ! ? \" ' ( ) - : ;\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=448,
        character_coverage=1.0, byte_fallback=True, split_digits=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity", allow_whitespace_only_pieces=True,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        user_defined_symbols=user, num_threads=1, minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    count = pieces.GetPieceSize()
    vocabulary = {pieces.IdToPiece(i): i for i in range(count)}
    scores = {piece: 0.0 if i < 3 else pieces.GetScore(i) for piece, i in vocabulary.items()}
    # As transformers converts Gemma's (GemmaConverter, GemmaSentencePieceExtractor).
    if "\t" not in vocabulary:
        byte = vocabulary.pop("<0x09>")
        vocabulary["\t"] = byte
        scores["\t"] = scores.pop("<0x09>")
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    merges = generate_merges(ordered, {piece: scores[piece] for piece in ordered})
    made = Tokenizer(models.BPE(ordered, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(
        single="<bos>:0 $A:0", pair="<bos>:0 $A:0 $B:1", special_tokens=[("<bos>", 2)]
    )
    control = ["<pad>", "<eos>", "<bos>", "<unk>"] + special
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    made.add_tokens([AddedToken(token, normalized=False) for token in user if token not in special])
    made.save(str(folder / "tokenizer.json"), pretty=False)
    decoder = {
        str(vocabulary[token]): {"content": token, "special": token in control} for token in control + user
    }
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = named | {"tokenizer_class": "GemmaTokenizer", "added_tokens_decoder": decoder}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return count


def checkpoint(name: str, folder: Path):
    """A directory that the converter reads."""
    if name in FAMILIES:
        shutil.copy(GOLDENS / "families" / name / "model.safetensors", folder)
        shutil.copy(GOLDENS / "families" / name / "config.json", folder)
        return
    with safe_open(GOLDENS / "model.safetensors", "pt") as file:
        config = json.loads(file.metadata()[f"{name}.config"])
        own = [key for key in file.keys() if key.startswith((f"{name}.model.", f"{name}.lm_head."))]
        # Those that have the weights of another family are held once.
        weights = {key.split(".", 1)[1]: file.get_tensor(key).to(torch.bfloat16).contiguous() for key in own}
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [MODELS[name]]}))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def convert(llama: Path, name: str, folder: Path, out: Path, **options):
    import gguf
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, get_model_architecture

    hparams = ModelBase.load_hparams(folder, False)
    model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    if not (folder / "tokenizer_config.json").exists():
        # Of no tokenizer the converter asks how many tokens it has.
        model_class = type(model_class.__name__, (model_class,), {
            "model_arch": model_class.model_arch, "set_vocab": lambda self: None,
        })
        rows = hparams.get("vocab_size", 64)
        vocabulary = {"model": {"vocab": {str(i): i for i in range(rows)}}, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    with torch.inference_mode():
        model_class(folder, gguf.LlamaFileType.MOSTLY_BF16, out, model_name=name, **options).write()


def types(llama: Path, library: Path, folder: Path):
    """types.gguf and types.json."""
    import gguf
    from gguf import GGMLQuantizationType as Type
    from gguf.quants import dequantize

    ggml = ctypes.CDLL(str(library))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p
    ]

    count = tokenizer(folder)
    hidden, intermediate, layers, heads, head_dim = 256, 256, 2, 2, 32
    config = {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 1, "head_dim": head_dim, "query_pre_attn_scalar": head_dim, "vocab_size": count,
        "rms_norm_eps": 1e-6, "sliding_window": 16, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 1,
        "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    }
    shapes = {"embed_tokens": [count, hidden], "norm": [hidden]}
    for i in range(layers):
        shapes |= {
            f"layers.{i}.{part}": shape
            for part, shape in {
                "self_attn.q_proj": [heads * head_dim, hidden], "self_attn.k_proj": [head_dim, hidden],
                "self_attn.v_proj": [head_dim, hidden], "self_attn.o_proj": [hidden, heads * head_dim],
                "self_attn.q_norm": [head_dim], "self_attn.k_norm": [head_dim],
                "mlp.gate_proj": [intermediate, hidden], "mlp.up_proj": [intermediate, hidden],
                "mlp.down_proj": [hidden, intermediate], "input_layernorm": [hidden],
                "post_attention_layernorm": [hidden], "pre_feedforward_layernorm": [hidden],
                "post_feedforward_layernorm": [hidden],
            }.items()
        }
    generator = np.random.default_rng(7)
    weights = {
        f"model.{name}.weight": torch.from_numpy(
            (generator.standard_normal(shape) * (0.2 if len(shape) == 1 else shape[-1] ** -0.5)).astype(np.float32)
        ).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    whole = folder / "whole.gguf"
    convert(llama, "types", folder, whole)

    # The same file with every matrix in another type.
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(OUT / "types.gguf", "gemma3")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        kind = field.types[0]
        of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=of)
    # A layer's large matrices come first.
    left = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q5_K, Type.Q6_K, Type.Q8_0,
            Type.F32, Type.BF16, Type.F16]
    listed = {}
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type).reshape(shape), dtype=np.float32)
        kind = Type.F32
        if len(shape) == 2:
            # Blocks of 256 need rows of as many; attn_output has 64.
            fits = [own for own in left if shape[-1] % gguf.GGML_QUANT_SIZES[own][0] == 0]
            kind = fits[0] if fits and tensor.name != "token_embd.weight" else Type.Q8_0
            if tensor.name != "token_embd.weight" and fits:
                left.remove(kind)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = np.zeros(values.size // block * size, dtype=np.uint8)
        if kind == Type.F32:
            data = values.view(np.uint8).reshape(-1)
        else:
            written = ggml.ggml_quantize_chunk(
                int(kind), values.ctypes.data, data.ctypes.data, 0, values.size // shape[-1], shape[-1], None
            )
            assert written == data.size, tensor.name
        rows = data.reshape(*shape[:-1], -1)
        back = values if kind == Type.F32 else dequantize(rows, kind)
        digest = hashlib.sha256(np.ascontiguousarray(back, dtype="<f4").tobytes()).hexdigest()
        listed[tensor.name] = {"type": kind.name, "sha256": digest}
        writer.add_tensor(tensor.name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (OUT / "types.json").write_text(json.dumps(listed, indent=1) + "\n")
    shutil.copy(folder / "tokenizer.json", OUT / "tokenizer.json")
    assert not left, left


def kernels(library: Path):
    """ggml.safetensors, from ggml's CPU kernels."""
    ggml, cpu = ctypes.CDLL(str(library)), ctypes.CDLL(str(library.with_name("libggml-cpu.so")))
    width = 512
    generator = np.random.default_rng(8)
    x = generator.standard_normal((12, width)).astype(np.float32)
    x[1:3] *= np.exp(generator.standard_normal((2, width)) * 2).astype(np.float32)
    x[3] = generator.integers(-254, 255, width)  # Between two steps, where the largest is 254.
    x[3, ::32] = 254
    x[4] = -x[3]
    x[5, ::256], x[5, 1::256] = 9, -9  # As far from 0 on both sides.
    x[6] *= 1e-5  # Scales that f16 has few bits of, and none.
    x[7] *= 1e-8
    x[8] *= 1e-38  # Too small for their inverse scale.
    x[9, : width // 2] = 0
    x[10] *= 1e4
    x[11] = np.arange(width) - width / 2
    tensors = {"x": torch.from_numpy(x)}
    for name, block, size in [("q8_0", 32, 2 + 32), ("q8_K", 256, 4 + 256 + 2 * 16)]:
        quantise, dequantise = getattr(cpu, f"quantize_row_{name}"), getattr(ggml, f"dequantize_row_{name}")
        for function in quantise, dequantise:
            function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        data, back = np.zeros((x.size // block, size), dtype=np.uint8), np.zeros_like(x)
        quantise(x.ctypes.data, data.ctypes.data, x.size)
        dequantise(data.ctypes.data, back.ctypes.data, x.size)
        tensors[name] = torch.from_numpy(back)
    cpu.ggml_cpu_init()
    table = (ctypes.c_uint16 * (1 << 16)).in_dll(cpu, "ggml_table_gelu_f16")
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    # What is beyond is not read from the table.
    table = np.where(np.abs(every) < 10, np.array(table, dtype=np.uint16), 0).astype("<u2")
    digest = hashlib.sha256(table.tobytes()).digest()
    tensors["gelu"] = torch.from_numpy(np.frombuffer(digest, dtype=np.uint8).copy())
    save_file(tensors, OUT / "ggml.safetensors")


def main():
    llama, library = map(Path, sys.argv[1:3])
    sys.path[:0] = [str(llama), str(llama / "gguf-py")]
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        types(llama, library, Path(folder))
    kernels(library)
    for name in [*MODELS, *FAMILIES]:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            checkpoint(name, folder)
            if name == "gemma4-dense":
                shutil.copy(OUT / "tokenizer.json", folder)
                settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>",
                            "unk_token": "<unk>", "pad_token": "<pad>",
                            "additional_special_tokens": ["<mask>", "<start_of_turn>", "<end_of_turn>"]}
                (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            convert(llama, name, folder, OUT / f"{name}.gguf")
            if name == "gemma3":
                convert(llama, "split", folder, OUT / "split.gguf", split_max_tensors=20)


if __name__ == "__main__":
    main()
