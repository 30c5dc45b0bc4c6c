//! Layers by their numbers, for people to read.

use std::fmt;

/// Some layers' numbers, in order: `layer 4`, `layers 3 to 5`, `layers 0 to 3, 5 and 6`.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a>(pub &'a [usize]);

impl fmt::Display for Layers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "layer " } else { "layers " })?;
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        let shown: Vec<_> = runs
            .flat_map(|run| match run {
                [first, _, .., last] => vec![format!("{first} to {last}")],
                _ => run.iter().map(usize::to_string).collect(),
            })
            .collect();
        match &shown[..] {
            [first @ .., last] if !first.is_empty() => write!(f, "{} and {last}", first.join(", ")),
            _ => f.write_str(&shown.join("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_shortened() {
        for (layers, shown) in [
            (&[4][..], "layer 4"),
            (&[3, 4], "layers 3 and 4"),
            (&[3, 4, 5], "layers 3 to 5"),
            (&[0, 1, 2, 3, 5, 7], "layers 0 to 3, 5 and 7"),
        ] {
            assert_eq!(Layers(layers).to_string(), shown);
        }
    }
}
