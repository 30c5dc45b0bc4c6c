//! Names without what wrappers add to them.

use crate::checkpoint::remark::{Remark, RemarkKind};
use std::borrow::Cow;

/// What wrappers put in front of all names: PEFT, `torch.nn.DataParallel`.
const WRAPPERS: [&str; 2] = ["base_model.model.", "module."];

/// What `torch.compile` puts into names, wherever a module was compiled.
const COMPILED: &str = "_orig_mod.";

/// A tensor's name without what wrappers have added to it.
pub(super) fn canonical(name: &str) -> Cow<'_, str> {
    let mut name = Cow::Borrowed(name);
    if name.contains(COMPILED) {
        name = name.replace(COMPILED, "").into();
    }
    while let Some(wrapper) = WRAPPERS.iter().find(|wrapper| name.starts_with(**wrapper)) {
        name = match name {
            Cow::Borrowed(name) => Cow::Borrowed(&name[wrapper.len()..]),
            Cow::Owned(name) => Cow::Owned(name[wrapper.len()..].to_string()),
        };
    }
    name
}

/// That names were read without their wrappers.
pub(super) fn renamed(count: usize) -> Option<Remark> {
    (count > 0).then(|| {
        let wrappers = WRAPPERS.join(", ");
        let text = format!(
            "{count} tensors are read without the wrappers in their names ({COMPILED}, {wrappers})"
        );
        Remark::note(RemarkKind::Chosen, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_left_out() {
        for (stored, name) in [
            ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("_orig_mod.model.norm.weight", "model.norm.weight"),
            ("model.layers.0._orig_mod.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("module._orig_mod.model.norm.weight", "model.norm.weight"),
            ("base_model.model.model.norm.weight", "model.norm.weight"),
            ("module.base_model.model.lm_head.weight", "lm_head.weight"),
            ("module.", ""),
        ] {
            assert_eq!(canonical(stored), name);
        }
        assert!(matches!(canonical("model.norm.weight"), Cow::Borrowed(_)));
    }
}
