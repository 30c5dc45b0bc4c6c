"""model.safetensors: whole small models of every family, from token ids to logits, and their gradients.

    input_ids                     I64 [2, 17]      the same for every family, and no padding among them
    {family}.{name}               F32              every weight, by its name in transformers: model.… or lm_head.weight
    {family}.mlp_input            F32 [2, 17, 12]  what reaches layer 0's MLP
    {family}.mlp_output           F32 [2, 17, 12]  what the MLP makes of it
    {family}.hidden.{layer}       F32 [2, 17, 12]  the residual stream after the layer; the final norm comes later
    {family}.last_hidden          F32 [2, 17, 12]  the last of them after the final norm
    {family}.logits               F32 [2, 17, 50]  as a sampler gets them, capped where the config has a cap

The families are gemma, gemma2, gemma3 (with scaled positions in its full layer), gemma3_bidirectional (without a
causal mask, as EmbeddingGemma; it has no head, and so no logits), gemma3_full (scaled positions, and no sliding layer)
and vaultgemma, each with three layers. Layers 0 and 2 of all but gemma and gemma3_full slide. gemma2 has a head of its
own, with lm_head.weight; the others' heads are their embeddings, which the file holds once. Weights of the same name
and shape are the same in all families.

Each family's config stands in the metadata, as JSON, twice: {family}.config as transformers writes it today, and
{family}.config_hub in the older spelling that most files on the Hub have. Both were loaded, and gave the same.

Of gemma3 once more, with mode tanh, as its config has it, or exact, with hidden_activation "gelu" in its place:

    gemma3.loss.{mode}            F64 [1]          the mean cross-entropy of tokens 1 to 16 given those before them
    gemma3.grad.{mode}.layers.{layer}.{projection}
                                  F32              its gradient for gate_proj, up_proj and down_proj, shaped as these
    gemma3.grad.{mode}.embeddings F32 [2, 17, 12]  and for what enters layer 0: the embeddings, scaled. The head's use
                                                   of the same matrix has no part in it.

The model computes in F32, and the cross-entropy of its logits in F64.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    VaultGemmaConfig,
    VaultGemmaForCausalLM,
)

from goldens_common import ACTIVATIONS, MODES, SEED, check, check_finite, normal, relative_l2

BATCH, SEQUENCE, VOCABULARY, HIDDEN, LAYERS = 2, 17, 50, 12, 3
# Where the prompt ends that fills the cache: beyond the window, so that a sliding layer's cache starts out full.
PREFILL = 9
# What readers of this file are held to; different ways to run the same model must be closer.
TOLERANCE = 1e-5

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 20,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    # Large enough to show, unlike the default 1e-6.
    "rms_norm_eps": 0.05,
}
# Neither the head's size nor the hidden size per head, so that the scale's origin shows.
SCALE = {"query_pre_attn_scalar": 16}
WINDOW = {"sliding_window": 5}
# A base of 500 rather than the default 10000, so that a reader that overlooks the key is caught.
ROPE = {"rope_theta": 500.0, "rope_scaling": None}
SOFTCAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA3 = SIZES | SCALE | WINDOW | {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": None,
}
LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}


@dataclass
class Family:
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    # The config in the Hub's spelling.
    hub: dict
    # The keys of it that decide what the model computes, each with a value that must change the result.
    decisive: dict
    # Keys that other families heed, each with a value that must not change a bit of the result.
    ignored: dict = field(default_factory=dict)
    has_head: bool = True


FAMILIES = {
    "gemma": Family(
        GemmaConfig,
        GemmaForCausalLM,
        # This is how Gemma's first files on the Hub spell the activation; they mean the tanh form.
        SIZES | ROPE | {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None},
        {"rope_theta": 1e4, "rms_norm_eps": 1e-6},
        SCALE | WINDOW | SOFTCAPS | {"hidden_activation": "relu"},
    ),
    "gemma2": Family(
        Gemma2Config,
        Gemma2ForCausalLM,
        # No layer_types: Gemma 2's layers alternate, and the first one slides.
        SIZES | SCALE | WINDOW | ROPE | SOFTCAPS | {
            "model_type": "gemma2",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": False,
        },
        {
            "rope_theta": 1e4,
            "rms_norm_eps": 1e-6,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "tie_word_embeddings": True,
        },
        {"hidden_act": "relu", "rope_local_base_freq": 1e4, "sliding_window_pattern": 3},
    ),
    "gemma3": Family(
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        # Every second layer is full, and its positions alone are scaled, as from Gemma 3 4B on.
        GEMMA3 | LINEAR | {"sliding_window_pattern": 2},
        {
            "rope_theta": 500.0,
            "rope_local_base_freq": 500.0,
            "rope_scaling": None,
            "rms_norm_eps": 1e-6,
            "sliding_window": 6,
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 8,
            "final_logit_softcapping": 3.0,
        },
        {"attn_logit_softcapping": 1.0, "_sliding_window_pattern": 3, "hidden_act": "relu"},
    ),
    "gemma3_bidirectional": Family(
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        # EmbeddingGemma's file has both the list and an underscored pattern; the list decides.
        GEMMA3 | {
            "use_bidirectional_attention": True,
            "layer_types": ALTERNATING,
            "_sliding_window_pattern": 6,
        },
        {
            "rope_theta": 500.0,
            "rope_local_base_freq": 500.0,
            "rms_norm_eps": 1e-6,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "use_bidirectional_attention": False,
            "layer_types": ["sliding_attention"] * LAYERS,
        },
        {"sliding_window_pattern": 1, "final_logit_softcapping": 3.0},
        has_head=False,
    ),
    "gemma3_full": Family(
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        # Every layer is full.
        GEMMA3 | LINEAR | {"sliding_window_pattern": 1},
        {"rope_theta": 500.0, "rope_scaling": None, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 8},
        {"rope_local_base_freq": 500.0, "sliding_window": 6},
    ),
    "vaultgemma": Family(
        VaultGemmaConfig,
        VaultGemmaForCausalLM,
        SIZES | SCALE | WINDOW | ROPE | SOFTCAPS | {
            "model_type": "vaultgemma",
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ALTERNATING,
        },
        {
            "rope_theta": 1e4,
            "rms_norm_eps": 1e-6,
            "sliding_window": 6,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["sliding_attention"] * LAYERS,
        },
        {"hidden_act": "relu", "use_bidirectional_attention": True},
    ),
}


def compute():
    input_ids = token_ids()
    tensors, metadata = {"input_ids": input_ids}, {}
    for name, family in FAMILIES.items():
        model = build(family, family.hub)
        results = run(family, model, input_ids)
        check_family(name, family, input_ids, results)
        tensors |= {f"{name}.{key}": tensor for key, tensor in (weights(model) | results).items()}
        metadata[f"{name}.config"] = current_spelling(model)
        metadata[f"{name}.config_hub"] = json.dumps(family.hub)
    tensors |= {f"gemma3.{key}": tensor for key, tensor in gradients(FAMILIES["gemma3"], input_ids).items()}
    check_finite(tensors)
    check_families_differ(tensors)
    check_gradients(tensors)
    return tensors, metadata


def token_ids():
    # Below 3 stand the ids of padding, end and beginning.
    return torch.from_numpy(np.random.default_rng(SEED).integers(3, VOCABULARY, (BATCH, SEQUENCE)))


def build(family, config):
    """A model of random weights, from a config as it would be read from a file."""
    # from_dict changes what it is given.
    config = family.config_class.from_dict(json.loads(json.dumps(config)), attn_implementation="eager")
    model = family.model_class(config).eval()
    with torch.no_grad():
        for name, weight in weights(model).items():
            weight.copy_(normal(f"model.{name}", weight.shape, weight_std(name, weight.shape)))
    return model


def weights(model):
    """The weights by name; not state_dict(), which has a tied head's a second time."""
    return dict(model.named_parameters())


