//! Servers of models: what is asked of them, what is made of their answers, and what is said when they
//! have none.

use crate::fake_server::{Answer, Fake};
use gemma_mlp_drift::compare::server::Server;
use gemma_mlp_drift::compare::{Dump, Likeliest, Word};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// What these tests ask of it.
trait Ask {
    fn server(&self) -> Server;
    fn ask(&self, texts: &[&[u32]], top: usize) -> Result<Dump, String>;
}

impl Ask for Fake {
    fn server(&self) -> Server {
        let patience = Duration::from_secs(20);
        Server { url: self.url.clone(), model: None, key: None, patience }
    }

    fn ask(&self, texts: &[&[u32]], top: usize) -> Result<Dump, String> {
        ask(&self.server(), texts, top)
    }
}

/// Fails with a line about the input.
fn ask(server: &Server, texts: &[&[u32]], top: usize) -> Result<Dump, String> {
    let texts: Vec<Vec<u32>> = texts.iter().map(|ids| ids.to_vec()).collect();
    let total = texts.iter().map(Vec::len).sum();
    let mut last = (0, total);
    let dump = server.ask(&texts, top, &mut |done, of| last = (done, of));
    if dump.is_ok() {
        assert_eq!(last, (total, total));
    }
    dump.map_err(|error| {
        let message = error.to_string();
        assert!(error.is_input() && message.lines().count() == 1, "{message}");
        message
    })
}

fn models() -> Answer {
    (200, json!({"data": [{"id": "gemma"}]}).to_string())
}

fn not_found() -> Answer {
    (404, json!({"detail": "Not Found"}).to_string())
}

fn bad(message: &str) -> Answer {
    (400, json!({"error": {"message": message}}).to_string())
}

fn ids(prompt: &Value) -> Vec<u64> {
    prompt.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// What all these servers think of what follows `last`: itself, and the next one.
fn opinion(last: u64) -> [(u64, f64); 2] {
    [(last, -0.5), (last + 1, -1.5)]
}

/// What is to come of it.
fn expected(text: &[u32], word: impl Fn(u64) -> Word) -> Vec<Likeliest> {
    let all = text.iter().enumerate().map(|(position, id)| Likeliest {
        position,
        tokens: opinion((*id).into()).map(|(id, logprob)| (word(id), logprob)).to_vec(),
    });
    all.collect()
}

fn by_id(id: u64) -> Word {
    Word::Id(id as u32)
}

fn by_text(id: u64) -> Word {
    Word::Text(format!("<{id}>"))
}

fn says(dump: &Dump, fragment: &str) {
    let all: Vec<_> = dump.remarks.iter().map(|remark| &remark.text).collect();
    assert!(all.iter().any(|text| text.contains(fragment)), "'{fragment}' is not in {all:?}");
}

/// vLLM, which gives at most 20.
fn vllm(path: &str, body: &Value) -> Answer {
    if path != "/v1/completions" {
        return models();
    }
    if body["prompt_logprobs"].as_u64().is_some_and(|top| top > 20) {
        return bad("Requested prompt logprobs of 50, which is greater than max allowed: 20");
    }
    let prompt = ids(&body["prompt"]);
    let entry =
        |(id, logprob): (u64, f64)| (id.to_string(), json!({"logprob": logprob, "rank": 1}));
    let of = |last: &u64| Value::Object(opinion(*last).map(entry).into_iter().collect());
    let mut all: Vec<Value> = prompt.iter().map(of).collect();
    all.insert(0, Value::Null);
    all.pop();
    let [(next, own), (other, less)] = opinion(*prompt.last().unwrap());
    let name = |id| format!("token_id:{id}");
    let choice = json!({
        "text": "x", "prompt_logprobs": all, "prompt_token_ids": prompt, "token_ids": [next],
        "logprobs": {
            "tokens": [name(next)], "token_logprobs": [own],
            "top_logprobs": [{name(next): own, name(other): less}],
        },
    });
    let usage = json!({"prompt_tokens": prompt.len(), "completion_tokens": 1});
    (200, json!({"model": "gemma", "choices": [choice], "usage": usage}).to_string())
}

#[test]
fn vllm_is_asked_once_a_text() {
    let fake = Fake::new(vllm);
    let texts: [&[u32]; 2] = [&[2, 7, 9], &[2]];
    let dump = fake.ask(&texts, 2).unwrap();
    for (text, ids) in dump.texts.iter().zip(texts) {
        assert_eq!(text.tokens.as_deref(), Some(ids));
        assert_eq!(text.likeliest, expected(ids, by_id));
    }
    assert_eq!((&*dump.metadata["framework"], &*dump.metadata["model"]), ("vllm", "gemma"));
    says(&dump, "2 likeliest by prompt_logprobs");
    assert!(dump.remarks.iter().all(|remark| !remark.is_warning()), "{:?}", dump.remarks);
    let requests = fake.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1].body["model"], "gemma");
    assert!(requests.iter().all(|request| request.key.is_none()));

    let dump = fake.ask(&texts, 50).unwrap();
    says(&dump, "gives 20 likeliest, not 50");
    says(&dump, "fewer than 20 tokens");
}

