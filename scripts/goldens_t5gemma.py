"""T5Gemma and T5Gemma 2 for goldens_families."""

import torch
from transformers import (
    SiglipVisionConfig,
    T5Gemma2Config,
    T5Gemma2DecoderConfig,
    T5Gemma2EncoderConfig,
    T5Gemma2ForConditionalGeneration,
    T5Gemma2TextConfig,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
)

from goldens_common import normal
from goldens_families_common import BATCH, VOCABULARY, Golden, draw, token_ids

SLIDING, FULL = "sliding_attention", "full_attention"
ENCODER_LENGTH = 19
# How many tokens of padding the second text of the encoder ends in.
PADDING = 4
# Ends an image, and has an embedding of its own.
EOI = 60
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 12,
    "intermediate_size": 18,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
}


def texts(name, eoi=False):
    """Ids of the encoder, whose second text is shorter, of the decoder, and the mask of the former."""
    encoder, decoder = token_ids(f"{name} encoder", ENCODER_LENGTH), token_ids(f"{name} decoder")
    if eoi:
        encoder[0, 7] = encoder[1, 3] = decoder[0, 11] = decoder[1, 5] = EOI
    mask = torch.ones(BATCH, ENCODER_LENGTH, dtype=torch.long)
    encoder[1, -PADDING:], mask[1, -PADDING:] = 0, 0
    return encoder, decoder, mask


def stacks(model):
    encoder = model.model.encoder
    return {"encoder.": getattr(encoder, "text_model", encoder), "decoder.": model.model.decoder}


def golden(name, config, model_class, window, hub, eoi=False):
    encoder, decoder, mask = texts(name, eoi)
    return Golden(
        config,
        model_class,
        hub=hub,
        draw=draw_t5,
        inputs={"encoder_ids": encoder, "decoder_ids": decoder, "encoder_mask": mask},
        call={"input_ids": encoder, "decoder_input_ids": decoder, "attention_mask": mask, "use_cache": False},
        decoded="decoder_input_ids",
        stacks=stacks,
        window=window,
    )


def draw_t5(name, shape):
    if name.endswith("eoi_embedding"):
        return normal(name, shape, 2.0)
    return draw(name, shape, one_plus=True)


def t5gemma():
    rope = {"rope_type": "default", "rope_theta": 500.0}
    both = SIZES | {"layer_types": [SLIDING, FULL], "sliding_window": 5, "rope_parameters": rope}
    both |= {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 30.0}
    wider = {
        "hidden_size": 20,
        "intermediate_size": 14,
        "num_hidden_layers": 3,
        "layer_types": [SLIDING, FULL, SLIDING],
    }
    return T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**(both | wider)), decoder=T5GemmaModuleConfig(**both), vocab_size=VOCABULARY
    )


def released_t5gemma(config):
    def part(config):
        config = dict(config)
        return config | {"rope_theta": config.pop("rope_parameters")["rope_theta"]}

    return config | {side: part(config[side]) for side in ("encoder", "decoder")}


def t5gemma2(window):
    rope = {
        SLIDING: {"rope_type": "default", "rope_theta": 500.0},
        FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    # The attention cap is in released configs, and nothing reads it.
    keys = SIZES | {"layer_types": [SLIDING, FULL], "sliding_window": window, "attn_logit_softcapping": 5.0}

    def text(config_class):
        return config_class(**keys, rope_parameters={kind: dict(parameters) for kind, parameters in rope.items()})

    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=4, patch_size=2
    )
    encoder = T5Gemma2EncoderConfig(
        text_config=text(T5Gemma2TextConfig),
        vision_config=vision,
        mm_tokens_per_image=4,
        eoi_token_index=EOI,
        boi_token_index=61,
        image_token_index=62,
    )
    return T5Gemma2Config(encoder=encoder, decoder=text(T5Gemma2DecoderConfig), image_token_index=62)


def released_t5gemma2(config):
    def part(config):
        config = dict(config)
        rope = config.pop("rope_parameters")
        full = rope[FULL]
        del config["layer_types"]
        return config | {
            "sliding_window_pattern": 2,
            "rope_theta": full["rope_theta"],
            "rope_local_base_freq": rope[SLIDING]["rope_theta"],
            "rope_scaling": {"rope_type": full["rope_type"], "factor": full["factor"]},
        }

    encoder = config["encoder"] | {"text_config": part(config["encoder"]["text_config"])}
    return config | {"encoder": encoder, "decoder": part(config["decoder"])}


MODELS = {
    f"t5gemma2-{parity}": golden(
        f"t5gemma2-{parity}",
        lambda window=window: t5gemma2(window),
        T5Gemma2ForConditionalGeneration,
        window,
        released_t5gemma2,
        eoi=True,
    )
    for parity, window in {"odd": 5, "even": 6}.items()
} | {"t5gemma": golden("t5gemma", t5gemma, T5GemmaForConditionalGeneration, 5, released_t5gemma)}
