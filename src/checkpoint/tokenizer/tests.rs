//! Tokenizers that are odd, and texts in pieces.

use super::*;
use crate::checkpoint::remark::Level;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::LazyLock;

const TINY: &[u8] = include_bytes!("../../../weights/tiny-gemma3/tokenizer.json");

fn tokenizer(json: impl Into<Vec<u8>>) -> Tokenizer {
    let config = r#"{"model_type": "gemma3_text", "vocab_size": 1024}"#;
    let config = Config::parse(config, Path::new("config.json")).unwrap();
    Tokenizer::bytes(json.into(), &config)
}

fn changed(change: impl FnOnce(&mut Value)) -> Tokenizer {
    let mut json: Value = serde_json::from_slice(TINY).unwrap();
    change(&mut json);
    tokenizer(json.to_string())
}

#[test]
fn words_are_those_of_the_whole() -> Result<()> {
    let tokenizer = tokenizer(TINY);
    let parts = Parts::parse(TINY).unwrap();
    assert!(parts.to_read(false).is_ok_and(|words| words.len() < TINY.len()));
    assert!(matches!(parts.to_read(true), Ok(Cow::Borrowed(whole)) if whole == TINY));
    let (words, whole) = (tokenizer.words()?, &tokenizer.whole()?.tokenizer);
    for id in 0..whole.get_vocab_size(true) as u32 {
        for ids in [&[id][..], &[7, id, id]] {
            assert_eq!(words.decode(ids, true).ok(), whole.decode(ids, true).ok());
        }
    }
    Ok(())
}

/// One line that names the file, every time, from whatever is asked.
fn assert_refused(tokenizer: &Tokenizer, fragment: &str) {
    for _ in 0..2 {
        let error = tokenizer.encode("The fox").unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json: ") && error.contains(fragment), "{error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
}

#[test]
fn what_is_no_tokenizer_is_told() {
    for (json, fragment) in [
        ("", "malformed JSON"),
        ("{", "malformed JSON"),
        ("[]", "malformed JSON"),
        ("{}", "no \"model\""),
        (r#"{"model": 3}"#, "malformed JSON"),
        (r#"{"model": {}}"#, ""),
        (r#"{"model": {"vocab": "a\nb"}}"#, "vocab"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git lfs pull"),
        ("\u{feff}{", "malformed JSON"),
    ] {
        let tokenizer = tokenizer(json);
        assert_refused(&tokenizer, fragment);
        assert!(tokenizer.decode(&[1]).is_err(), "{json}");
    }
    assert_refused(&tokenizer(*b"\xff\xfe{\0"), "UTF-16");
    let marked = [b"\xef\xbb\xbf", TINY].concat();
    assert_eq!(tokenizer(marked).encode("The fox").unwrap().0[0], 2);
}

#[test]
fn wherever_a_file_is_cut_it_is_told() {
    let model = TINY.windows(7).position(|bytes| bytes == b"\"model\"").unwrap();
    let cuts = (0..model).chain((model..TINY.len() - 2).step_by(97));
    for cut in cuts {
        assert_refused(&tokenizer(&TINY[..cut]), "malformed JSON");
    }
}

/// What panics or takes all memory in the crate, or would.
#[test]
fn odd_tokenizers_are_refused() {
    let change = |part: &str, value: Value| changed(|json| json[part] = value);
    let template = |single: Value, special: Value| {
        let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]);
        let name = "TemplateProcessing";
        json!({"type": name, "single": single, "pair": pair, "special_tokens": special})
    };
    let [a, bos] = [
        json!({"Sequence": {"id": "A", "type_id": 0}}),
        json!({"SpecialToken": {"id": "<bos>", "type_id": 0}}),
    ];
    let of_bos = |ids: Value| json!({"<bos>": {"id": "<bos>", "ids": ids, "tokens": ["<bos>"]}});
    let many = |one: Value| json!({"type": "Sequence", "pretokenizers": vec![one; 60]});
    let replace = |to: &str| json!({"type": "Replace", "pattern": {"String": "a"}, "content": to});
    for (part, value, fragment) in [
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}), ""),
        ("normalizer", replace(&"b".repeat(1 << 20)), "times as long"),
        ("normalizer", json!({"type": "Sequence", "normalizers": vec![replace("aa"); 50]}), "long"),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0}), ""),
        (
            "pre_tokenizer",
            many(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})),
            "times as long",
        ),
        ("post_processor", template(json!([bos, a]), json!({})), "post_processor"),
        ("post_processor", template(json!([bos]), of_bos(json!([2]))), "once"),
        ("post_processor", template(json!([a, a]), json!({})), "once"),
        ("post_processor", template(json!(vec![a; 999]), json!({})), "bytes"),
        ("decoder", json!({"type": "nonsense\n"}), ""),
        ("added_tokens", json!([{"id": -1, "content": "x"}]), "added_tokens"),
        ("model", json!({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}), ""),
        ("model", json!({"type": "BPE", "vocab": {"a".repeat(9999): 0}, "merges": []}), "9999"),
    ] {
        assert_refused(&change(part, value), fragment);
    }
}

