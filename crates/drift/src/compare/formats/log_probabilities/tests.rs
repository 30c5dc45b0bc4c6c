use super::*;
use crate::compare::dump::{Likeliest, Word};
use proptest::prelude::*;
use serde_json::{Value, json};

fn read_text(json: &str) -> Result<Dump, String> {
    parse(json.as_bytes()).map_err(|error| error.to_string())
}

fn read(json: &Value) -> Dump {
    read_text(&json.to_string()).unwrap()
}

fn refusal(json: &Value) -> String {
    read_text(&json.to_string()).unwrap_err()
}

fn id(id: u32) -> Word {
    Word::Id(id)
}

fn text(text: &str) -> Word {
    Word::Text(text.into())
}

fn at(position: usize, tokens: &[(Word, f64)]) -> Likeliest {
    Likeliest { position, tokens: tokens.to_vec() }
}

fn says(dump: &Dump, fragment: &str) -> bool {
    dump.remarks.iter().any(|remark| remark.text.contains(fragment))
}

/// vLLM's library, as others write it.
fn bare() -> Value {
    json!({
        "prompt_token_ids": [2, 818, 5],
        "prompt_logprobs": [
            null,
            {"818": {"logprob": -2.5, "rank": 7, "decoded_token": "The"}, "9": {"logprob": -0.5}},
            {"5": -1.0, "7": null, "8": -9999.0},
        ],
    })
}

#[test]
fn the_bare_object_is_read_as_it_is() {
    let dump = read(&bare());
    assert_eq!(dump.texts[0].tokens, Some(vec![2, 818, 5]));
    let minus = f64::NEG_INFINITY;
    assert_eq!(
        dump.texts[0].likeliest,
        [
            at(0, &[(id(9), -0.5), (id(818), -2.5)]),
            at(1, &[(id(5), -1.0), (id(7), minus), (id(8), minus)]),
        ]
    );
    assert!(says(&dump, "minus infinity: 2"));
    assert!(recognises(bare().to_string().as_bytes()));
}

#[test]
fn many_answers_in_one_file() {
    let lines = format!("{}\n{}\n", bare(), json!([bare(), bare()]));
    assert_eq!(read_text(&lines).unwrap().texts.len(), 3);
    let python = bare().to_string().replace(":null", ":-Infinity").replace("-9999.0", "-Infinity");
    let likeliest = |dump: Dump| dump.texts[0].likeliest.clone();
    assert_eq!(likeliest(read_text(&python).unwrap()), likeliest(read(&bare())));
}

#[test]
fn vllm_gives_the_prompt_and_what_follows() {
    let dump = read(&json!({
        "object": "text_completion", "model": "gemma", "usage": {"prompt_tokens": 3, "completion_tokens": 1},
        "choices": [{
            "prompt_token_ids": [2, 818, 5], "token_ids": [7],
            "prompt_logprobs": bare()["prompt_logprobs"],
            "logprobs": {
                "tokens": ["token_id:7"], "token_logprobs": [-0.25],
                "top_logprobs": [{"token_id:7": -0.25, "token_id:1": -3}], "text_offset": [0],
            },
        }],
    }));
    assert_eq!(dump.metadata["model"], "gemma");
    assert_eq!(dump.texts[0].likeliest[2], at(2, &[(id(7), -0.25), (id(1), -3.0)]));
    assert_eq!(dump.texts[0].tokens, Some(vec![2, 818, 5]));
}

