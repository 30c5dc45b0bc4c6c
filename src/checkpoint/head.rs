//! Which matrix is the head, by the weights.

use super::config::activation::Resolved;
use super::config::head::HeadKind;
use super::config::stack::Stack;
use super::remark::{Remark, RemarkKind};
use super::tensors::Tensors;
use crate::error::{Error, Result};

/// What the weights say to a stack's head, of which `embedding` and `head` are the names, if they are there, and
/// `head_name` the one it has in its family. Returns with the head the name of the embedding.
///
/// # Errors
/// A checkpoint without the matrix that its config asks for; a file that was written to since it was opened.
pub(super) fn settle(
    stack: &Stack,
    tensors: &Tensors,
    embedding: &str,
    head_name: &str,
    head: Option<&str>,
    remarks: &mut Vec<Remark>,
) -> Result<(Resolved<HeadKind>, String)> {
    let Resolved { value, reason } = &stack.head;
    // A classifier whose config does not say what it is.
    let scores =
        ["score.weight", "classifier.weight"].into_iter().find(|name| tensors.contains(name));
    if let (HeadKind::Embedding, None, Some(scores)) = (value, head, scores) {
        let reason =
            format!("there is {scores} and no {head_name}.weight: it is no language model");
        let text =
            format!("{reason}, and there are no logits, and with them no KL and no perplexity");
        remarks.push(Remark::warning(RemarkKind::Chosen, text));
        return Ok((Resolved { value: HeadKind::None, reason }, embedding.into()));
    }
    let has_embedding = tensors.contains(embedding);
    let (value, reason, embedding) = match (value, head) {
        (HeadKind::None, _) => (HeadKind::None, reason.clone(), embedding),
        (HeadKind::Separate, None) if !stack.may_be_tied => {
            return Err(Error::MissingTensor {
                path: tensors.path().into(),
                tensor: format!("{head_name}.weight"),
                remedy: format!(
                    "{reason}; if the embedding is the head, set tie_word_embeddings to true"
                ),
            });
        }
        (_, None) => (
            HeadKind::Embedding,
            format!("{reason}, and there is no {head_name}.weight"),
            embedding,
        ),
        (HeadKind::Embedding, Some(head)) if !has_embedding => {
            let text =
                format!("{embedding} is not in the file; {head} is taken for it, as they are tied");
            remarks.push(Remark::note(RemarkKind::Chosen, text.clone()));
            (HeadKind::Embedding, text, head)
        }
        (HeadKind::Embedding, Some(head)) if tensors.are_equal(embedding, head)? => {
            (HeadKind::Embedding, format!("{reason}, and {head} is equal to it"), embedding)
        }
        (HeadKind::Embedding, Some(head)) => {
            let text = format!("{head} differs from the embedding: it is used, though {reason}");
            remarks.push(Remark::warning(RemarkKind::Chosen, text.clone()));
            (HeadKind::Separate, text, embedding)
        }
        (HeadKind::Separate, Some(_)) => (HeadKind::Separate, reason.clone(), embedding),
    };
    Ok((Resolved { value, reason }, embedding.to_string()))
}
