//! Known mistakes by their names.

use gemma_mlp_drift::drift::{Change, DIFFERENCES, Difference};

/// Any difference that is ranked.
pub fn difference(name: &str) -> Result<&'static Difference, String> {
    named(DIFFERENCES.iter(), name)
}

/// A mistake that a model can have.
pub fn mistake(name: &str) -> Result<&'static Difference, String> {
    named(DIFFERENCES.iter().filter(|known| matches!(known.change, Change::Model(_))), name)
}

fn named(
    known: impl Iterator<Item = &'static Difference> + Clone,
    name: &str,
) -> Result<&'static Difference, String> {
    known.clone().find(|known| known.name == name).ok_or_else(|| {
        let names: Vec<_> = known.map(|known| format!("'{}'", known.name)).collect();
        format!("the known mistakes are {}", names.join(", "))
    })
}
