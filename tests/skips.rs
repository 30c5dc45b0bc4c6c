//! GEMMA_MLP_REQUIRE turns skips into failures.

use crate::common::{NEEDS, names, required, skip};
use std::panic::catch_unwind;

#[test]
fn a_list_names_what_it_names() {
    assert!(!names("", "real") && !names("browser, ptx", "real"));
    assert!(names("browser, real", "real") && names("all", "real"));
    for list in ["reel", "browser,reel", "all,reel"] {
        assert!(catch_unwind(|| names(list, "real")).is_err(), "{list}");
    }
    assert!(catch_unwind(|| names("all", "reel")).is_err(), "a need that is none");
}

/// Whatever the variable is here: what it names may not be skipped, and it has no unknown word.
#[test]
fn what_is_required_is_not_skipped() {
    for need in NEEDS {
        let skipped = catch_unwind(|| skip(need, "this is a test of skips")).is_ok();
        assert_eq!(skipped, !names(&required(), need), "{need}");
    }
}
