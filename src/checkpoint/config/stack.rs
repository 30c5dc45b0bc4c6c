//! One stack of a config's layers.

use super::activation::{Resolved, resolve_activation};
use super::attention::{AttentionConfig, check_per_layer};
use super::feed_forward::{self, AltUpConfig, FeedForward, PerLayerInputs};
use super::head::HeadKind;
use super::limits::{MAX_LAYERS, MAX_VOCAB, MAX_WIDTH};
use super::raw::RawConfig;
use super::recurrent::RecurrentConfig;
use crate::checkpoint::families::{EmbeddingScale, Family, Model, NormNames, NormWeight, Softcap};
use crate::checkpoint::json::malformed;
use crate::checkpoint::notes::{Notes, Refusal};
use crate::checkpoint::remark::Remark;
use crate::error::{Error, Result, Unsupported};
use crate::kernels::activation::Activation;
use std::path::Path;

/// One stack of like layers.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Empty, or the stack's name in the file: `encoder`, `decoder`.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between up and down, of the first layer if they differ. RecurrentGemma's config counts gate and up
    /// together; this is one of them.
    pub intermediate_size: usize,
    /// What each layer does behind its attention.
    pub feed_forward: Vec<FeedForward>,
    /// How many layers there are.
    pub num_hidden_layers: usize,
    /// `rms_norm_eps` of all norms.
    pub rms_norm_eps: f64,
    /// What each of its layers calls its norms.
    pub norms: NormNames,
    /// What they multiply by.
    pub norm_weight: NormWeight,
    /// Inputs of every layer beside the residual stream.
    pub per_layer_inputs: Option<PerLayerInputs>,
    /// Whether a layer ends with a factor of its own on the residual stream.
    pub layer_scalar: bool,
    /// What each layer has in place of attention, if it has something (RecurrentGemma); what [`Self::attention`] says of
    /// such a layer is not used.
    pub recurrent: Vec<Option<RecurrentConfig>>,
    /// Gemma 3n's several residual streams.
    pub altup: Option<AltUpConfig>,
    /// Width of what `embedding_projection` makes of the last hidden states (EmbeddingGemma 2).
    pub embedding_dim: Option<usize>,
    /// The MLP's activation, and why.
    pub activation: Resolved<Activation>,
    /// What a layer calls the MLP.
    pub mlp_name: &'static str,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// What the factor on token embeddings is rounded to.
    pub embedding_scale: EmbeddingScale,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The longest text that the model is made for, in tokens, if the file says so.
    pub max_position_embeddings: Option<usize>,
    /// What makes logits of hidden states, and why. A checkpoint's is settled by its weights.
    pub head: Resolved<HeadKind>,
    /// Whether some level of the file ties the head to the embedding, if another does not.
    pub(in crate::checkpoint) may_be_tied: bool,
    /// `cap·tanh(logits/cap)` on the logits (Gemma 2, VaultGemma).
    pub final_softcap: Option<f64>,
    /// The attention of every layer, or the sentence why it is not computed.
    pub attention: std::result::Result<AttentionConfig, Unsupported>,
    /// The fields that the file leaves out, with the family's default that stands in.
    pub defaults: Vec<String>,
}