#[test]
fn padding_and_truncation_are_told_and_not_applied() {
    let (ids, remarks) = tokenizer(TINY).encode("The quick brown fox").unwrap();
    assert!(remarks.is_empty() && tokenizer(TINY).remarks().unwrap().is_empty());
    let padding = |length: u64| {
        json!({"strategy": {"Fixed": length}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"})
    };
    let truncation = |stride: u64| json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": stride});
    for (part, value, said) in [
        ("padding", padding(64), "padding to 64 tokens"),
        ("padding", padding(1_000_000_000_000), "padding to 1000000000000 tokens"),
        ("truncation", truncation(0), "truncation at 3 tokens"),
        ("truncation", truncation(5), "truncation at 3 tokens"),
    ] {
        let tokenizer = changed(|json| json[part] = value);
        assert_eq!(tokenizer.encode("The quick brown fox").unwrap().0, ids, "{said}");
        let remarks = tokenizer.remarks().unwrap();
        assert!(remarks.len() == 1 && remarks[0].text.contains(said), "{remarks:?}");
    }
    let dropping = changed(|json| json["model"]["dropout"] = json!(0.5));
    for _ in 0..9 {
        assert_eq!(dropping.encode("The quick brown fox").unwrap().0, ids);
    }
    assert!(dropping.remarks().unwrap()[0].text.contains("dropout"));
}

/// A tokenizer on disk, with settings beside it.
fn with_settings(post_processor: bool, settings: &str) -> (tempfile::TempDir, Tokenizer) {
    let dir = tempfile::tempdir().unwrap();
    let mut json: Value = serde_json::from_slice(TINY).unwrap();
    if !post_processor {
        json["post_processor"] = Value::Null;
    }
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    if !settings.is_empty() {
        std::fs::write(dir.path().join("tokenizer_config.json"), settings).unwrap();
    }
    let vocab = Vocab { bos: 2, rows: 1024 };
    let tokenizer = Tokenizer { path, origin: Origin::File, vocab, ..tokenizer(TINY) };
    (dir, tokenizer)
}

#[test]
fn bos_is_as_the_settings_ask() {
    let gemma = r#"{"tokenizer_class": "GemmaTokenizerFast", "bos_token": {"content": "<bos>"}}"#;
    for (adds, settings, bos, warnings) in [
        (true, "", true, 0),
        (false, "", false, 0),
        (true, r#"{"add_bos_token": true, "bos_token": "<bos>"}"#, true, 0),
        (false, r#"{"add_bos_token": true}"#, true, 1),
        (true, r#"{"add_bos_token": false}"#, false, 1),
        (false, r#"{"add_bos_token": false}"#, false, 0),
        (false, gemma, true, 1),
        (true, gemma, true, 0),
        (false, r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#, false, 0),
        (true, r#"{"add_eos_token": true}"#, true, 1),
        (true, r#"{"bos_token": "<eos>"}"#, true, 1),
        (true, r#"{"add_prefix_space": true, "clean_up_tokenization_spaces": true}"#, true, 1),
        (true, r#"{"added_tokens_decoder": {"1024": {"content": "<more>"}}}"#, true, 1),
        (true, r#"{"added_tokens_decoder": {"2": {"content": "<bos>"}}}"#, true, 0),
        (true, r#"{"add_bos_token": "#, true, 1),
        (true, "\u{feff}{}", true, 0),
    ] {
        let (_dir, tokenizer) = with_settings(adds, settings);
        let remarks = tokenizer.remarks().unwrap();
        let said = format!("{settings} {remarks:?}");
        assert_eq!(
            remarks.iter().filter(|r| r.level == Level::Warning).count(),
            warnings,
            "{said}"
        );
        assert_eq!(tokenizer.adds_bos().unwrap(), bos, "{said}");
        let (ids, _) = tokenizer.encode("The fox").unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == 2).count(), usize::from(bos), "{said}");
        // A text that begins with it has it once, be it added or not.
        let (twice, remarks) = tokenizer.encode("<bos>The fox").unwrap();
        assert_eq!(twice[..2], [2, *ids.iter().find(|&&id| id != 2).unwrap()], "{said}");
        assert_eq!(remarks.len(), usize::from(bos), "{said}");
    }
}

#[test]
fn tokens_beyond_the_embedding_and_other_ids_are_told() {
    let token = |id: u32| {
        json!({"id": id, "content": "<more>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let add = |id| changed(|json| json["added_tokens"].as_array_mut().unwrap().push(token(id)));
    let beyond = add(1024);
    let remarks = beyond.remarks().unwrap();
    assert!(remarks[0].text.contains("1 token beyond the 1024 rows"), "{remarks:?}");
    assert!(beyond.encode("a<more>").unwrap().1.is_empty());
    let (ids, remarks) = add(5000).encode("a<more>").unwrap();
    assert_eq!(ids.last(), Some(&1024));
    assert!(remarks[0].text.contains("<more> the id 5000, but it is read as 1024"), "{remarks:?}");
}

#[test]
fn only_a_sentencepiece_model() {
    let (dir, tokenizer) = with_settings(true, "");
    std::fs::remove_file(&tokenizer.path).unwrap();
    let error = tokenizer.encode("a").unwrap_err().to_string();
    assert!(error.contains("pass token ids") && !error.contains("tokenizer.model"), "{error}");
    std::fs::write(dir.path().join("tokenizer.model"), "").unwrap();
    let error = tokenizer.encode("a").unwrap_err().to_string();
    assert!(error.contains("tokenizer.model") && error.contains("save_pretrained"), "{error}");
    std::fs::create_dir(&tokenizer.path).unwrap();
    assert!(matches!(tokenizer.encode("a"), Err(Error::NotAFile { .. })));
}

/// One like Gemma's: no words, spaces as ▁, merges across them, characters in bytes, added runs.
fn like_gemma(merges_as_text: bool, spaces_are_tokens: bool) -> Tokenizer {
    let mut vocab: Vec<String> = ["<pad>", "<eos>", "<bos>", "<unk>"].map(String::from).into();
    vocab.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    vocab.extend("▁abcde\nñ漢.".chars().map(String::from));
    let merges = [
        ("a", "b"),
        ("▁", "▁"),
        ("▁▁", "▁"),
        ("ab", "c"),
        ("▁", "ab"),
        ("▁ab", "c"),
        ("c", "▁"),
        ("\n", "\n"),
        ("d", "e"),
        ("e", "d"),
        ("▁abc", "▁"),
        ("漢", "漢"),
        (".", "\n"),
        ("ñ", "a"),
    ];
    vocab.extend(merges.map(|(left, right)| format!("{left}{right}")));
    let merges = merges.map(|(left, right)| match merges_as_text {
        true => json!(format!("{left} {right}")),
        false => json!([left, right]),
    });
    let mut added = vec![("<bos>", false), ("\n\n\n", false), ("b漢", true)];
    if spaces_are_tokens {
        added.push(("e d", true));
    }
    vocab.extend(added[1..].iter().map(|(token, _)| token.to_string()));
    let id = |token: &str| vocab.iter().position(|other| other == token).unwrap();
    let added: Vec<_> = added
        .into_iter()
        .map(|(token, normalized)| {
            json!({"id": id(token), "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": normalized, "special": token == "<bos>"})
        })
        .collect();
    let ids: serde_json::Map<_, _> =
        vocab.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let split = json!({"type": "Split", "pattern": {"String": " "}, "invert": false,
        "behavior": "MergedWithPrevious"});
    let json = json!({
        "version": "1.0", "added_tokens": added, "normalizer": replace, "pre_tokenizer": split,
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": ids, "merges": merges},
    });
    tokenizer(json.to_string())
}

fn all() -> [Tokenizer; 3] {
    [tokenizer(TINY), like_gemma(false, false), like_gemma(true, true)]
}

fn whole_ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let whole = &tokenizer.whole().unwrap().tokenizer;
    whole.encode(text, false).unwrap().get_ids().to_vec()
}

fn ids_of_pieces(tokenizer: &Tokenizer, text: &str, size: usize) -> (Vec<u32>, usize) {
    let Whole { tokenizer, cut, .. } = tokenizer.whole().unwrap();
    let pieces: Vec<_> = cut.pieces_of(text, size).collect();
    assert_eq!(pieces.concat(), text);
    let ids = |piece: &&str| tokenizer.encode_fast(*piece, false).unwrap().get_ids().to_vec();
    (pieces.iter().flat_map(ids).collect(), pieces.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_have_the_ids_of_the_whole(
        text in "([ a-e.\n\r▁ñ漢é's1]|  |\n\n\n|abc|<bos>|\u{301}|👨‍👩‍👧|ed|\u{a0}){0,60}",
        size in 0usize..40,
    ) {
        static ALL: LazyLock<[Tokenizer; 3]> = LazyLock::new(all);
        for tokenizer in &*ALL {
            let (ids, _) = ids_of_pieces(tokenizer, &text, size);
            prop_assert_eq!(ids, whole_ids(tokenizer, &text));
        }
    }
}

/// They are not whole by mistake.
#[test]
fn texts_are_cut_where_they_can_be() {
    let text = "abc de. ñc\nabc  de ".repeat(100);
    for tokenizer in all() {
        let (_, pieces) = ids_of_pieces(&tokenizer, &text, 1);
        assert!(pieces > 300, "{pieces}");
    }
    let spaces_around = changed(|json| json["added_tokens"][0]["lstrip"] = json!(true));
    let prefixed = changed(|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true));
    let lowercase = changed(|json| json["normalizer"] = json!({"type": "Lowercase"}));
    for tokenizer in [spaces_around, prefixed, lowercase] {
        assert_eq!(ids_of_pieces(&tokenizer, &text, 1).1, 1);
    }
}
