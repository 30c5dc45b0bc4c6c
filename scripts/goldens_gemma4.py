"""Gemma 4 for goldens_families: dense, with per-layer embeddings, with experts, Unified."""

from types import SimpleNamespace

import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4UnifiedForCausalLM,
    Gemma4UnifiedTextConfig,
    Gemma4VisionConfig,
)

from goldens_common import normal
from goldens_families_common import VOCABULARY, Golden, draw, token_ids

WINDOW = 5
IDS = token_ids("gemma4")
SLIDING, FULL = "sliding_attention", "full_attention"
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
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


def released(global_kv_heads=None, global_head_dim=SIZES["global_head_dim"]):
    """From the spelling of today's transformers to that of Google's files."""

    def change(config):
        if "text_config" in config:
            return config | {"text_config": change(config["text_config"])}
        config = dict(config)
        del config["per_layer_config"]
        return config | {
            "global_head_dim": global_head_dim,
            "num_global_key_value_heads": global_kv_heads,
        }

    return change


def shared_kv(model, weights):
    """The k and v tensors that released files have for layers that take another layer's keys and values."""
    strays = {}
    text_config = model.config.get_text_config()
    for index, (mode, kind) in enumerate(zip(text_config.kv_sharing_modes, text_config.layer_types, strict=True)):
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


def golden(config, model_class=Gemma4ForCausalLM, ids=IDS, **rest):
    return Golden(
        config,
        model_class,
        inputs={"input_ids": ids},
        call={"input_ids": ids, "use_cache": False},
        window=WINDOW,
        **rest,
    )


def wrapped(**keys):
    return Gemma4Config(text_config=text(**keys), vision_config=None, audio_config=None)


def diffusion():
    """Its vision tower has no part in this; a DiffusionGemma cannot be without one."""
    vision = Gemma4VisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        patch_size=2,
        position_embedding_size=4,
    )
    keys = SIZES | MOE
    for key in DIFFUSION_LACKS:
        del keys[key]
    return DiffusionGemmaConfig(text_config=DiffusionGemmaTextConfig(**keys), vision_config=vision, canvas_length=8)


def diffusion_encoder(model):
    return {"": model.model.encoder.language_model}


def encode(model, use_cache, **call):
    """The encoder's pass, and the head on what it ends in, as Gemma 4 has it; DiffusionGemma reads no logits off it."""
    encoded = diffusion_encoder(model)[""](**call)
    cap = model.final_logit_softcapping
    logits = torch.tanh(model.lm_head(encoded.last_hidden_state) / cap) * cap
    return SimpleNamespace(logits=logits, cache=encoded.cache)


PLE = ("vocab_size_per_layer_input", "hidden_size_per_layer_input")
DIFFUSION_LACKS = (*PLE, "attention_k_eq_v", "enable_moe_block", "final_logit_softcapping")
MOE = {
    "num_hidden_layers": 3,
    "layer_types": [SLIDING, FULL, FULL],
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 6,
}
FIVE = {"num_hidden_layers": 5, "layer_types": [SLIDING, FULL, SLIDING, SLIDING, FULL]}

MODELS = {
    "gemma4-dense": golden(
        lambda: text(**FIVE, attention_k_eq_v=True, num_global_key_value_heads=1),
        hub=released(1),
        ids=token_ids("gemma4-dense"),
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
    # Texts in which no two experts are so near that bf16, or the exact GELU, would choose another.
    "gemma4-moe": golden(lambda: text(**MOE), hub=released(1), ids=token_ids("gemma4-moe 11")),
    "gemma4-proportional": golden(
        lambda: text(
            num_hidden_layers=3,
            layer_types=[FULL, SLIDING, FULL],
            global_head_dim=12,
            rope_parameters={
                SLIDING: {"rope_type": "default", "rope_theta": 500.0},
                FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1e3, "factor": 2.0},
            },
        ),
        hub=released(global_head_dim=12),
    ),
    # Not causal: there is no cache.
    "gemma4-all": golden(
        lambda: text(
            num_hidden_layers=4,
            layer_types=[SLIDING, FULL, SLIDING, FULL],
            use_bidirectional_attention="all",
            hidden_size_per_layer_input=6,
        ),
        hub=released(),
        cached=False,
    ),
    "gemma4-unified": golden(
        lambda: Gemma4UnifiedTextConfig(
            **{key: value for key, value in SIZES.items() if key not in (*PLE, "final_logit_softcapping")},
            **FIVE,
            final_logit_softcapping=None,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
        ),
        Gemma4UnifiedForCausalLM,
        hub=released(1),
        strays=shared_kv,
    ),
    "diffusion-encoder": golden(
        diffusion,
        DiffusionGemmaForBlockDiffusion,
        ids=token_ids("diffusion-encoder 5"),
        hub=released(1),
        forward=encode,
        stacks=diffusion_encoder,
    ),
}
