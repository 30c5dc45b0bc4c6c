//! VaultGemma: Gemma 2 without the norms behind attention and MLP.

use super::gemma2;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "VaultGemma",
    models: &[Model::text("vaultgemma")],
    norms: NormNames { post_attention: None, post_mlp: None, ..FOUR_NORMS },
    // Its layers all have full attention, as its config lists them.
    releases: &[Release::new("VaultGemma 1B", [1152, 6912, 26], [4, 4, 256], None)],
    ..gemma2::PROFILE
};
