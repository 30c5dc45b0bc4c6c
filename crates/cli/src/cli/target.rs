//! What the decoder of an encoder-decoder reads.

use super::text::{self, Input};
use anyhow::Result;
use candle_core::Device;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::{Checkpoint, Error};
use gemma_mlp_drift::drift::{Side, continued_targets};
use gemma_mlp_drift::input::Texts;
use std::path::PathBuf;

/// Tokens that the decoder goes on for where it has no text.
const LENGTH: usize = 64;

#[derive(clap::Args)]
#[group(multiple = false)]
pub struct TargetArgs {
    /// Of T5Gemma, whose encoder reads the text: what the decoder reads beside it [default: its own
    /// greedy continuation, of at most 64 tokens]
    #[arg(long, value_name = "TEXT", requires = "model")]
    target: Option<String>,
    /// File with a JSON array of token ids for the decoder, or an array of such arrays
    #[arg(long, value_name = "FILE", requires = "model")]
    target_ids: Option<PathBuf>,
}

impl TargetArgs {
    /// The file that it is in.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.target_ids.iter().cloned()
    }

    /// Texts for a model: as they are, or, where it has an encoder, as what that reads beside the decoder's. `side` is
    /// whose continuation it is.
    ///
    /// # Errors
    /// A target for a model without an encoder, more or fewer than there are texts.
    pub fn beside(
        &self,
        input: Input,
        checkpoint: &Checkpoint,
        side: Side,
        device: &Device,
    ) -> Result<Input> {
        let given = self.target.is_some() || self.target_ids.is_some();
        let Input { ids: sources, mut remarks } = input;
        if checkpoint.config().encoder().is_none() {
            return match given {
                true => Err(Error::Input(format!(
                    "{} is a {}, which has no encoder beside its decoder; leave --target and --target-ids out",
                    checkpoint.source(),
                    checkpoint.config().family
                ))
                .into()),
                false => Ok(Input { ids: sources, remarks }),
            };
        }
        // Blocks alone read no text.
        if checkpoint.attention().is_err() {
            if given {
                let text = "the blocks run alone, and what the decoder would read is not used";
                remarks.push(Remark::warning(RemarkKind::Unused, text));
            }
            return Ok(Input { ids: sources, remarks });
        }
        let ids = if let Some(path) = &self.target_ids {
            text::ids_of(path)?
        } else if let Some(target) = &self.target {
            let Input { ids, remarks: of_target } = text::of_prompt(checkpoint, target)?;
            for remark in of_target {
                if !remarks.contains(&remark) {
                    remarks.push(remark);
                }
            }
            let (with_bos, added) = behind_bos(ids, checkpoint.config().bos_token_id);
            remarks.extend(added);
            with_bos
        } else {
            let text = format!(
                "there is no --target: the decoder reads BOS and what it goes on with by itself under {side}, always the \
                 likeliest token, at most {LENGTH}"
            );
            remarks.push(Remark::note(RemarkKind::Chosen, text));
            continued_targets(checkpoint, &sources, side, LENGTH, device)?
        };
        Ok(Input { ids: ids.with_sources(sources)?, remarks })
    }
}

/// The decoder's texts behind BOS, with which it begins whatever the tokenizer does.
fn behind_bos(texts: Texts, bos: u32) -> (Texts, Option<Remark>) {
    if texts.iter().all(|ids| ids.first() == Some(&bos)) {
        return (texts, None);
    }
    let text =
        format!("the decoder's text begins with BOS (token {bos}), which the tokenizer leaves out");
    let texts = texts.iter().map(|ids| [&[bos], ids].concat()).collect();
    (texts, Some(Remark::note(RemarkKind::Chosen, text)))
}