def weight_std(name, shape):
    if "norm" in name:
        # Around the zero that stands for a factor of one.
        return 0.3
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        # The model multiplies embeddings by the root of the hidden size. The 2 is for logits that the cap bends.
        return 2.0 * shape[-1] ** -0.5
    if "q_proj" in name or "k_proj" in name:
        # Large enough for a softmax that is not flat, and for logits that the soft cap bends.
        return 2.0 * shape[-1] ** -0.5
    return 1.5 * shape[-1] ** -0.5


def run(family, model, input_ids):
    """The results that the file holds, by their names in it."""
    modules = record(model, input_ids)
    (mlp_input,), mlp_output = modules["model.layers.0.mlp"]
    results = {"mlp_input": mlp_input, "mlp_output": mlp_output}
    # Not hidden_states, whose last one is already normed.
    results |= {f"hidden.{layer}": modules[f"model.layers.{layer}"][1] for layer in range(LAYERS)}
    results["last_hidden"] = modules["model.norm"][1]
    if family.has_head:
        results["logits"] = modules[""][1].logits
    return results


def record(model, input_ids):
    """What goes into every module, by position, and what comes out of it."""
    captured = {}
    hooks = [
        module.register_forward_hook(partial(lambda name, _, *call: captured.update({name: call}), name))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model(input_ids=input_ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return captured


def output(results):
    """The end of the model: logits, or what there is without a head."""
    return results.get("logits", results["last_hidden"])


def current_spelling(model):
    return json.dumps(model.config.to_dict(), sort_keys=True)


def gradients(family, input_ids):
    """The cross-entropy of the next token, and its gradients, in both modes."""
    results = {}
    for mode in MODES:
        model = build(family, family.hub | {"hidden_activation": ACTIVATIONS[mode]})
        embeddings = model.model.embed_tokens(input_ids).detach().requires_grad_()
        logits = model(inputs_embeds=embeddings, use_cache=False).logits
        loss = cross_entropy(logits, input_ids)
        loss.backward()
        results |= {f"loss.{mode}": loss.detach().reshape(1), f"grad.{mode}.embeddings": embeddings.grad}
        for index, layer in enumerate(model.model.layers):
            for name, projection in layer.mlp.named_children():
                if name.endswith("_proj"):
                    results[f"grad.{mode}.layers.{index}.{name}"] = projection.weight.grad
    return results


def cross_entropy(logits, input_ids):
    """The mean over every token but the first of each row, which nothing predicts."""
    log_probabilities = logits[:, :-1].double().log_softmax(-1)
    return -log_probabilities.gather(-1, input_ids[:, 1:, None]).mean()


def check_family(name, family, input_ids, results):
    model = build(family, family.hub)
    check_head(name, model)
    check_spellings(name, family, input_ids, results)
    check_keys(name, family, input_ids, results)
    check_structure(name, model, input_ids, results)
    check_not_degenerate(name, family, model, input_ids, results)
    check_rows_alone(name, family, model, input_ids, results)
    if family.has_head:
        check_cache(name, model, input_ids, results)


def check_head(name, model):
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    stored = "lm_head.weight" in weights(model)
    check(tied == (name != "gemma2") and stored != tied, f"{name}: the head is tied: {tied}, and stored: {stored}")


def check_spellings(name, family, input_ids, results):
    config = json.loads(current_spelling(build(family, family.hub)))
    reloaded = run(family, build(family, config), input_ids)
    for key, tensor in results.items():
        check(torch.equal(reloaded[key], tensor), f"{name}: the two spellings of its config disagree in {key}")


def check_keys(name, family, input_ids, results):
    def rerun(key, value):
        return output(run(family, build(family, family.hub | {key: value}), input_ids))

    for key, value in family.decisive.items():
        difference = relative_l2(rerun(key, value), output(results))
        check(difference > 1e-2, f"{name}: {key} = {value} moves the output by {difference:.1e} alone")
    for key, value in family.ignored.items():
        check(torch.equal(rerun(key, value), output(results)), f"{name}: {key} = {value} moves the output")


def check_structure(name, model, input_ids, results):
    """The recorded residual stream is the one that transformers reports, save the last, which it reports normed."""
    with torch.no_grad():
        reported = model(input_ids=input_ids, output_hidden_states=True).hidden_states[1:]
        normed = model.model.norm(results[f"hidden.{LAYERS - 1}"])
    recorded = [*(results[f"hidden.{layer}"] for layer in range(LAYERS - 1)), results["last_hidden"]]
    for layer, (ours, theirs) in enumerate(zip(recorded, reported, strict=True)):
        check(torch.equal(ours, theirs), f"{name}: layer {layer} ends in something else for transformers")
    check(torch.equal(normed, results["last_hidden"]), f"{name}: something comes between last layer and final norm")


def check_not_degenerate(name, family, model, input_ids, results):
    modules = record(model, input_ids)
    for layer in range(LAYERS):
        # Where exact and tanh GELU differ most is between 1 and 3.
        std = float(modules[f"model.layers.{layer}.mlp.gate_proj"][1].std())
        check(1.2 < std < 1.8, f"{name}: layer {layer}'s gate pre-activations have a standard deviation of {std:.2f}")
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            without = build(family, family.hub)
            without.get_submodule(f"model.layers.{layer}.{part}").weight.data.zero_()
            difference = relative_l2(output(run(family, without, input_ids)), output(results))
            check(difference > 0.1, f"{name}: layer {layer}'s {part} moves the output by {difference:.1e} alone")

    for row in output(results):
        for first, second in combinations(range(SEQUENCE), 2):
            difference = relative_l2(row[first], row[second])
            check(difference > 0.05, f"{name}: positions {first} and {second} differ by {difference:.1e} alone")


def check_rows_alone(name, family, model, input_ids, results):
    for row in range(BATCH):
        alone = run(family, model, input_ids[row : row + 1])
        for key, tensor in alone.items():
            difference = relative_l2(tensor, results[key][row : row + 1])
            check(difference < TOLERANCE, f"{name}: row {row} has another {key} alone, by {difference:.1e}")


def check_cache(name, model, input_ids, results):
    """A prompt into an empty cache, then token by token, gives the same as all at once."""
    steps, cache = [], None
    with torch.no_grad():
        for tokens in input_ids.split([PREFILL] + [1] * (SEQUENCE - PREFILL), dim=1):
            step = model(input_ids=tokens, past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            steps.append(step.logits)
    difference = relative_l2(torch.cat(steps, dim=1), results["logits"])
    check(difference < TOLERANCE, f"{name}: with a cache the logits are {difference:.1e} away")


def check_families_differ(tensors):
    for first, second in combinations(FAMILIES, 2):
        difference = relative_l2(tensors[f"{first}.last_hidden"], tensors[f"{second}.last_hidden"])
        check(difference > 0.1, f"{first} and {second} end the same but for {difference:.1e}")


def check_gradients(tensors):
    loss = cross_entropy(tensors["gemma3.logits"], tensors["input_ids"])
    check(torch.equal(tensors["gemma3.loss.tanh"], loss.reshape(1)), "the loss is not that of the logits")
    names = [name for name in tensors if name.startswith("gemma3.grad.tanh.")]
    check(len(names) == 3 * LAYERS + 1, f"{len(names)} gradients")
    for name in names:
        check(bool(tensors[name].any()), f"{name} is zero")
        difference = relative_l2(tensors[name], tensors[name.replace(".tanh.", ".exact.")])
        check(10 * TOLERANCE < difference < 1e-2, f"{name} is {difference:.1e} away from exact")