/// Reads a stack, and what there is to say of it.
pub(in crate::checkpoint) fn stack(
    family: Family,
    model: &Model,
    name: &'static str,
    raw: &RawConfig,
    path: &Path,
) -> Result<(Stack, Vec<Remark>)> {
    let profile = family.profile();
    let mut notes = Notes::default();
    let mut or_default =
        |name, value, default, max| size(name, notes.or(name, value, default), max, path);
    let sizes = &profile.sizes;
    let hidden_size = or_default("hidden_size", raw.hidden_size, sizes.hidden_size, MAX_WIDTH)?;
    let layers = (raw.num_hidden_layers, sizes.num_hidden_layers);
    let num_hidden_layers = or_default("num_hidden_layers", layers.0, layers.1, MAX_LAYERS)?;
    let rms_norm_eps = notes.or("rms_norm_eps", raw.rms_norm_eps, 1e-6);
    if !(rms_norm_eps > 0.0 && rms_norm_eps.is_finite()) {
        return Err(malformed(
            path,
            format!("rms_norm_eps is {rms_norm_eps}; it must be positive"),
        ));
    }
    let refused = |refusal| match refusal {
        Refusal::Unsupported(reason) => {
            Error::UnsupportedModel { path: path.into(), reason: format!("{family}: {reason}") }
        }
        Refusal::Impossible(reason) => malformed(path, reason),
    };
    check_per_layer(family, raw, num_hidden_layers, &mut notes).map_err(refused)?;
    let feed_forward = feed_forward::resolve(family, raw, num_hidden_layers, &mut notes);
    let feed_forward = feed_forward.map_err(refused)?;
    let per_layer_inputs = PerLayerInputs::resolve(profile, raw, num_hidden_layers, &mut notes);
    let per_layer_inputs = per_layer_inputs.map_err(refused)?;
    let altup = AltUpConfig::resolve(profile, raw, &mut notes).map_err(refused)?;
    let embedding_dim = match profile.embedding_dim {
        Some(default) => {
            let dim = notes.or("embedding_dim", raw.embedding_dim, default);
            Some(size("embedding_dim", dim, MAX_WIDTH, path)?)
        }
        None => None,
    };
    let recurrent = RecurrentConfig::resolve(
        profile.attention.as_ref().ok(),
        raw,
        hidden_size,
        num_hidden_layers,
        &mut notes,
    );
    let (recurrent, unsupported) = match recurrent {
        Ok(recurrent) => (recurrent, None),
        Err(Refusal::Unsupported(reason)) => (vec![None; num_hidden_layers], Some(reason)),
        Err(refusal) => return Err(refused(refusal)),
    };
    let cap = match profile.final_softcap {
        Softcap::Always(_) => raw.logits_soft_cap,
        _ => raw.final_logit_softcapping,
    };
    let final_softcap = profile
        .final_softcap
        .resolve(profile.final_softcap.key(), cap, &mut notes)
        .map_err(|reason| malformed(path, reason))?;
    let vocab = notes.or("vocab_size", raw.vocab_size, sizes.vocab_size);
    let activation =
        resolve_activation(family, raw.hidden_act.as_deref(), raw.hidden_activation.as_deref())
            .map_err(|source| Error::Activation { path: path.into(), source })?;
    let attention = match (&profile.attention, unsupported) {
        (&Err(reason), _) => Err(Unsupported(reason.to_string())),
        (_, Some(reason)) => Err(Unsupported(reason)),
        (Ok(attention), None) => {
            let layers = num_hidden_layers;
            match AttentionConfig::resolve(family, model, attention, raw, layers, &mut notes) {
                Ok(attention) => Ok(attention),
                Err(Refusal::Unsupported(reason)) => Err(Unsupported(reason)),
                Err(Refusal::Impossible(reason)) => return Err(malformed(path, reason)),
            }
        }
    };
    let stack = Stack {
        name,
        hidden_size,
        intermediate_size: feed_forward[0].intermediate_size,
        feed_forward,
        num_hidden_layers,
        rms_norm_eps,
        norms: profile.norms,
        norm_weight: profile.norm_weight,
        per_layer_inputs,
        layer_scalar: profile.layer_scalar,
        recurrent,
        altup,
        embedding_dim,
        activation,
        mlp_name: profile.mlp.name,
        mlp_bias: profile.mlp.bias,
        embedding_scale: profile.embedding_scale,
        vocab_size: size("vocab_size", vocab, MAX_VOCAB, path)?,
        max_position_embeddings: raw.max_position_embeddings,
        head: HeadKind::untold(),
        may_be_tied: true,
        final_softcap,
        attention,
        defaults: notes.defaults,
    };
    Ok((stack, notes.remarks))
}

fn size(name: &str, value: usize, max: usize, path: &Path) -> Result<usize> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(malformed(path, format!("{name} is {value}; it must be 1 to {max}")))
    }
}
