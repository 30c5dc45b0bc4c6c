"""Writes tests/goldens/quantised: small Gemma 3 checkpoints with quantised weights, by the libraries that write such.

It needs torch and transformers of scripts/requirements.txt, and compressed-tensors 0.20.1 and accelerate 1.15.0
(installed with --no-deps; they need loguru, psutil and pydantic):

    python scripts/goldens_quantised.py

    fp8/                transformers' `fp8`: blocks of 16 x 24, by Fp8Quantize. One layer's down_proj is left as it is,
                        one has a scale for the whole matrix, one for each row, which Fp8Dequantize reads as well.
    fp8-exponents/      the same of one layer, with scales of E8M0 (scale_fmt "ue8m0")
    compressed-float/   compressed-tensors' float-quantized: a scale for each row, for a matrix, and for blocks of
                        40 x 20, which do not divide the matrices; in bf16, f32 and f16; with a scale of inputs
    compressed-int/     pack-quantized of 4 bits (groups of 24, symmetric and not; one scale for a matrix), of 3, 5 and
                        8 bits, and int-quantized, symmetric and not
    gemma/              transformers' `gemma`: integers of 4, 2 and 8 bits, and the table of embeddings
    NAME/expected.json  of each of its weights SHA-256 of what the library dequantises it to, f32 little-endian
    NAME/logits.safetensors  ids, and the logits of transformers' model in f32 with these weights

The weights of fp8, fp8-exponents and gemma are dequantised by transformers' from_pretrained itself, which needs no GPU
for that; those of compressed-tensors by its compressors, module by module.

Every value comes from a fixed seed; nothing of a released model is in them.
"""

import hashlib
import json
import shutil
from pathlib import Path

import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.utils import calculate_qparams
from compressed_tensors.quantization.utils.helpers import maybe_pad_tensor_for_block_quant
from safetensors.torch import load_file, save_file
from transformers import FineGrainedFP8Config, Gemma3ForCausalLM, Gemma3TextConfig
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize
from transformers.integrations.gemma_quant import QuantizedEmbedding, QuantizedLinear

from goldens_common import check, normal

OUT = Path(__file__).resolve().parent.parent / "tests" / "goldens" / "quantised"
CONFIG = dict(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    query_pre_attn_scalar=16,
    vocab_size=64,
    sliding_window=16,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    hidden_activation="gelu_pytorch_tanh",
    tie_word_embeddings=True,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
)
IDS = torch.tensor([[2] + [3 + i * 7 % 61 for i in range(11)]])
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MODULES = [f"model.layers.{layer}.{name}" for layer in (0, 1) for name in MLP + ATTENTION]


def weights(config: dict = CONFIG) -> dict[str, torch.Tensor]:
    """Random ones of the model, in bf16."""
    model = Gemma3ForCausalLM(Gemma3TextConfig(**config))
    shapes = {name: p.shape for name, p in model.state_dict().items() if name != "lm_head.weight"}
    std = {1: 0.1, 2: 0.15}
    return {name: normal(name, shape, std[len(shape)]).bfloat16() for name, shape in shapes.items()}


