"""attention.safetensors: what the first layer of a model hands to its MLP.

    input_ids               I64 [2, 17]      the same for every family
    {family}.model.{name}   F32              the embedding and layer 0, under their names in transformers
    {family}.mlp_input      F32 [2, 17, 12]  what reaches layer 0's MLP
    {family}.mlp_output     F32 [2, 17, 12]  what the MLP makes of it

Each family's config stands in the metadata, as JSON, twice: {family}.config as transformers writes it today, and
{family}.config_hub in the older spelling that most files on the Hub have. Both were loaded, and gave the same.

The families are gemma, gemma2, gemma3 (its first layer with a sliding window), gemma3_bidirectional (the same without
a causal mask, as in EmbeddingGemma), gemma3_full (its first layer with full attention, and scaled positions) and
vaultgemma. Weights of the same name and shape are the same in all of them.
"""

import json
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaConfig,
    GemmaModel,
    PreTrainedConfig,
    PreTrainedModel,
    VaultGemmaConfig,
    VaultGemmaModel,
)

from goldens_common import SEED, check, check_finite, normal, relative_l2

BATCH, SEQUENCE, VOCABULARY, HIDDEN = 2, 17, 50, 12

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
# Neither the head's size nor the hidden size per head, so that the scale's origin shows.
SCALE = {"query_pre_attn_scalar": 16}
WINDOW = {"sliding_window": 5}
# A base of 500 rather than the default 10000, so that a reader that overlooks the key is caught.
ROPE = {"rope_theta": 500.0, "rope_scaling": None}
SOFTCAP = {"attn_logit_softcapping": 5.0}
GEMMA3 = SIZES | SCALE | WINDOW | {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": None,
}


@dataclass
class Family:
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    # The config in the Hub's spelling.
    hub: dict
    # The keys of it that decide what attention computes, each with a value that must change the result.
    decisive: dict


FAMILIES = {
    "gemma": Family(
        GemmaConfig,
        GemmaModel,
        # This is how Gemma's first files on the Hub spell the activation; they mean the tanh form.
        SIZES | ROPE | {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None},
        {"rope_theta": 1e4},
    ),
    "gemma2": Family(
        Gemma2Config,
        Gemma2Model,
        # No layer_types: Gemma 2's layers alternate, and the first one slides.
        SIZES | SCALE | WINDOW | ROPE | SOFTCAP | {
            "model_type": "gemma2",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
        },
        {"rope_theta": 1e4, "sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": None},
    ),
    "gemma3": Family(
        Gemma3TextConfig,
        Gemma3TextModel,
        # Every second layer is full, so the first one slides.
        GEMMA3 | {"sliding_window_pattern": 2},
        {"rope_local_base_freq": 500.0, "sliding_window": 6, "query_pre_attn_scalar": 8},
    ),
    "gemma3_bidirectional": Family(
        Gemma3TextConfig,
        Gemma3TextModel,
        # EmbeddingGemma's file has both the list and an underscored pattern; the list decides.
        GEMMA3 | {
            "use_bidirectional_attention": True,
            "layer_types": ["sliding_attention", "full_attention"],
            "_sliding_window_pattern": 6,
        },
        {
            "rope_local_base_freq": 500.0,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "use_bidirectional_attention": False,
        },
    ),
    "gemma3_full": Family(
        Gemma3TextConfig,
        Gemma3TextModel,
        # Every layer is full.
        GEMMA3 | {"sliding_window_pattern": 1, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_theta": 500.0, "rope_scaling": None, "query_pre_attn_scalar": 8},
    ),
    "vaultgemma": Family(
        VaultGemmaConfig,
        VaultGemmaModel,
        SIZES | SCALE | WINDOW | ROPE | SOFTCAP | {
            "model_type": "vaultgemma",
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {"rope_theta": 1e4, "sliding_window": 6, "query_pre_attn_scalar": 8, "attn_logit_softcapping": None},
    ),
}


def compute():
    input_ids = torch.from_numpy(np.random.default_rng(SEED).integers(0, VOCABULARY, (BATCH, SEQUENCE)))
    tensors, metadata = {"input_ids": input_ids}, {}
    for name, family in FAMILIES.items():
        model = build(family, family.hub)
        mlp_input, mlp_output = run(model, input_ids)
        check_family(name, family, input_ids, mlp_input)
        tensors |= {f"{name}.model.{key}": tensor for key, tensor in first_layer(model).items()}
        tensors |= {f"{name}.mlp_input": mlp_input, f"{name}.mlp_output": mlp_output}
        metadata[f"{name}.config"] = current_spelling(model)
        metadata[f"{name}.config_hub"] = json.dumps(family.hub)
    check_finite(tensors)
    check_families_differ(tensors)
    return tensors, metadata


def build(family, config):
    """A model of random weights, from a config as it would be read from a file."""
    # from_dict changes what it is given.
    config = family.config_class.from_dict(json.loads(json.dumps(config)), attn_implementation="eager")
    model = family.model_class(config).eval()
    model.load_state_dict({name: random_weight(name, tensor.shape) for name, tensor in model.state_dict().items()})
    return model


def random_weight(name, shape):
    return normal(f"attention.{name}", shape, weight_std(name, shape))


def weight_std(name, shape):
    if "norm" in name:
        # Around the zero that stands for a factor of one.
        return 0.3
    if name == "embed_tokens.weight":
        # The model multiplies embeddings by the root of the hidden size.
        return shape[-1] ** -0.5
    if "q_proj" in name or "k_proj" in name:
        # Large enough for a softmax that is not flat, and for logits that the soft cap bends.
        return 2.0 * shape[-1] ** -0.5
    return 1.5 * shape[-1] ** -0.5


def run(model, input_ids):
    """What goes into the first layer's MLP, and what comes out of it."""
    captured = []
    hook = model.layers[0].mlp.register_forward_hook(lambda _, inputs, output: captured.extend((*inputs, output)))
    with torch.no_grad():
        model(input_ids=input_ids)
    hook.remove()
    mlp_input, mlp_output = captured
    return mlp_input, mlp_output


def first_layer(model):
    wanted = ("embed_tokens.", "layers.0.")
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(wanted)}


def current_spelling(model):
    return json.dumps(model.config.to_dict(), sort_keys=True)


def check_family(name, family, input_ids, mlp_input):
    model = build(family, family.hub)
    reloaded = build(family, json.loads(current_spelling(model)))
    check(torch.equal(run(reloaded, input_ids)[0], mlp_input), f"{name}: the two spellings of its config disagree")

    for key, value in family.decisive.items():
        changed = build(family, family.hub | {key: value})
        difference = relative_l2(run(changed, input_ids)[0], mlp_input)
        check(difference > 1e-2, f"{name}: {key} = {value} moves the MLP's input by {difference:.1e} alone")

    model.layers[0].self_attn.o_proj.weight.data.zero_()
    difference = relative_l2(run(model, input_ids)[0], mlp_input)
    check(difference > 0.1, f"{name}: attention moves the MLP's input by {difference:.1e} alone")


def check_families_differ(tensors):
    names = list(FAMILIES)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            difference = relative_l2(tensors[f"{first}.mlp_input"], tensors[f"{second}.mlp_input"])
            check(difference > 1e-2, f"{first} and {second} hand over the same but for {difference:.1e}")
