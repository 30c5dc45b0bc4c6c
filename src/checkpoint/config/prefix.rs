//! The tokens at a text's start that all see one another.

use crate::checkpoint::remark::{Remark, RemarkKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which of a text's first tokens all see one another, where a model has such tokens: PaliGemma's image and prompt. Those
/// behind them, the answer, see earlier ones only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefix {
    /// All that the first call is given: PaliGemma's processor has it so of a prompt without an answer.
    All,
    /// So many, or all of a shorter text. With 0 every token sees earlier ones only, as in transformers without
    /// `token_type_ids`.
    Tokens(usize),
}

impl Prefix {
    /// How many tokens of a text of so many it has.
    pub fn of(self, tokens: usize) -> usize {
        match self {
            Self::All => tokens,
            Self::Tokens(prefix) => prefix.min(tokens),
        }
    }

    /// What it means for a result.
    pub(in crate::checkpoint) fn remark(self) -> Remark {
        let text = match self {
            Self::All => "each text is read as a prompt, whose tokens all see one another, as PaliGemma's processor \
                          has it: only the last position predicts a token that it has not seen; --prefix-tokens \
                          leaves an answer behind the prompt"
                .into(),
            Self::Tokens(0) => {
                "no tokens are read as a prompt: each sees earlier ones only, as in transformers without \
                 token_type_ids"
                    .into()
            }
            Self::Tokens(1) => "the first token of each text is the prompt".into(),
            Self::Tokens(n) => format!(
                "the first {n} tokens of each text are read as the prompt and all see one another; those behind \
                 them see earlier ones only"
            ),
        };
        Remark::note(RemarkKind::Chosen, text)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Tokens(n) => write!(f, "{n}"),
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            number => number
                .parse()
                .map(Self::Tokens)
                .map_err(|_| format!("'{text}' is no number of tokens; write 12, or all")),
        }
    }
}
