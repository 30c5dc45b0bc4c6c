"""Gemma 3n for goldens_families: three sets of options. And Gemma 3 with scaled positions."""

from transformers import Gemma3ForCausalLM, Gemma3nForCausalLM, Gemma3nTextConfig, Gemma3TextConfig

from goldens_common import normal
from goldens_families_common import VOCABULARY, Golden, draw, token_ids
from goldens_gemma4 import shared_kv

WINDOW = 5
SLIDING, FULL = "sliding_attention", "full_attention"
# Ids from here on have no row in the per-layer table, and take row 0.
PER_LAYER_VOCABULARY = 52
IDS = token_ids("gemma3n")
SIZES = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": PER_LAYER_VOCABULARY,
    "hidden_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "sliding_window": WINDOW,
    "hidden_size_per_layer_input": 6,
    "laurel_rank": 5,
    "rms_norm_eps": 1e-3,
}


def text(**keys):
    return Gemma3nTextConfig(**(SIZES | keys))


def released(config):
    """From the spelling of today's transformers to that of Google's files."""
    config = dict(config)
    rope = config.pop("rope_parameters")
    full = dict(rope[FULL])
    scaling = {key: full[key] for key in ("rope_type", "factor") if key in full} if "factor" in full else None
    return config | {
        "rope_theta": full["rope_theta"],
        "rope_local_base_freq": rope[SLIDING]["rope_theta"],
        "rope_scaling": scaling,
    }


def draw_3n(name, shape):
    last = name.removesuffix(".weight").rsplit(".", 1)[-1]
    if last == "modality_router":
        # Its input is divided by the hidden size.
        return normal(name, shape, shape[-1] ** 0.5)
    if last in ("prediction_coefs", "correction_coefs"):
        # Beyond a clip of 0.25, and not so large that streams blow up.
        return normal(name, shape, 0.2)
    return draw(name, shape)


def golden(config, **rest):
    return Golden(
        config,
        Gemma3nForCausalLM,
        hub=released,
        strays=shared_kv,
        draw=draw_3n,
        inputs={"input_ids": IDS},
        call={"input_ids": IDS, "use_cache": False},
        window=WINDOW,
        **rest,
    )


def linear():
    return Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=20,
        intermediate_size=18,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=12,
        max_position_embeddings=64,
        sliding_window=WINDOW,
        layer_types=[SLIDING, FULL, SLIDING, FULL],
        rms_norm_eps=1e-3,
        rope_parameters={
            SLIDING: {"rope_type": "default", "rope_theta": 1e4},
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
    )


MODELS = {
    # So many layers that the first ten are sparse by default. Two widths; keys and values shared.
    "gemma3n-a": golden(
        lambda: text(num_hidden_layers=12, intermediate_size=[18, 14] * 6, num_kv_shared_layers=4, altup_coef_clip=0.25)
    ),
    "gemma3n-b": golden(
        lambda: text(
            num_hidden_layers=4,
            intermediate_size=24,
            layer_types=[SLIDING, FULL, SLIDING, FULL],
            num_kv_shared_layers=0,
            activation_sparsity_pattern=[0.5, 0.0, 0.95, 0.0],
            altup_num_inputs=2,
            altup_correct_scale=False,
        )
    ),
    "gemma3n-c": golden(
        lambda: text(
            num_hidden_layers=4,
            intermediate_size=16,
            layer_types=[SLIDING, FULL, SLIDING, FULL],
            num_kv_shared_layers=2,
            altup_num_inputs=3,
            altup_active_idx=1,
            rope_parameters={
                SLIDING: {"rope_type": "default", "rope_theta": 1e4},
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        )
    ),
    "gemma3-linear": Golden(
        linear,
        Gemma3ForCausalLM,
        hub=released,
        draw=lambda name, shape: draw(name, shape, one_plus=True),
        inputs={"input_ids": token_ids("gemma3-linear")},
        call={"input_ids": token_ids("gemma3-linear"), "use_cache": False},
        window=WINDOW,
    ),
}
