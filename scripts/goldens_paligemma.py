"""PaliGemma's text model, of Gemma and of Gemma 2, for goldens_families."""

import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from goldens_common import check, relative_l2
from goldens_families_common import BATCH, SEQUENCE, VOCABULARY, Golden, Wide, draw, token_ids

SLIDING, FULL = "sliding_attention", "full_attention"
# So many tokens at the start see one another; the others are causal.
PREFIX = 5
WINDOW = 4
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 20,
    "intermediate_size": 18,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}


def paligemma(text):
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=4, patch_size=2
    )
    return PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=62,
        projection_dim=20,
        hidden_size=20,
        vocab_size=VOCABULARY,
    )


def gemma2():
    return Gemma2Config(
        **SIZES,
        layer_types=[SLIDING, FULL, SLIDING],
        sliding_window=WINDOW,
        query_pre_attn_scalar=12,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=30.0,
    )


def released(config):
    text = dict(config["text_config"])
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    return config | {"text_config": text}


def causal(ids):
    """The same ids without a prefix: each token sees those before it alone."""

    def run(model, results):
        with torch.no_grad(), Wide():
            logits = model(input_ids=ids, use_cache=False).logits
        # From the last token of the prefix on, what differs is what the prefix has become.
        difference = relative_l2(logits, results["logits"].detach())
        check(difference > 1e-2, f"paligemma: the prefix makes a difference of {difference:.1e} alone")
        return {"causal.logits": logits}

    return run


def golden(name, text, window):
    ids = token_ids(name)
    types = torch.ones(BATCH, SEQUENCE, dtype=torch.long)
    types[:, :PREFIX] = 0
    return Golden(
        lambda: paligemma(text()),
        PaliGemmaForConditionalGeneration,
        hub=released,
        draw=lambda name, shape: draw(name, shape, one_plus=True),
        inputs={"input_ids": ids, "token_type_ids": types},
        call={"input_ids": ids, "token_type_ids": types, "use_cache": False},
        window=window,
        stacks=lambda model: {"": model.model.language_model},
        extra=causal(ids),
    )


MODELS = {
    "paligemma-gemma": golden("paligemma-gemma", lambda: GemmaConfig(**SIZES), 0),
    "paligemma-gemma2": golden("paligemma-gemma2", gemma2, WINDOW),
}
