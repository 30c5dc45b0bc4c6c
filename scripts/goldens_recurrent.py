"""RecurrentGemma for goldens_families."""

import torch
from transformers import DynamicCache, RecurrentGemmaConfig, RecurrentGemmaForCausalLM

from goldens_common import check, relative_l2
from goldens_families_common import SEQUENCE, VOCABULARY, Golden, Wide, draw, token_ids, uniform

WINDOW = 4
IDS = token_ids("recurrent")
# Where in each text positions start again at 0, as where two texts stand in one row.
RESTARTS = (9, 14)


def config():
    return RecurrentGemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        # Of which gate and up have half each.
        intermediate_size=36,
        num_hidden_layers=5,
        num_attention_heads=3,
        num_key_value_heads=1,
        lru_width=18,
        attention_window_size=WINDOW,
        conv1d_width=4,
        rms_norm_eps=1e-3,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    )


def released(config):
    config = dict(config)
    rope = config.pop("rope_parameters")
    return config | {key: rope[key] for key in ("rope_theta", "partial_rotary_factor")}


def draw_recurrent(name, shape):
    if name.endswith("recurrent_param"):
        # For a state that lasts some tokens.
        return uniform(name, shape, -5.0, -1.0)
    return draw(name, shape, one_plus=True)


def restarted(model, results):
    """The same ids where positions start again within each text.

    There states are emptied, and attention, which takes it for another text, sees nothing from before; convolutions
    do see it.
    """
    positions = torch.stack([torch.cat([torch.arange(at), torch.arange(SEQUENCE - at)]) for at in RESTARTS])
    with torch.no_grad(), Wide():
        logits = model(input_ids=IDS, position_ids=positions, use_cache=False).logits
    for row, at in enumerate(RESTARTS):
        difference = relative_l2(logits[row, :at], results["logits"][row, :at].detach())
        check(difference < 1e-12, f"recurrent: text {row} is another before it starts again, by {difference:.1e}")
    return {"restarted.logits": logits, "restarted.positions": positions}


MODELS = {
    "recurrent": Golden(
        config,
        RecurrentGemmaForCausalLM,
        hub=released,
        draw=draw_recurrent,
        inputs={"input_ids": IDS},
        call={"input_ids": IDS, "use_cache": False},
        window=WINDOW,
        new_cache=lambda model: DynamicCache(config=model.config),
        extra=restarted,
    )
}
