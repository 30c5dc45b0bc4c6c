//! What reading a config leaves to say.

use super::remark::{Remark, RemarkKind};
use std::fmt;

/// Stands in for fields that are missing, and remembers which; and what else a user should know.
#[derive(Default)]
pub(super) struct Notes {
    /// One `name = value` per field, in the order of use.
    pub(super) defaults: Vec<String>,
    pub(super) remarks: Vec<Remark>,
}

impl Notes {
    pub(super) fn or<T: fmt::Debug>(&mut self, name: &str, value: Option<T>, default: T) -> T {
        value.unwrap_or_else(|| {
            self.default(format!("{name} = {default:?}"));
            default
        })
    }

    /// A field that is absent, null, or a value, of which null is as good as any value.
    pub(super) fn or_null<T: fmt::Debug>(
        &mut self,
        name: &str,
        value: Option<Option<T>>,
        default: T,
    ) -> Option<T> {
        value.unwrap_or_else(|| {
            self.default(format!("{name} = {default:?}"));
            Some(default)
        })
    }

    fn default(&mut self, note: String) {
        if !self.defaults.contains(&note) {
            self.defaults.push(note);
        }
    }

    /// Two spellings that disagree, and which one was taken.
    pub(super) fn chosen(&mut self, text: String) {
        self.add(Remark::warning(RemarkKind::Chosen, text));
    }

    /// Keeps a remark once: layers are read one by one, and say the same.
    pub(super) fn add(&mut self, remark: Remark) {
        if !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
    }
}

/// Why a part of a config is not followed.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// Something that exists, but not here: its blocks can still be run.
    Unsupported(String),
    /// Something that cannot be.
    Impossible(String),
}
