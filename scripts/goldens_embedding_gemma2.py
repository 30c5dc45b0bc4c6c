"""EmbeddingGemma 2 for goldens_families: the text model alone, and the same weights as the multimodal file has them."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    EmbeddingGemma2Config,
    EmbeddingGemma2Model,
    EmbeddingGemma2TextConfig,
    EmbeddingGemma2TextModel,
)

from goldens_common import check, normal, to_safetensors
from goldens_families_common import VOCABULARY, Golden, Wide, token_ids

RADIUS, LENGTH = 3, 11
IDS = token_ids("embedding-gemma2", LENGTH)
FULL_MODEL = "embedding-gemma2-full"


def config():
    return EmbeddingGemma2TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=20,
        intermediate_size=18,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=16,
        num_global_key_value_heads=1,
        max_position_embeddings=64,
        sliding_window=RADIUS,
        embedding_dim=14,
        hidden_size_per_layer_input=6,
        rms_norm_eps=1e-3,
    )


def released(config):
    config = dict(config)
    del config["per_layer_config"]
    return config | {"global_head_dim": 16, "num_global_key_value_heads": 1}


def embed(results):
    """The mean over the tokens, of unit length, as sentence-transformers makes it of the model's output."""
    pooled = results["output"].mean(1)
    return {"pooled": pooled, "embedding": torch.nn.functional.normalize(pooled, dim=-1)}


def likeness(results, inputs):
    """The cosine between the two texts' embeddings."""
    first, second = embed(results)["embedding"]
    return (first * second).sum()


def full_model(folder, right):
    """The same weights under the full model's names, with one of its vision tower, and what gives the same bits."""
    text = json.loads((folder / "config.json").read_text())
    config = EmbeddingGemma2Config(text_config=text, vision_config=None, audio_config=None)
    weights = {f"language_model.{name}": weight for name, weight in load_file(folder / "model.safetensors").items()}
    stray = "vision_tower.patch_embedder.input_proj.weight"
    weights[stray] = normal(stray, (6, 12), 0.3).bfloat16()
    with tempfile.TemporaryDirectory() as other:
        config.architectures, config.dtype = ["EmbeddingGemma2Model"], torch.bfloat16
        config.save_pretrained(other)
        Path(other, "model.safetensors").write_bytes(to_safetensors(weights, {"format": "pt"}, ()))
        model, info = EmbeddingGemma2Model.from_pretrained(
            other, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
        )
        check(not info["missing_keys"], f"{FULL_MODEL}: {info}")
        with torch.no_grad(), Wide():
            output = model.eval()(input_ids=IDS).last_hidden_state
        check(torch.equal(output.float(), right["output"]), f"{FULL_MODEL} gives something else")
        return {f"{FULL_MODEL}/{path.name}": path.read_bytes() for path in Path(other).iterdir()}


MODELS = {
    "embedding-gemma2": Golden(
        config,
        EmbeddingGemma2TextModel,
        hub=released,
        inputs={"input_ids": IDS},
        call={"input_ids": IDS},
        window=2 * RADIUS + 1,
        cached=False,
        extra=lambda model, results: embed(results),
        loss=likeness,
        further=full_model,
    )
}
