//! What is odd about token ids, as far as figures depend on it.

use super::texts::Texts;
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Remark, RemarkKind, Stack};

/// Warnings about texts that a whole model runs on: BOS that is missing or there twice, more tokens at
/// once than the model was made for. `at_once` is how many it has in view at most. Blocks that run on noise
/// know no ids, and get none.
pub(crate) fn text_remarks<'a>(
    checkpoint: &Checkpoint,
    texts: impl Iterator<Item = &'a [u32]> + Clone,
    at_once: usize,
) -> Vec<Remark> {
    if checkpoint.attention().is_err() {
        return vec![];
    }
    let mut remarks = vec![];
    let mut warn = |text| remarks.push(Remark::warning(RemarkKind::Text, text));
    let bos = checkpoint.config().bos_token_id;
    let texts = texts.filter(|ids| !ids.is_empty());
    let all = texts.clone().count();
    let with = |count: usize| match (count, all) {
        (_, 1) => "the text".to_string(),
        _ => format!("{count} of {all} texts"),
    };
    let verb = |count: usize, one, many| if all == 1 || count == 1 { one } else { many };
    let without = texts.clone().filter(|ids| ids[0] != bos).count();
    if without > 0 && needs_bos(checkpoint) {
        let (texts, verb) = (with(without), verb(without, "does", "do"));
        warn(format!(
            "{texts} {verb} not begin with BOS (token {bos}); Gemma computes nonsense without: a missing \
             BOS moves the logits of Gemma 3 270M by a mean KL of 1.15 nats"
        ));
    }
    let twice = texts.clone().filter(|ids| ids.starts_with(&[bos, bos])).count();
    if twice > 0 {
        let (texts, verb) = (with(twice), verb(twice, "begins", "begin"));
        warn(format!("{texts} {verb} with BOS (token {bos}) twice; Gemma was trained with one"));
    }
    remarks.extend(too_long(checkpoint.config().decoder(), "the model", at_once));
    remarks
}

/// What an encoder and a decoder read, and which layers are whose.
pub(crate) fn both_read(checkpoint: &Checkpoint, source: usize, target: usize) -> Option<Remark> {
    let layers = checkpoint.config().encoder()?.num_hidden_layers;
    let text = format!(
        "the encoder, whose layers are those before {layers}, reads {source} tokens; the decoder reads {target}, of which \
         the logits are"
    );
    Some(Remark::note(RemarkKind::Chosen, text))
}

/// A warning about texts that an encoder reads, longer than it was made for.
pub(crate) fn source_remark(checkpoint: &Checkpoint, sources: &Texts) -> Option<Remark> {
    let longest = sources.iter().map(<[u32]>::len).max().unwrap_or_default();
    too_long(checkpoint.config().encoder()?, "the encoder", longest)
}

fn too_long(stack: &Stack, who: &str, at_once: usize) -> Option<Remark> {
    let max = stack.max_position_embeddings.filter(|&max| at_once > max)?;
    let text = format!(
        "{who} reads {at_once} tokens at once, but its config says that it was trained up to {max} \
         (max_position_embeddings)"
    );
    Some(Remark::warning(RemarkKind::Text, text))
}

/// Decoders do; encoders differ, and are believed.
fn needs_bos(checkpoint: &Checkpoint) -> bool {
    let causal = checkpoint.attention().is_ok_and(|attention| attention.causal);
    causal || checkpoint.adds_bos().unwrap_or(false)
}

/// That there are no texts beside token ids, and why.
pub(crate) fn without_texts(checkpoint: &Checkpoint, ids: &[u32]) -> Option<Remark> {
    let error = checkpoint.decode(ids).err()?;
    let text = format!("token ids are shown without their texts: {error}");
    Some(Remark::note(RemarkKind::Text, text))
}
