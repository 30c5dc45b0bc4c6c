//! Gemma 2, ShieldGemma 1, and the text part of PaliGemma 2.

use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "Gemma 2",
    models: &[Model::text("gemma2"), paligemma("gemma2")],
    stacks: &[""],
    activation: ActivationRule::HiddenActivation,
    sizes: Sizes {
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        vocab_size: 256_000,
    },
    mlp: PLAIN_MLP,
    norms: FOUR_NORMS,
    final_softcap: Softcap::Default(30.0),
    attention: Ok(GEMMA2_ATTENTION),
};