def write(name: str, tensors: dict, quantization: dict, dense: dict[str, torch.Tensor], shape: dict = CONFIG):
    """A checkpoint, what its weights are once they are dequantised, and the logits of those."""
    folder = OUT / name
    folder.mkdir(parents=True)
    config = {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", **shape}
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    check(all(torch.isfinite(w).all() for w in dense.values()), name)
    digest = lambda w: hashlib.sha256(w.float().contiguous().numpy().tobytes()).hexdigest()  # noqa: E731
    digests = {k: digest(w) for k, w in sorted(dense.items())}
    (folder / "expected.json").write_text(json.dumps(digests, indent=1) + "\n")
    model = Gemma3ForCausalLM(Gemma3TextConfig(**shape)).float().eval()
    missing = model.load_state_dict({k: v.float() for k, v in dense.items()}, strict=False)
    check(missing.missing_keys in ([], ["lm_head.weight"]) and not missing.unexpected_keys, str(missing))
    model.tie_weights()
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    save_file({"ids": IDS, "logits": logits}, folder / "logits.safetensors")
    return folder, logits


def same(name: str, model, dense: dict[str, torch.Tensor], logits: torch.Tensor):
    """Checks that a model that transformers has loaded is the one that was written."""
    for key, value in model.state_dict().items():
        if key in dense:
            check(torch.equal(value.float(), dense[key].float()), f"{name}: {key}")
    with torch.no_grad():
        own = model.eval()(input_ids=IDS).logits
    check(torch.allclose(own, logits, atol=1e-5), f"{name}: {(own - logits).abs().max()}")


def fp8(name: str, scale_fmt: str, layers: int):
    shape = CONFIG | {"num_hidden_layers": layers}
    plain = weights(shape)
    block = [16, 24]
    config = FineGrainedFP8Config(weight_block_size=tuple(block), scale_fmt=scale_fmt, dequantize=True)

    class Quantizer:
        quantization_config = config

    kept = "model.layers.1.mlp.down_proj"
    quantize, dequantize = Fp8Quantize(Quantizer()), Fp8Dequantize(Quantizer())
    tensors, dense = dict(plain), dict(plain)
    for module in MODULES:
        if module == kept or f"{module}.weight" not in plain:
            continue
        key = f"{module}.weight"
        weight = tensors.pop(key).float()
        if module == "model.layers.1.mlp.up_proj" and scale_fmt == "float":
            scale = (weight.abs().amax() / 448).reshape(1)
            made = {key: (weight / scale).to(torch.float8_e4m3fn), f"{module}.weight_scale_inv": scale}
        elif module == "model.layers.1.mlp.gate_proj" and scale_fmt == "float":
            scale = weight.abs().amax(dim=1, keepdim=True) / 448
            made = {key: (weight / scale).to(torch.float8_e4m3fn), f"{module}.weight_scale_inv": scale}
        elif weight.shape[1] % block[1]:
            # As Fp8Quantize leaves it: 32 columns are no blocks of 24.
            made = {key: weight.bfloat16()}
        else:
            made = quantize.convert({key: weight})
        tensors.update(made)
        scale = made.get(f"{module}.weight_scale_inv")
        if scale is not None:
            dense[key] = dequantize._dequantize_one(made[key], scale, torch.float32)
    quantization = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": block,
        "scale_fmt": scale_fmt,
        "modules_to_not_convert": ["lm_head", kept, "o_proj"],
    }
    folder, logits = write(name, tensors, quantization, dense, shape)
    model = Gemma3ForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=FineGrainedFP8Config(
            weight_block_size=tuple(block),
            scale_fmt=scale_fmt,
            dequantize=True,
            modules_to_not_convert=quantization["modules_to_not_convert"],
        ),
    )
    same(name, model, dense, logits)


def compressed(name: str, groups: dict[str, dict], scale_dtypes: dict[str, torch.dtype], inputs: tuple[str, ...]):
    """Modules by the groups that they are targets of, by compressed-tensors' compressors."""
    config = QuantizationConfig.model_validate(
        {
            "quant_method": "compressed-tensors",
            "format": "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": ["lm_head"],
        }
    )
    tensors, dense = weights(), weights()
    for group, scheme in config.config_groups.items():
        args = scheme.weights
        compressor = BaseCompressor.get_value_from_registry(str(scheme.format))
        for module in scheme.targets:
            weight = tensors.pop(f"{module}.weight").float()
            rows, columns = weight.shape
            if args.strategy == "tensor":
                blocks = weight.reshape(1, -1)
            elif args.strategy == "channel":
                blocks = weight.reshape(rows, 1, columns)
            elif args.strategy == "group":
                blocks = weight.reshape(rows, -1, args.group_size)
            else:
                padded = maybe_pad_tensor_for_block_quant(weight, tuple(args.block_structure))
                down, across = args.block_structure
                blocks = padded.reshape(padded.shape[0] // down, down, -1, across).transpose(1, 2).flatten(-2)
            scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
            scale = scale.to(scale_dtypes.get(group, torch.bfloat16))
            state = {"weight": weight, "weight_scale": scale}
            if not args.symmetric:
                state["weight_zero_point"] = zero
            made = compressor.compress(state, scheme)
            tensors.update({f"{module}.{part}": tensor for part, tensor in made.items()})
            check(("weight_packed" in made) == (str(scheme.format) == "pack-quantized"), str(made.keys()))
            dense[f"{module}.weight"] = compressor.decompress(made, scheme)["weight"]
            if group in inputs:
                tensors[f"{module}.input_scale"] = torch.tensor([0.05])
    kept = set(MODULES) - {module for scheme in config.config_groups.values() for module in scheme.targets}
    check(kept == {"model.layers.1.mlp.down_proj"}, name)
    write(name, tensors, json.loads(json.dumps(config.to_dict(), default=str)), dense)


def group(format: str, targets: list[str], activations: dict | None = None, **args) -> dict:
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", **args}
    return {"format": format, "targets": targets, "weights": weights, "input_activations": activations}


def modules(layer: int, *names: str) -> list[str]:
    return [f"model.layers.{layer}.{name}" for name in names]


def compressed_float():
    token = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}
    static = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
    groups = {
        "channel": group("float-quantized", modules(0, *MLP, *ATTENTION), token, type="float"),
        "tensor": group("float-quantized", modules(1, *ATTENTION), static, type="float", strategy="tensor"),
        "block": group(
            "float-quantized",
            modules(1, "mlp.gate_proj", "mlp.up_proj"),
            token,
            type="float",
            strategy="block",
            block_structure=[40, 20],
        ),
    }
    compressed("compressed-float", groups, {"tensor": torch.float32, "block": torch.float16}, ("tensor",))


