"""Gemma 4 for goldens_families: dense, with per-layer embeddings, with experts, Unified."""

import torch
from transformers import (
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4UnifiedForCausalLM,
    Gemma4UnifiedTextConfig,
)

from goldens_common import normal
from goldens_families_common import SEQUENCE, VOCABULARY, Golden, draw, token_ids

WINDOW = 5
IDS = token_ids("gemma4")
SLIDING, FULL = "sliding_attention", "full_attention"
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 20,
    "intermediate_size": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "max_position_embeddings": 64,
    "sliding_window": WINDOW,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 30.0,
    "rms_norm_eps": 1e-3,
}


def text(**keys):
    return Gemma4TextConfig(**(SIZES | keys))


def released(global_kv_heads=None):
    """From the spelling of today's transformers to that of Google's files."""

    def change(config):
        if "text_config" in config:
            return config | {"text_config": change(config["text_config"])}
        config = dict(config)
        del config["per_layer_config"]
        return config | {
            "global_head_dim": SIZES["global_head_dim"],
            "num_global_key_value_heads": global_kv_heads,
        }

    return change


def shared_kv(model, weights):
    """The k and v tensors that released files have for layers that take another layer's keys and values."""
    strays = {}
    text_config = model.config.get_text_config()
    for index, (mode, kind) in enumerate(zip(text_config.kv_sharing_modes, text_config.layer_types)):
        if mode != "reuse":
            continue
        own = text_config.layer_types.index(kind)
        for key, tensor in weights.items():
            for part in ("k_proj", "v_proj", "k_norm"):
                if f"layers.{own}.self_attn.{part}." in key:
                    key = key.replace(f"layers.{own}.", f"layers.{index}.")
                    strays[key] = draw(key, tuple(tensor.shape))
    return strays


def with_vision(model, weights):
    key = "model.vision_tower.patch_embedder.input_proj.weight"
    return shared_kv(model, weights) | {key: normal(key, (6, 12), 0.3)}


def golden(config, model_class=Gemma4ForCausalLM, **rest):
    return Golden(
        config,
        model_class,
        inputs={"input_ids": IDS},
        call={"input_ids": IDS, "use_cache": False},
        window=WINDOW,
        **rest,
    )


def wrapped(**keys):
    return Gemma4Config(text_config=text(**keys), vision_config=None, audio_config=None)


MODELS = {
    "gemma4-dense": golden(
        lambda: text(
            num_hidden_layers=6,
            layer_types=[SLIDING, FULL, SLIDING, SLIDING, FULL, FULL],
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
        ),
        hub=released(1),
    ),
    "gemma4-e4b": golden(
        lambda: wrapped(
            num_hidden_layers=6,
            layer_types=[SLIDING, FULL, SLIDING, FULL, SLIDING, FULL],
            num_kv_shared_layers=2,
            hidden_size_per_layer_input=6,
        ),
        Gemma4ForConditionalGeneration,
        hub=released(),
        strays=with_vision,
    ),
    "gemma4-e2b": golden(
        lambda: text(
            num_hidden_layers=5,
            layer_types=[SLIDING, FULL, SLIDING, SLIDING, FULL],
            num_key_value_heads=1,
            num_kv_shared_layers=3,
            use_double_wide_mlp=True,
            hidden_size_per_layer_input=6,
        ),
        hub=released(),
        strays=shared_kv,
    ),
}
