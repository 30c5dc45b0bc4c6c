//! Gemma 2, ShieldGemma 1, and the text part of PaliGemma 2.

use super::profile::*;

pub const PROFILE: Profile = Profile {
    final_softcap: Softcap::Default(30.0),
    releases: &[
        Release::new("Gemma 2 2B", [2304, 9216, 26], [8, 4, 256], Some(4096)),
        Release::new("Gemma 2 9B", [3584, 14336, 42], [16, 8, 256], Some(4096)),
        Release::new("Gemma 2 27B", [4608, 36864, 46], [32, 16, 128], Some(4096)).scalar(144.0),
    ],
    ..decoder(
        "Gemma 2",
        &[Model::text("gemma2"), paligemma("gemma2")],
        Sizes {
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            vocab_size: 256_000,
        },
    )
};