def compressed_int():
    token = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}
    packed = "pack-quantized"
    groups = {
        "group": group(packed, modules(0, "mlp.gate_proj"), num_bits=4, strategy="group", group_size=24),
        "zeros": group(packed, modules(0, "mlp.up_proj"), num_bits=4, strategy="group", group_size=24, symmetric=False),
        "tensor": group(packed, modules(0, "mlp.down_proj"), num_bits=4, strategy="tensor"),
        "three": group(
            packed, modules(0, "self_attn.q_proj"), num_bits=3, strategy="group", group_size=24, symmetric=False
        ),
        "eight": group(packed, modules(0, "self_attn.k_proj"), symmetric=False),
        "five": group(packed, modules(0, "self_attn.v_proj", "self_attn.o_proj"), num_bits=5),
        "bytes": group("int-quantized", modules(1, *ATTENTION), token),
        "shifted": group("int-quantized", modules(1, "mlp.gate_proj", "mlp.up_proj"), token, symmetric=False),
    }
    compressed("compressed-int", groups, {"zeros": torch.float32, "three": torch.float16}, ())


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of _unpack_int4 and _unpack_int2."""
    each = 8 // bits
    codes = (codes + (1 << (bits - 1))).to(torch.uint8).reshape(codes.shape[0], -1, each)
    return sum(codes[..., i] << (i * bits) for i in range(each)).to(torch.uint8)


def gemma():
    plain = weights()
    quantization = {
        "quant_method": "gemma",
        "num_bits": 4,
        "quantize_embeddings": True,
        "module_quant_configs": {
            r"layers\.1\.self_attn\.[qk]_proj": {"num_bits": 2},
            r"mlp\.(up|down)_proj$": {"num_bits": 8},
            "embed_tokens": {"num_bits": 4},
        },
        "modules_to_not_convert": ["lm_head", "model.layers.1.mlp.down_proj"],
    }
    tensors, dense = dict(plain), dict(plain)
    for module in [*MODULES, "model.embed_tokens"]:
        if module in quantization["modules_to_not_convert"]:
            continue
        weight = tensors.pop(f"{module}.weight").float()
        if module in modules(1, "self_attn.q_proj", "self_attn.k_proj"):
            bits = 2
        else:
            bits = 8 if module.endswith(("up_proj", "down_proj")) else 4
        most = (1 << (bits - 1)) - 1
        scale = weight.abs().amax(1, keepdim=True) / most
        codes = (weight / scale).round().clamp(-most - 1, most).to(torch.int8)
        stored = codes if bits == 8 else pack(codes, bits)
        rows, columns = weight.shape
        if module == "model.embed_tokens":
            layer = QuantizedEmbedding(rows, columns, torch.float32, num_bits=bits)
            layer.embedding_quantized.data, layer.embedding_scale.data = stored, scale
            names = {"embedding_quantized": stored, "embedding_scale": scale}
            dense[f"{module}.weight"] = layer.weight.detach()
        else:
            layer = QuantizedLinear(columns, rows, num_bits=bits)
            layer.weight.data, layer.weight_scale.data = stored, scale
            # 0 is not calibrated, and rounds nothing.
            names = {
                "weight": stored,
                "weight_scale": scale,
                "input_activation_scale": torch.tensor(0.0),
                "output_activation_scale": torch.tensor(0.0),
            }
            dense[f"{module}.weight"] = layer._dequantize_weights(torch.float32).detach()
        tensors.update({f"{module}.{part}": tensor for part, tensor in names.items()})
    # The head is tied to the table, and has its numbers.
    folder, logits = write("gemma", tensors, quantization, dense)
    untied = shutil.copytree(folder, OUT / "untied")
    try:
        # transformers does not tie a head to a table that is quantised: it is given the same numbers.
        config = json.loads((untied / "config.json").read_text()) | {"tie_word_embeddings": False}
        (untied / "config.json").write_text(json.dumps(config))
        own = load_file(untied / "model.safetensors") | {"lm_head.weight": dense["model.embed_tokens.weight"].clone()}
        save_file(own, untied / "model.safetensors", metadata={"format": "pt"})
        same("gemma", Gemma3ForCausalLM.from_pretrained(untied, dtype=torch.float32), {}, logits)
    finally:
        shutil.rmtree(untied)


def main():
    check(transformers.__version__ == "5.24.0", transformers.__version__)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(OUT, ignore_errors=True)
    fp8("fp8", "float", 2)
    fp8("fp8-exponents", "ue8m0", 1)
    compressed_float()
    compressed_int()
    gemma()
    print(sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file()), "bytes in", OUT)


if __name__ == "__main__":
    main()
