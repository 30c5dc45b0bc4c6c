//! The tokens of a dump that holds none.

use anyhow::Result;
use gemma_mlp::Error;
use gemma_mlp_drift::compare::Dump;
use gemma_mlp_drift::input::Texts;

/// Gives each text of a dump its tokens.
///
/// # Errors
/// A dump with more or fewer texts, or one of several with other tokens: one of the two is wrong. Of a single text
/// comparing says how the tokens differ.
pub fn give_tokens(dump: &mut Dump, ids: &Texts) -> Result<()> {
    let refused = |why: String| Err(Error::Input(format!("{}: {why}", dump.source)).into());
    if ids.len() != dump.texts.len() {
        let texts = (dump.texts.len(), ids.len());
        return refused(format!("a dump of {} texts, and --ids has {}", texts.0, texts.1));
    }
    for (i, (text, ids)) in dump.texts.iter().zip(ids.iter()).enumerate() {
        let Some(known) = &text.tokens else { continue };
        if known != ids && dump.texts.len() > 1 {
            return refused(format!(
                "text {i}, counted from 0, has tokens, and those of --ids are others; leave --ids out"
            ));
        }
    }
    for (text, ids) in dump.texts.iter_mut().zip(ids.iter()) {
        text.tokens.get_or_insert_with(|| ids.to_vec());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma_mlp_drift::compare::DumpText;

    #[test]
    fn only_what_is_missing_is_given() {
        let ids: Texts = vec![vec![2, 5], vec![2, 6]].into();
        let with = |tokens: [Option<Vec<u32>>; 2]| Dump {
            source: "theirs.safetensors".into(),
            texts: tokens.map(|tokens| DumpText { tokens, ..DumpText::default() }).into(),
            ..Dump::default()
        };
        let mut dump = with([None, Some(vec![2, 6])]);
        give_tokens(&mut dump, &ids).unwrap();
        assert_eq!(dump.texts[0].tokens, Some(vec![2, 5]));
        let other = give_tokens(&mut with([None, Some(vec![2, 7])]), &ids).unwrap_err();
        assert!(other.to_string().contains("theirs.safetensors: text 1"), "{other}");
        let fewer: Texts = vec![vec![2, 5]].into();
        assert!(give_tokens(&mut with([None, None]), &fewer).is_err());
    }
}
