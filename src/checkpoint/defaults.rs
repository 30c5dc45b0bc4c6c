//! Fields that a config leaves out.

use std::fmt;

/// Stands in for fields that are missing, and remembers which.
#[derive(Default)]
pub(super) struct Defaults {
    /// One `name = value` per field, in the order of use.
    pub(super) used: Vec<String>,
}

impl Defaults {
    pub(super) fn or<T: fmt::Debug>(&mut self, name: &str, value: Option<T>, default: T) -> T {
        value.unwrap_or_else(|| {
            let note = format!("{name} = {default:?}");
            if !self.used.contains(&note) {
                self.used.push(note);
            }
            default
        })
    }
}
