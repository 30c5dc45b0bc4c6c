//! What fuzzing kept, once more: every input of the corpus through its target. CONTRIBUTING.md says how to look for more.

#[path = "fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Nothing panics, and no answer contradicts another.
#[test]
fn the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut files = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            let ran = std::panic::catch_unwind(|| target(&input));
            assert!(ran.is_ok(), "{}", path.display());
            files += 1;
        }
        assert!(files > 0, "no corpus of {name}");
    }
}