#[test]
fn a_key_and_a_model_are_sent_as_given() {
    let fake = Fake::new(vllm);
    let mut server = fake.server();
    server.url += "/v1/";
    (server.model, server.key) = (Some("other".into()), Some(" sk-x\n".into()));
    let dump = ask(&server, &[&[2, 7]], 2).unwrap();
    assert_eq!(dump.metadata["model"], "other");
    let [request] = &fake.requests()[..] else { panic!() };
    assert_eq!(request.line, "POST /v1/completions HTTP/1.1");
    assert_eq!(
        (request.key.as_deref(), &request.body["model"]),
        (Some("Bearer sk-x"), &json!("other"))
    );
    server.key = Some("s\u{1}".into());
    assert!(ask(&server, &[&[2]], 2).unwrap_err().contains("key"));
}

/// OpenAI's way, with ids or without: tokens by their texts, the first without a figure.
fn echoing(path: &str, body: &Value, bos: usize) -> Answer {
    if path != "/v1/completions" {
        return not_found();
    }
    if body.get("prompt_logprobs").is_some() {
        return bad("Unrecognized request argument supplied: prompt_logprobs");
    }
    if body["logprobs"].as_u64() > Some(5) {
        return bad("logprobs must be at most 5");
    }
    let mut prompt = ids(&body["prompt"]);
    prompt.splice(0..0, vec![2; bos]);
    let name = |id: u64| format!("<{id}>");
    let mut tokens: Vec<_> = prompt.iter().map(|id| name(*id)).collect();
    let of = |last: &u64| {
        json!(
            opinion(*last)
                .map(|(id, p)| (name(id), p))
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>()
        )
    };
    let mut top: Vec<_> = prompt.iter().map(of).collect();
    top.insert(0, Value::Null);
    tokens.push(name(*prompt.last().unwrap()));
    let own = vec![Value::Null; tokens.len()];
    let choice =
        json!({"logprobs": {"tokens": tokens, "token_logprobs": own, "top_logprobs": top}});
    let usage = json!({"prompt_tokens": prompt.len(), "completion_tokens": 1});
    (200, json!({"choices": [choice], "usage": usage}).to_string())
}

#[test]
fn an_echo_is_taken_where_there_are_no_prompt_logprobs() {
    let fake = Fake::new(|path, body| echoing(path, body, 0));
    let dump = fake.ask(&[&[2, 7, 9]], 8).unwrap();
    assert_eq!(dump.texts[0].likeliest, expected(&[2, 7, 9], by_text));
    assert_eq!(dump.texts[0].tokens, Some(vec![2, 7, 9]));
    says(&dump, "lists no models");
    says(&dump, "5 likeliest by echo and logprobs");
    says(&dump, "gives 5 likeliest, not 8");
    says(&dump, "as many as it was sent, and not which");
    says(&dump, "names 6 tokens by their texts");
}

