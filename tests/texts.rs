//! Texts of megabytes have the ids that the crate `tokenizers` gives them as a whole. Also on the real
//! tokenizer where GEMMA_MODEL names a directory with one.

use crate::common::directory_in;
use crate::common::texts::mixed;
use gemma_mlp::Checkpoint;
use std::path::Path;

fn assert_same_ids(dir: &Path) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let tokenizer = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let text = mixed(1 << 20);
    let whole = tokenizer.encode(&*text, true).unwrap();
    let ids = checkpoint.encode(&text).unwrap();
    let first = ids.iter().zip(whole.get_ids()).position(|(ours, whole)| ours != whole);
    assert_eq!((first, ids.len()), (None, whole.get_ids().len()));
}

#[test]
fn a_megabyte_through_the_tiny_tokenizer() {
    assert_same_ids(Path::new("weights/tiny-gemma3"));
}

#[test]
fn a_megabyte_through_the_real_tokenizer() {
    if let Some(dir) = directory_in("GEMMA_MODEL", "real") {
        assert_same_ids(&dir);
    }
}