/// An echo of three tokens and one more, with or without the first.
fn echo(with_bos: bool) -> Value {
    let (mut tokens, mut own) =
        (vec!["<bos>", "The", " end", "."], vec![json!(null), json!(-2), json!(-1), json!(-0.5)]);
    let mut top =
        vec![json!(null), json!({" A": -1.5}), json!({" end": -1}), json!({".": -0.5, "!": -2})];
    if !with_bos {
        tokens.remove(0);
        own.remove(0);
        top.remove(0);
        own[0] = json!(null);
        top[0] = json!(null);
    }
    json!({
        "choices": [{"logprobs": {"tokens": tokens, "token_logprobs": own, "top_logprobs": top}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    })
}

#[test]
fn echoes_begin_with_bos_or_behind_it() {
    let dump = read(&echo(true));
    let rest = [at(1, &[(text(" end"), -1.0)]), at(2, &[(text("."), -0.5), (text("!"), -2.0)])];
    assert_eq!(dump.texts[0].likeliest[0], at(0, &[(text(" A"), -1.5), (text("The"), -2.0)]));
    assert_eq!(dump.texts[0].likeliest[1..], rest);
    assert!(dump.texts[0].tokens.is_none() && says(&dump, "without the ids"));
    assert_eq!(read(&echo(false)).texts[0].likeliest, rest);

    let mut without = echo(true);
    without["usage"] = json!(null);
    let dump = read(&without);
    assert_eq!(dump.texts[0].likeliest[1..], rest[..]);
    assert!(says(&dump, "with BOS: 1"));
}

#[test]
fn llama_cpps_own_route() {
    let entry =
        |id: u32, logprob: f64| json!({"id": id, "token": "x", "bytes": [120], "logprob": logprob});
    let mut first = entry(7, -0.5);
    first["top_logprobs"] =
        json!([entry(7, -0.5), entry(8, -1.0), entry(9, -3.4028234663852886e38)]);
    let answer = json!({
        "index": 0, "content": "x", "tokens_evaluated": 4, "completion_probabilities": [first, first],
    });
    let dump = read(&answer);
    let expected = [at(3, &[(id(7), -0.5), (id(8), -1.0), (id(9), f64::NEG_INFINITY)])];
    assert_eq!(dump.texts[0].likeliest, expected);
    assert!(says(&dump, "whose ids are not given: 1"));
    // The same list as chats have it.
    let dump = read(&json!({
        "choices": [{"logprobs": {"content": answer["completion_probabilities"]}}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
    }));
    assert_eq!(dump.texts[0].likeliest, expected);

    for key in ["top_probs", "probs"] {
        let old =
            json!({"completion_probabilities": [{"content": "x", key: []}], "tokens_evaluated": 4});
        assert!(refusal(&old).contains("after sampling"));
    }
}

#[test]
fn refusals_say_why() {
    for (json, fragment) in [
        (json!({"error": {"message": "no such model"}}), "says: no such model"),
        (json!({"detail": "Not Found"}), "Not Found"),
        (json!({"choices": [{"text": "x", "logprobs": null}]}), "no log-probabilities"),
        (
            json!({"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [-1]}}]}),
            "how many tokens",
        ),
        (
            json!({"prompt_token_ids": [2], "prompt_logprobs": [null, null]}),
            "2 prompt_logprobs for 1",
        ),
        (json!({"prompt_logprobs": [null, {"a": -1}]}), "a token id"),
        (json!({"prompt_logprobs": [null, {"1": 3.5}]}), "no log-probability"),
        (json!({"prompt_logprobs": [null, {"1": {"rank": 1}}]}), "logprob"),
        (
            json!({"choices": [{"logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1]}}]}),
            "1 token_logprobs for 2",
        ),
        (json!([]), "no log-probabilities"),
        (json!(7), "an answer of a server"),
    ] {
        let refusal = refusal(&json);
        assert!(refusal.contains(fragment), "{json}: {refusal}");
    }
    assert!(read_text("data: {\"choices\": []}").unwrap_err().contains("stream"));
    assert!(read_text("{\"prompt_logprobs\": [null, {\"1\": NaN}]}").unwrap_err().contains("NaN"));
    assert!(read_text("{\"prompt_logprobs\": [null, ").is_err());
}

#[test]
fn texts_that_stand_twice_are_left_out() {
    let entry = |token: &str| json!({"token": token, "logprob": -1.0});
    let dump = read(&json!({
        "tokens_evaluated": 1,
        "completion_probabilities": [{"top_logprobs": [entry("a"), entry("b"), entry("a")]}],
    }));
    assert_eq!(dump.texts[0].likeliest, [at(0, &[(text("b"), -1.0)])]);
    assert!(says(&dump, "same text"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(-1.5)),
        Just(json!(3)),
        Just(json!("token_id:3")),
        Just(json!("a")),
    ];
    let keys = prop::sample::select(
        &[
            "choices",
            "logprobs",
            "tokens",
            "token_logprobs",
            "top_logprobs",
            "prompt_logprobs",
            "usage",
            "prompt_token_ids",
            "prompt_tokens",
            "completion_tokens",
            "completion_probabilities",
            "content",
            "id",
            "token",
            "logprob",
            "token_ids",
            "tokens_evaluated",
            "3",
        ][..],
    );
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys.clone().prop_map(String::from), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_answer_breaks_it(json in any_json()) {
        let _ = read_text(&json.to_string());
    }

    #[test]
    fn positions_are_within_the_text(
        prompt in 0usize..5, completion in 0usize..3, len in 0usize..8, own: bool,
    ) {
        let tokens: Vec<_> = (0..len).map(|n| format!("token_id:{n}")).collect();
        let json = json!({
            "choices": [{"logprobs": {
                "tokens": tokens,
                "token_logprobs": (0..len).map(|n| (n > 0 || own).then_some(-1.0)).collect::<Vec<_>>(),
            }}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
        });
        if let Ok(dump) = read_text(&json.to_string()) {
            for text in &dump.texts {
                let len = text.tokens.as_ref().map_or(prompt, Vec::len);
                prop_assert!(text.likeliest.iter().all(|all| all.position < len));
                prop_assert!(text.likeliest.is_sorted_by_key(|all| all.position));
            }
        }
    }
}