#[test]
fn bos_in_front_of_bos_is_noticed() {
    let fake = Fake::new(|path, body| echoing(path, body, 1));
    let refusal = fake.ask(&[&[2, 7]], 2).unwrap_err();
    assert!(refusal.contains("sent 2 token ids and has read 3: it seems to put BOS"), "{refusal}");
    // Whoever says which ids it has read is believed.
    let fake = Fake::new(|path, body| {
        let mut body = body.clone();
        if path == "/v1/completions" {
            body["prompt"].as_array_mut().unwrap().insert(0, json!(2));
        }
        vllm(path, &body)
    });
    let dump = fake.ask(&[&[2, 7]], 2).unwrap();
    assert_eq!(dump.texts[0].tokens, Some(vec![2, 2, 7]));
    assert_eq!(dump.texts[0].likeliest, expected(&[2, 2, 7], by_id));
    says(&dump, "other tokens than it was sent in 1 of 1");
}

fn llama_cpp_entry(last: u64) -> Value {
    let entry = |(id, logprob): (u64, f64)| json!({"id": id, "token": "x", "bytes": [1], "logprob": logprob});
    let mut first = entry(opinion(last)[0]);
    first["top_logprobs"] = json!(opinion(last).map(entry));
    first
}

/// llama.cpp, whose `/v1/completions` knows neither `prompt_logprobs` nor `echo`, and does not say so.
fn llama_cpp(path: &str, body: &Value) -> Answer {
    let entry = || llama_cpp_entry(*ids(&body["prompt"]).last().unwrap());
    let len = body["prompt"].as_array().map(Vec::len);
    let answer = match path {
        "/completion" => json!({
            "content": "x", "completion_probabilities": [entry()], "tokens_evaluated": len,
            "prompt": "<bos>",
        }),
        "/v1/completions" => json!({
            "choices": [{"text": "x", "logprobs": {"content": [entry()]}}],
            "usage": {"prompt_tokens": len, "completion_tokens": 1},
        }),
        _ => return models(),
    };
    (200, answer.to_string())
}

#[test]
fn llama_cpp_is_asked_position_by_position() {
    let fake = Fake::new(llama_cpp);
    let dump = fake.ask(&[&[2, 7, 9], &[2, 3]], 2).unwrap();
    assert_eq!(dump.texts[0].likeliest, expected(&[2, 7, 9], by_id));
    assert_eq!(dump.texts[1].likeliest, expected(&[2, 3], by_id));
    assert_eq!((&*dump.metadata["framework"], &*dump.metadata["phase"]), ("llama.cpp", "decode"));
    says(&dump, "n_probs of /completion");
    let asked: Vec<_> = fake
        .requests()
        .iter()
        .filter(|r| r.line.contains(" /completion "))
        .map(|r| ids(&r.body["prompt"]).len())
        .collect();
    assert_eq!(asked, [1, 2, 3, 1, 2]);
}

#[test]
fn prefixes_are_the_last_resort() {
    let fake = Fake::new(|path, body| match path {
        "/completion" => not_found(),
        _ => llama_cpp(path, body),
    });
    let dump = fake.ask(&[&[2, 7, 9]], 2).unwrap();
    assert_eq!(dump.texts[0].likeliest, expected(&[2, 7, 9], by_id));
    says(&dump, "logprobs of /v1/completions, a request for each position");
    assert!(!dump.metadata.contains_key("framework"));
}

