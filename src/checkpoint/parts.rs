//! What the parts around a stack's layers are called.

use super::blocks::BlockSpec;
use super::config::Config;
use super::remark::{Remark, RemarkKind};
use super::tensors::Tensors;
use super::{head, names};
use crate::error::Result;

/// The factor that a layer ends with.
pub(super) const SCALAR: &str = ".layer_scalar";

/// Names of the parts around the layers of a stack, without `.weight`.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// What stands before `layers.N`: `model.`, `model.encoder.`, or nothing.
    pub(crate) backbone: String,
    /// `model.embed_tokens`, or what is taken for it.
    pub(crate) embedding: String,
    /// The module with the embedding of the end of an image, `eoi_embedding`, in families that have one.
    pub(crate) end_of_image: String,
    /// `lm_head`, with its prefix.
    pub(crate) head: String,
    /// What stands before `layers.N.layer_scalar`, where that is not the backbone's (DiffusionGemma, whose two passes have
    /// all else in common).
    pub(crate) scalars: Option<String>,
    /// A table of its own that is equal to the one that is used.
    twin: Option<String>,
}

impl Parts {
    /// What a tensor of the backbone is called in the file.
    pub(crate) fn stored(&self, name: &str) -> String {
        match (&self.scalars, name.strip_prefix(&self.backbone)) {
            (Some(scalars), Some(rest)) if rest.ends_with(SCALAR) => format!("{scalars}{rest}"),
            _ => name.into(),
        }
    }

    /// What is equal to the embedding, if it is there and not used.
    pub(super) fn equals(&self) -> impl Iterator<Item = &String> {
        [&self.head].into_iter().chain(&self.twin)
    }
}

/// Finds them for each stack, and settles what its head is.
///
/// # Errors
/// A checkpoint without the matrix that its config asks for; a file that was written to since it was opened.
pub(super) fn find(
    config: &mut Config,
    blocks: &[BlockSpec],
    tensors: &Tensors,
    remarks: &mut Vec<Remark>,
) -> Result<Vec<Parts>> {
    let family = config.family.profile().encoder_decoder.as_ref();
    let scalars = config.family.profile().scalars;
    let head_name = family.map_or("lm_head", |family| family.head);
    let mut all: Vec<Parts> = vec![];
    let mut first = 0;
    for stack in &mut config.stacks {
        let backbone = before_layers(&blocks[first]).to_string();
        first += stack.num_hidden_layers;
        // The embedding is the layers' sibling.
        let embedding = format!("{backbone}embed_tokens");
        let mut parts = Parts {
            end_of_image: embedding.clone(),
            embedding,
            head: head_name.into(),
            scalars: scalars
                .and_then(|(own, other)| Some(format!("{}{other}", backbone.strip_suffix(own)?))),
            twin: None,
            backbone,
        };
        if family.is_some_and(|family| family.one_embedding)
            && let Some(encoder) = all.first()
        {
            share(&mut parts, encoder, tensors, remarks)?;
        }
        if stack.attention.is_ok() {
            let head = names::lm_head(head_name, &parts.backbone, tensors);
            let embedding = format!("{}.weight", parts.embedding);
            // An encoder has none.
            let of_stack = head.as_deref().filter(|_| first == blocks.len());
            let (kind, settled) =
                head::settle(stack, tensors, &embedding, head_name, of_stack, remarks)?;
            for own in all.iter_mut().filter(|own| own.embedding == parts.embedding) {
                own.embedding = without_weight(&settled).into();
            }
            parts.embedding = without_weight(&settled).into();
            if let Some(head) = &head {
                parts.head = without_weight(head).into();
            }
            stack.head = kind;
        }
        all.push(parts);
    }
    Ok(all)
}

/// Takes the encoder's table for the decoder's, unless the decoder has another one of its own, which transformers uses
/// too.
fn share(
    parts: &mut Parts,
    encoder: &Parts,
    tensors: &Tensors,
    remarks: &mut Vec<Remark>,
) -> Result<()> {
    let (own, table) =
        (format!("{}.weight", parts.embedding), format!("{}.weight", encoder.embedding));
    if !tensors.contains(&format!("{}.eoi_embedding", parts.end_of_image)) {
        parts.end_of_image.clone_from(&encoder.end_of_image);
    }
    if tensors.contains(&own) {
        // Whose it is that is missing is said where it is loaded.
        if !tensors.contains(&table) {
            return Ok(());
        }
        if !tensors.are_equal(&own, &table)? {
            let text =
                format!("{own} is not equal to {table}, which both stacks share: each has its own");
            remarks.push(Remark::warning(RemarkKind::Chosen, text));
            return Ok(());
        }
        parts.twin = Some(parts.embedding.clone());
    }
    parts.embedding.clone_from(&encoder.embedding);
    parts.end_of_image.clone_from(&encoder.end_of_image);
    Ok(())
}

/// What stands before `layers.0` in the name of a stack's first layer.
fn before_layers(first: &BlockSpec) -> &str {
    first.layer.strip_suffix("layers.0").unwrap_or(&first.layer)
}

/// The module that a weight is of.
fn without_weight(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}
