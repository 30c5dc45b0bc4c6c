//! What makes logits of hidden states: the embedding, a matrix of its own, or nothing.

use super::activation::Resolved;
use crate::checkpoint::remark::{Remark, RemarkKind};
use serde::{Deserialize, Serialize};

/// The matrix of a language-model head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// The embedding's.
    Embedding,
    /// One of its own, `lm_head.weight`.
    Separate,
    /// There is none: the model predicts no tokens.
    None,
}

impl HeadKind {
    /// What stands in before anything is known.
    pub(in crate::checkpoint) fn untold() -> Resolved<Self> {
        Resolved { value: Self::Embedding, reason: String::new() }
    }

    /// What a config says: an encoder has no head, nor has a classifier; else the ties decide, of the file's top and
    /// of the text part, of which transformers follows the first.
    pub(in crate::checkpoint) fn of_config(
        predicts: bool,
        architectures: &[String],
        [top, text]: [Option<bool>; 2],
        remarks: &mut Vec<Remark>,
    ) -> Resolved<Self> {
        let none = |reason: String| Resolved { value: Self::None, reason };
        if !predicts {
            return none("every position sees those behind it: it predicts no tokens".into());
        }
        if let Some(name) = architectures.iter().find(|name| scores(name)) {
            let reason = format!("architectures says {name}, which has no language-model head");
            let text =
                format!("{reason}: there are no logits, and with them no KL and no perplexity");
            remarks.push(Remark::warning(RemarkKind::Unused, text));
            return none(reason);
        }
        if let Some(name) = architectures.iter().find(|name| !ends_in_logits(name)) {
            let text = format!(
                "architectures says {name}, which is not known to have a language-model head; one is assumed"
            );
            remarks.push(Remark::note(RemarkKind::Chosen, text));
        }
        let value = |tied| if tied { Self::Embedding } else { Self::Separate };
        match (top, text) {
            (None, None) => Resolved {
                value: Self::Embedding,
                reason: "tie_word_embeddings is not set; every family's default is true".into(),
            },
            (Some(top), Some(text)) if top != text => Resolved {
                value: value(top),
                reason: format!("tie_word_embeddings says {top} (and {text} in the text part)"),
            },
            (Some(tied), _) | (None, Some(tied)) => {
                Resolved { value: value(tied), reason: format!("tie_word_embeddings says {tied}") }
            }
        }
    }
}

/// Whether an architecture ends in scores and not in logits.
fn scores(architecture: &str) -> bool {
    // ShieldGemma 2 classifies by the logits of two words.
    let by_words = architecture.contains("ForImageClassification");
    let heads = ["Classification", "Reward", "QuestionAnswering", "MultipleChoice", "Regression"];
    !by_words && heads.iter().any(|head| architecture.contains(head))
}

/// Whether an architecture is known to end in logits.
fn ends_in_logits(architecture: &str) -> bool {
    let heads = [
        "ForCausalLM",
        "ForConditionalGeneration",
        "ForImageClassification",
        "ForBlockDiffusion",
        "LMHead",
    ];
    heads.iter().any(|head| architecture.contains(head))
}