#[test]
fn servers_without_any_are_quoted() {
    let text_alone = r#"{"error": {"message": "33 validation errors:\n  prompt: Input should be a valid string"}}"#;
    let html = "<html>\n<h1>It works!</h1></html>";
    let nan = r#"{"choices": [{"logprobs": {"tokens": ["a"], "token_logprobs": [NaN]}}]}"#;
    let positive = r#"{"choices": [{"prompt_logprobs": [null, {"1": 7.5}]}]}"#;
    let lengths = r#"{"choices": [{"prompt_logprobs": [null], "prompt_token_ids": [2, 7]}]}"#;
    let two = r#"{"choices": [{"logprobs": null}, {"logprobs": null}]}"#;
    for (status, body, fragments) in [
        (500, text_alone, &["Input should be a valid string", "gives no log-probabilities"][..]),
        (404, html, &["404, and sends a page of HTML", "/completion"]),
        (200, html, &["gives no log-probabilities", "line 1"]),
        (200, nan, &["NaN is no log-probability"]),
        (200, positive, &["7.5 is no log-probability"]),
        (200, lengths, &["1 prompt_logprobs for 2"]),
        (200, two, &["not about one text"]),
        (200, "", &["not one object"]),
        (200, "[]", &["not one object"]),
        (200, "{} {}", &["not one object"]),
        (200, "\u{0}\u{1b}[31m", &["gives no log-probabilities"]),
        (401, r#"{"error": {"message": "Invalid API key"}}"#, &["answers 401", "Invalid API key"]),
        (503, r#"{"error": {"message": "Loading model"}}"#, &["answers 503", "Loading model"]),
        (429, "", &["answers 429", "says nothing"]),
    ] {
        let fake = Fake::new(move |_, _| (status, body.into()));
        let refusal = fake.ask(&[&[2, 7]], 2).unwrap_err();
        for fragment in fragments.iter().chain(&[fake.url.as_str()]) {
            assert!(refusal.contains(fragment), "{status} {body}: {refusal}");
        }
    }
}

#[test]
fn redirects_are_shown_and_not_followed() {
    let elsewhere = Fake::new(vllm);
    let to = elsewhere.url.clone();
    let fake = Fake::raw(move |stream, path, _| {
        let answer = format!("HTTP/1.1 307 X\r\nLocation: {to}{path}\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    });
    let mut server = fake.server();
    server.key = Some("sk-x".into());
    let refusal = ask(&server, &[&[2, 7]], 2).unwrap_err();
    assert!(refusal.contains(&elsewhere.url), "{refusal}");
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn answers_end_sooner_or_later() {
    // Endless, in several ways: white space, one string, one list.
    for piece in [" ", "\"", "[null,"] {
        let fake = Fake::raw(move |stream, _, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n");
            let (first, rest) = if piece == "\"" { ("\"", "x") } else { (piece, piece) };
            let _ = stream.write_all(first.as_bytes());
            while stream.write_all(rest.repeat(4096).as_bytes()).is_ok() {}
        });
        let refusal = fake.ask(&[&[2, 7]], 2).unwrap_err();
        assert!(refusal.contains(&fake.url), "{refusal}");
    }
    // Cut off, and silent.
    for (head, silent) in
        [("HTTP/1.1 200 X\r\nContent-Length: 90\r\n\r\n{", false), ("", false), ("", true)]
    {
        let fake = Fake::raw(move |stream, _, _| {
            let _ = stream.write_all(head.as_bytes());
            if silent {
                let _ = stream.read_to_end(&mut vec![]);
            }
        });
        let mut server = fake.server();
        server.patience = Duration::from_millis(300);
        let refusal = ask(&server, &[&[2, 7]], 2).unwrap_err();
        assert!(refusal.contains("no answer"), "{refusal}");
    }
}

#[test]
fn what_cannot_be_asked_is_not() {
    let fake = Fake::new(vllm);
    assert!(fake.ask(&[], 2).unwrap_err().contains("no token ids"));
    assert!(fake.ask(&[&[]], 2).unwrap_err().contains("no token ids"));
    assert!(fake.ask(&[&[2], &[]], 2).unwrap_err().contains("text 1"));
    assert!(fake.requests().is_empty());
    for url in ["", "gemma", "ftp://x", "http://", "http://h/?a=b"] {
        let mut server = fake.server();
        server.url = url.into();
        assert!(
            ask(&server, &[&[2]], 2).unwrap_err().contains("not the address of a server"),
            "{url}"
        );
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = fake.server();
    server.url = format!("http://user:secret@{nobody}");
    let refusal = ask(&server, &[&[2]], 2).unwrap_err();
    assert!(refusal.contains("no answer") && !refusal.contains("secret"), "{refusal}");
}
