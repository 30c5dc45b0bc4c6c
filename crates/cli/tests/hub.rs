//! Checkpoints from a hub: what is asked for, what is kept, and what is said when it fails.

use crate::fake_hub::{COMMIT, FakeHub, ID, Mirror, OLD_ID, Proxy, Request, State, checksum};
use gemma_mlp::checkpoint::Hub;
use gemma_mlp::{Checkpoint, Error, HubError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The checkpoint that is in the repository, beside files that are not ours.
fn tiny() -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gemma3");
    let read = |name: &str| (name.to_string(), std::fs::read(dir.join(name)).unwrap());
    let mut files: BTreeMap<_, _> = ["config.json", "tokenizer.json", WEIGHTS].map(read).into();
    for name in ["README.md", "pytorch_model.bin", "gemma.gguf", "consolidated.safetensors"] {
        files.insert(name.into(), b"not asked for".into());
    }
    files
}

/// A hub and an empty cache.
struct Case {
    hub: FakeHub,
    cache: TempDir,
}

impl Case {
    fn new() -> Self {
        Self { hub: FakeHub::new(tiny()), cache: tempfile::tempdir().unwrap() }
    }

    fn settings(&self) -> Hub {
        Hub {
            endpoint: Some(self.hub.endpoint.clone()),
            token: Some("hf_friend".into()),
            cache: Some(self.cache.path().into()),
            offline: false,
            retries: 0,
            retry_delay: Duration::from_millis(2),
        }
    }

    fn fetch(&self) -> Result<Checkpoint, Error> {
        Checkpoint::fetch(ID, None, &self.settings(), |_, _| {})
    }

    /// Fails with a line that has all the fragments.
    fn refused(&self, fragments: &[&str]) -> HubError {
        assert_refused(self.fetch(), fragments)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.cache.path().join("models--google--gemma-tiny").join(below)
    }

    /// Weights that are all here, or taken for it.
    fn has_weights(&self) -> bool {
        self.path(&format!("snapshots/{COMMIT}/{WEIGHTS}")).exists() || self.blob().exists()
    }

    fn blob(&self) -> PathBuf {
        self.path("blobs").join(checksum(WEIGHTS, &self.weights()))
    }

    fn part(&self) -> PathBuf {
        PathBuf::from(format!("{}.part", self.blob().display()))
    }

    fn weights(&self) -> Vec<u8> {
        self.hub.state().files.get(WEIGHTS).cloned().unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        for name in ["HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        for name in ["HUGGINGFACE_HUB_CACHE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(args).env("HF_ENDPOINT", &self.hub.endpoint).env("HF_HOME", self.cache.path());
        command
    }
}

fn assert_refused(result: Result<Checkpoint, Error>, fragments: &[&str]) -> HubError {
    let error = result.err().expect("refused");
    let message = error.to_string();
    assert!(error.is_input() && message.lines().count() == 1, "{message}");
    for fragment in [ID].iter().chain(fragments) {
        assert!(message.contains(fragment), "'{fragment}' is not in: {message}");
    }
    match error {
        Error::Hub { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

fn assert_exit_2(output: Output, fragments: &[&str]) {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for fragment in fragments {
        assert!(stderr.contains(fragment), "'{fragment}' is not in: {stderr}");
    }
}

/// How large the weights are.
fn size() -> u64 {
    std::fs::metadata("weights/tiny-gemma3/model.safetensors").unwrap().len()
}

#[test]
fn fetches_what_is_needed_once() {
    let case = Case::new();
    let mut seen = vec![];
    let settings = case.settings();
    let checkpoint = Checkpoint::fetch(ID, None, &settings, |done, total| seen.push((done, total)));
    let checkpoint = checkpoint.unwrap();
    assert_eq!(checkpoint.source().to_string(), format!("{ID} (revision {COMMIT})"));
    assert_eq!(checkpoint.blocks().len(), 4);
    assert_eq!(
        checkpoint.encode("two words").unwrap(),
        Checkpoint::embedded().unwrap().encode("two words").unwrap()
    );
    let total = (tiny()[WEIGHTS].len() + tiny()["tokenizer.json"].len()) as u64;
    assert!(seen.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{seen:?}");
    assert_eq!(seen.last(), Some(&(total, total)));

    let requests = case.hub.requests();
    for request in &requests {
        let token = (!request.cdn).then_some("Bearer hf_friend");
        assert_eq!(request.header("authorization"), token, "{request:?}");
        assert!(request.header("user-agent").unwrap().starts_with("gemma-mlp/"), "{request:?}");
    }
    assert!(requests.iter().any(|r| r.cdn && r.method == "GET"));
    case.hub.state().log = requests;
    assert_eq!(case.hub.files_read(), ["config.json", WEIGHTS, "tokenizer.json"]);

    // Laid out as the other tools expect it.
    let link = case.path(&format!("snapshots/{COMMIT}/{WEIGHTS}"));
    assert_eq!(link.canonicalize().unwrap(), case.blob().canonicalize().unwrap());
    assert_eq!(std::fs::read_to_string(case.path("refs/main")).unwrap(), COMMIT);
    assert!(!case.part().exists());

    // Again: the hub is asked where `main` is, and nothing is read.
    case.fetch().unwrap();
    assert!(!case.hub.requests().is_empty());
    case.fetch().unwrap();
    assert!(case.hub.files_read().is_empty());
    // A commit never changes, and offline nothing may be asked.
    Checkpoint::fetch(ID, Some(COMMIT), &settings, |_, _| {}).unwrap();
    Checkpoint::fetch(ID, None, &Hub { offline: true, ..settings }, |_, _| {}).unwrap();
    assert!(case.hub.requests().is_empty());
    // Another name for the same commit shares the files.
    Checkpoint::fetch(ID, Some("refs/pr/1"), &case.settings(), |_, _| {}).unwrap();
    assert!(case.hub.files_read().is_empty());
    assert_eq!(std::fs::read_to_string(case.path("refs/refs/pr/1")).unwrap(), COMMIT);
}

/// Two shards, no tokenizer; `change` spoils the index.
fn sharded(change: impl FnOnce(&mut Value)) -> Case {
    let case = Case::new();
    let mut state = case.hub.state();
    state.files.remove("tokenizer.json");
    let weights = state.files.remove(WEIGHTS).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let mut map = serde_json::Map::new();
    for (part, shard) in ["model-1.safetensors", "model-2.safetensors"].into_iter().enumerate() {
        let in_part = |name: &str| name.contains(".mlp.") == (part == 1);
        let tensors: Vec<_> =
            tensors.tensors().into_iter().filter(|(name, _)| in_part(name)).collect();
        map.extend(tensors.iter().map(|(name, _)| (name.clone(), shard.into())));
        state.files.insert(shard.into(), safetensors::serialize(tensors, None).unwrap());
    }
    let mut index = json!({"metadata": {}, "weight_map": map});
    change(&mut index);
    state.files.insert(INDEX.into(), index.to_string().into());
    drop(state);
    case
}

#[test]
fn shards_without_a_tokenizer() {
    let case = sharded(|_| {});
    let checkpoint = case.fetch().unwrap();
    assert_eq!(checkpoint.blocks().len(), 4);
    assert_eq!(
        case.hub.files_read(),
        ["config.json", "model-1.safetensors", "model-2.safetensors", INDEX]
    );
    // Ids can be passed; only a text needs the tokenizer.
    let error = checkpoint.encode("text").unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("token ids"), "{error}");
    let offline = Hub { offline: true, ..case.settings() };
    Checkpoint::fetch(ID, None, &offline, |_, _| {}).unwrap();
    std::fs::remove_file(case.path(&format!("snapshots/{COMMIT}/model-2.safetensors"))).unwrap();
    let result = Checkpoint::fetch(ID, None, &offline, |_, _| {});
    assert_refused(result, &["model-2.safetensors is not in the cache", "HF_HUB_OFFLINE"]);
}

#[test]
fn an_index_leads_nowhere_else() {
    for shard in ["../../../../evil.safetensors", "/etc/passwd", "a/b.safetensors", ".."] {
        let case = sharded(|index| index["weight_map"]["lm_head.weight"] = shard.into());
        let error = case.fetch().err().unwrap();
        assert!(
            matches!(&error, Error::Json { .. }) && error.to_string().contains(shard),
            "{error}"
        );
        assert_eq!(case.hub.files_read(), ["config.json", INDEX]);
    }
    let case = sharded(|index| index["weight_map"]["lm_head.weight"] = "lost.safetensors".into());
    case.refused(&["no lost.safetensors in the repository"]);
}

#[test]
fn what_is_no_checkpoint_is_refused_before_its_weights() {
    let without = |name: &str| {
        let case = Case::new();
        case.hub.state().files.remove(name);
        case.refused(&[&format!("no {name} in the repository"), "must have config.json"]);
        assert!(!case.hub.files_read().contains(&WEIGHTS.to_string()));
    };
    without("config.json");
    without(WEIGHTS);
    let case = Case::new();
    case.hub.state().files.insert("config.json".into(), br#"{"model_type": "llama"}"#.into());
    assert!(matches!(case.fetch(), Err(Error::UnsupportedModel { .. })));
    assert_eq!(case.hub.files_read(), ["config.json"]);
}

#[test]
fn refusals_say_what_to_do() {
    let refused = |status, code, body, fragments: &[&str]| {
        let case = Case::new();
        case.hub.state().refuse = Some((status, code, body));
        let reason = case.refused(fragments);
        assert!(!case.has_weights() && !case.path("blobs").exists());
        reason
    };
    refused(404, "RepoNotFound", "", &["spelling", "no directory here", "HF_TOKEN"]);
    refused(404, "", "<html>", &["no repository on"]);
    refused(401, "", r#"{"error": "who?"}"#, &["(who?)", "HF_TOKEN", "/settings/tokens"]);
    refused(403, "", r#"{"error": "enable\u001b[31m it\nnow"}"#, &["(enable[31m it)", "token"]);
    refused(429, "", "", &["too many requests", "wait"]);
    refused(500, "", "", &["answers 500", "later"]);
    refused(451, "", r#"{"error": "not here"}"#, &["answers 451 (not here)"]);
    refused(200, "", "<html>log in to the wireless</html>", &["as no hub does", "HF_ENDPOINT"]);

    let case = Case::new();
    case.hub.state().gate = Some("hf_friend");
    case.fetch().expect("the right token");
    let mut settings = case.settings();
    settings.cache = Some(case.cache.path().join("other"));
    settings.token = Some("hf_stranger".into());
    let result = Checkpoint::fetch(ID, None, &settings, |_, _| {});
    assert_refused(result, &["accept its licence", &format!("/{ID}"), "your token belongs to"]);
    settings.token = Some("hf_unknown".into());
    let result = Checkpoint::fetch(ID, None, &settings, |_, _| {});
    assert_refused(result, &["(Invalid credentials in Authorization header)", "outdated"]);

    let case = Case::new();
    let result = Checkpoint::fetch(ID, Some("v9"), &case.settings(), |_, _| {});
    assert_refused(result, &["no revision 'v9'"]);
    let result = Checkpoint::fetch(ID, Some("../../evil"), &case.settings(), |_, _| {});
    assert_refused(result, &["'../../evil' is not a revision"]);
    let result = Checkpoint::fetch(
        ID,
        None,
        &Hub { endpoint: Some("".into()), ..case.settings() },
        |_, _| {},
    );
    assert_refused(result, &["HF_ENDPOINT"]);
}

#[test]
fn without_a_network() {
    let case = Case::new();
    // A port that was just free.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Hub { endpoint: Some(format!("http://{closed}")), ..case.settings() };
    let fetch = |settings: &Hub| Checkpoint::fetch(ID, None, settings, |_, _| {});
    let offline = Hub { offline: true, ..settings.clone() };
    assert_refused(fetch(&settings), &["cannot reach", &closed.to_string(), "HF_HUB_OFFLINE"]);
    assert_refused(fetch(&offline), &["revision main is not in the cache", "HF_HUB_OFFLINE"]);
    case.fetch().unwrap();
    let remark = |fetched: Checkpoint| fetched.remarks()[0].to_string();
    let cached = remark(fetch(&settings).expect("what is cached will do"));
    assert!(cached.contains(COMMIT) && cached.contains("cannot be reached"), "{cached}");
    case.hub.state().refuse = Some((429, "", ""));
    assert!(remark(case.fetch().unwrap()).contains("too many requests"));
    std::fs::remove_file(case.blob()).unwrap();
    assert_refused(fetch(&settings), &["cannot reach"]);
    assert_refused(fetch(&offline), &["model.safetensors is not in the cache"]);
}

#[test]
fn an_interrupted_file_goes_on_where_it_broke_off() {
    let case = Case::new();
    case.hub.state().cut = Some(700_000);
    let reason =
        case.refused(&[&format!("700000 of {} bytes of model.safetensors", size()), "run again"]);
    assert!(matches!(reason, HubError::Interrupted { done: 700_000, .. }));
    assert!(!case.has_weights() && !case.path("refs/main").exists());
    assert_eq!(case.part().metadata().unwrap().len(), 700_000);
    case.hub.requests();

    case.hub.state().cut = None;
    let mut seen = vec![];
    Checkpoint::fetch(ID, None, &case.settings(), |done, _| seen.push(done)).unwrap();
    let tokenizer = tiny()["tokenizer.json"].len() as u64;
    assert_eq!(seen[0], 700_000 + tokenizer, "what is here does not count as fetched");
    assert!(seen.is_sorted() && seen.last() == Some(&(size() + tokenizer)));
    let ranges: Vec<_> =
        case.hub.requests().iter().filter_map(|r| r.header("range").map(String::from)).collect();
    assert!(
        !ranges.is_empty()
            && ranges.iter().all(|range| *range == format!("bytes=700000-{}", size() - 1))
    );
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
    assert!(!case.part().exists());
}

#[test]
fn interruptions_within_a_run_are_mended() {
    let case = Case::new();
    case.hub.state().cut = Some(300_000);
    // Only attempts in a row that bring nothing are counted.
    let settings = Hub { retries: 1, ..case.settings() };
    Checkpoint::fetch(ID, None, &settings, |_, _| {}).unwrap();
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
}

#[test]
fn two_at_once_fetch_once() {
    let case = Case::new();
    std::thread::scope(|scope| {
        let both = [scope.spawn(|| case.fetch()), scope.spawn(|| case.fetch())];
        for fetched in both {
            fetched.join().unwrap().unwrap();
        }
    });
    let reads = case.hub.requests().iter().filter(|r| r.cdn && r.method == "GET").count();
    assert_eq!(reads, 1);
    for blob in std::fs::read_dir(case.path("blobs")).unwrap() {
        let blob = blob.unwrap().path();
        assert!(blob.extension().is_none(), "{} stays behind", blob.display());
    }
}

/// Blocking inside a runtime would panic.
#[test]
fn may_be_called_from_asynchronous_code() {
    let case = Case::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { case.fetch().unwrap() });
}

/// Without a length, the end of the connection looks like the end of the file.
#[test]
fn a_short_file_is_never_whole() {
    let case = Case::new();
    case.hub.state().no_length = true;
    case.hub.state().cut = Some(1_000_000);
    case.refused(&[&format!("1000000 of {} bytes", size())]);
    assert!(!case.has_weights());
    // No length, no telling whether the range was honoured: from the start, and cut again.
    case.refused(&[&format!("1000000 of {} bytes", size())]);
    case.hub.state().cut = None;
    case.fetch().unwrap();
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
}

#[test]
fn servers_that_ignore_ranges_start_anew() {
    let case = Case::new();
    case.hub.state().cut = Some(1_000_000);
    case.refused(&["1000000 of"]);
    case.hub.state().cut = None;
    case.hub.state().ignore_range = true;
    case.fetch().unwrap();
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
}

#[test]
fn damaged_bytes_are_removed() {
    let case = Case::new();
    case.hub.state().damage = true;
    case.refused(&["model.safetensors arrived damaged", "SHA-256"]);
    assert!(!case.has_weights() && !case.part().exists());
    // So are those of an earlier run, and what another tool has left half done.
    std::fs::write(case.part(), vec![7; size() as usize]).unwrap();
    case.hub.state().damage = false;
    case.refused(&["arrived damaged"]);
    std::fs::write(case.part(), vec![7; 3_000_000]).unwrap();
    std::fs::write(case.blob(), "Internal Server Error").unwrap();
    case.fetch().unwrap();
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
}

#[test]
fn without_checksums_sizes_are_checked() {
    let case = Case::new();
    case.hub.state().no_sha256 = true;
    case.hub.state().no_length = true;
    case.hub.state().cut = Some(size() as usize - 1);
    case.refused(&[&format!("{} of {} bytes", size() - 1, size())]);
    case.hub.state().cut = None;
    case.fetch().unwrap();
}

#[test]
fn piece_by_piece() {
    let case = Case::new();
    case.hub.state().chunked = true;
    case.hub.state().cut = Some(1_000_000);
    case.refused(&[&format!("1000000 of {} bytes", size())]);
    case.hub.state().cut = None;
    case.fetch().unwrap();
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
}

/// Sizes and ranges are of the bytes themselves.
#[test]
fn compressed_bytes_are_not_asked_for_and_understood() {
    let case = Case::new();
    case.hub.state().cut = Some(1_000_000);
    case.refused(&["1000000 of"]);
    case.hub.state().cut = None;
    case.hub.state().gzip = true;
    case.fetch().unwrap();
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
    let plain = |r: &Request| r.header("accept-encoding") == Some("identity");
    assert!(case.hub.requests().iter().all(plain));
}

#[test]
fn a_busy_hub_is_asked_again() {
    let case = Case::new();
    let settings = Hub { retries: 2, ..case.settings() };
    case.hub.state().busy = 2;
    Checkpoint::fetch(ID, None, &settings, |_, _| {}).unwrap();
    case.hub.state().hang_up = 2;
    Checkpoint::fetch(ID, Some("refs/pr/1"), &settings, |_, _| {}).unwrap();
    case.hub.requests();
    case.hub.state().busy = 3;
    let result = Checkpoint::fetch(ID, Some("v9"), &settings, |_, _| {});
    assert_refused(result, &["answers 503"]);
    assert_eq!(case.hub.requests().len(), 3);
    // A refusal is final.
    assert_refused(Checkpoint::fetch(ID, Some("v9"), &settings, |_, _| {}), &["no revision"]);
    assert_eq!(case.hub.requests().len(), 1);
    case.hub.state().refuse = Some((429, "", ""));
    assert_refused(Checkpoint::fetch(ID, Some("v9"), &settings, |_, _| {}), &["wait 7 s"]);
    assert_eq!(case.hub.requests().len(), 3);
}

#[test]
fn a_renamed_repository_is_found() {
    let case = Case::new();
    Checkpoint::fetch(OLD_ID, None, &case.settings(), |_, _| {}).unwrap();
    let asked = case.hub.requests();
    let asked: Vec<_> = asked.iter().filter(|r| !r.cdn && r.path.contains(ID)).collect();
    assert!(asked.iter().any(|r| r.method == "POST") && asked.iter().any(|r| r.method == "GET"));
    assert!(asked.iter().all(|r| r.header("authorization") == Some("Bearer hf_friend")));
}

#[test]
fn nobody_but_the_hub_sees_the_token() {
    let case = Case::new();
    case.hub.state().cdn_refuse = Some(403);
    // By another port, and by another name for the same machine.
    let cdn = case.hub.cdn.clone();
    for elsewhere in [cdn.clone(), cdn.replace("127.0.0.1", "localhost")] {
        case.hub.state().redirect = Some(elsewhere.clone());
        let reason = case.refused(&["answers 403"]);
        assert!(matches!(reason, HubError::Server { endpoint, .. } if endpoint == elsewhere));
        let requests = case.hub.requests();
        assert_eq!(requests[0].header("authorization"), Some("Bearer hf_friend"));
        assert!(requests[1].cdn && requests[1].header("authorization").is_none());
    }
    case.hub.state().redirect = Some(String::new());
    case.refused(&["too many redirects"]);
    case.hub.state().redirect = Some("ftp://elsewhere".into());
    case.refused(&["redirect failed"]);
}

#[test]
fn tokens_as_they_are_pasted() {
    let case = Case::new();
    let fetch = |token: &str| {
        let settings = Hub { token: Some(token.into()), ..case.settings() };
        Checkpoint::fetch(ID, None, &settings, |_, _| {})
    };
    fetch(" hf_friend\r\n").unwrap();
    let requests = case.hub.requests();
    assert!(
        requests.iter().all(|r| r.cdn || r.header("authorization") == Some("Bearer hf_friend"))
    );
    assert_refused(fetch("hf_\nfriend"), &["characters that no token has", "HF_TOKEN"]);
    assert!(case.hub.requests().is_empty());
    fetch("\n").unwrap();
    assert!(case.hub.requests().iter().all(|r| r.header("authorization").is_none()));
}

/// Some mirrors want a name and password, which stand in the endpoint.
#[test]
fn an_endpoint_may_hold_a_password() {
    let case = Case::new();
    let endpoint = case.hub.endpoint.replace("http://", "http://me:secret@");
    let settings = Hub { endpoint: Some(endpoint), ..case.settings() };
    let fetch = |revision| Checkpoint::fetch(ID, revision, &settings, |_, _| {});
    fetch(None).unwrap();
    case.hub.state().refuse = Some((500, "", ""));
    let reason = assert_refused(fetch(Some("v9")), &[&case.hub.endpoint, "answers 500"]);
    assert!(!reason.to_string().contains("secret"), "{reason}");
    let remarks = fetch(None).unwrap().remarks().to_vec();
    assert!(remarks[0].text.contains("answers 500") && !remarks[0].text.contains("secret"));
}

#[test]
fn encryption_that_fails() {
    use std::io::{Read, Write};
    let case = Case::new();
    // Speaks without encryption.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read_to_end(&mut vec![]);
        }
    });
    let settings = Hub { endpoint: Some(endpoint.clone()), ..case.settings() };
    let result = Checkpoint::fetch(ID, None, &settings, |_, _| {});
    let reason = assert_refused(result, &["cannot reach", &endpoint, "corrupt message"]);
    assert!(matches!(reason, HubError::Unreachable { .. }));
    let mut command = case.command(&["--model", ID]);
    command.env("HF_ENDPOINT", &endpoint);
    command.envs([("SSL_CERT_FILE", "/none"), ("SSL_CERT_DIR", "/none")]);
    #[cfg(target_os = "linux")] // elsewhere the system keeps them
    assert_exit_2(command.output().unwrap(), &["No CA certificates", "HF_ENDPOINT"]);
}

/// An error page in place of a file is no file.
#[test]
fn the_cdn_fails() {
    let case = Case::new();
    for status in [403, 404, 503] {
        case.hub.state().cdn_refuse = Some(status);
        let reason = case.refused(&[&format!("answers {status}"), "later"]);
        let HubError::Server { endpoint, .. } = reason else { panic!("{reason:?}") };
        assert!(endpoint != case.hub.endpoint && !endpoint.contains("secret"), "{endpoint}");
        assert!(!case.has_weights() && !case.part().exists(), "nothing has arrived");
    }
    case.hub.state().cdn_refuse = None;
    case.fetch().unwrap();
}

#[test]
fn caches_that_cannot_be_written() {
    let case = Case::new();
    let file = case.cache.path().join("file");
    std::fs::write(&file, "").unwrap();
    let settings = Hub { cache: Some(file.join("hub")), ..case.settings() };
    let result = Checkpoint::fetch(ID, None, &settings, |_, _| {});
    assert_refused(result, &["cannot write", "file/hub", "HF_HOME"]);
    #[cfg(target_os = "linux")]
    {
        std::fs::create_dir_all(case.path("blobs")).unwrap();
        std::os::unix::fs::symlink("/dev/full", case.part()).unwrap();
        case.refused(&["cannot write", "No space left", "make room"]);
        assert!(!case.has_weights());
    }
}

/// Whether anything below a directory has changed.
fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = vec![];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            all.extend(listing(&path));
        }
        all.push((path, metadata.len()));
    }
    all.sort();
    all
}

/// Files lie where directories would have to be made, so that not even root can write there.
fn bar(path: &Path) {
    if path.exists() {
        std::fs::remove_dir_all(path).unwrap();
    }
    std::fs::write(path, "").unwrap();
}

#[test]
fn a_complete_cache_may_be_read_only() {
    let case = Case::new();
    case.fetch().unwrap();
    let offline = Hub { offline: true, ..case.settings() };
    let snapshot = case.path(&format!("snapshots/{COMMIT}"));
    // Copies in place of links, as on systems without them, and a line break from an editor.
    for name in ["config.json", "tokenizer.json", WEIGHTS] {
        let bytes = std::fs::read(snapshot.join(name)).unwrap();
        std::fs::remove_file(snapshot.join(name)).unwrap();
        std::fs::write(snapshot.join(name), bytes).unwrap();
    }
    std::fs::remove_dir_all(case.path("blobs")).unwrap();
    bar(&case.cache.path().join(".locks"));
    std::fs::write(case.path("refs/main"), format!("{COMMIT}\n")).unwrap();
    let before = listing(case.cache.path());
    for settings in [case.settings(), offline] {
        let checkpoint = Checkpoint::fetch(ID, None, &settings, |_, _| {}).unwrap();
        assert!(checkpoint.remarks().is_empty());
    }
    bar(&case.path("refs"));
    assert!(case.fetch().unwrap().remarks().is_empty(), "the hub knows where main is");
    assert_eq!(listing(case.cache.path()).len(), before.len() - 1, "without refs/main");
    assert!(!case.hub.files_read().is_empty());
}

#[test]
fn a_read_only_cache_that_is_behind() {
    let case = Case::new();
    case.fetch().unwrap();
    let old = "f".repeat(40);
    std::fs::rename(
        case.path(&format!("snapshots/{COMMIT}")),
        case.path(&format!("snapshots/{old}")),
    )
    .unwrap();
    std::fs::write(case.path("refs/main"), &old).unwrap();
    bar(&case.path(&format!("snapshots/{COMMIT}")));
    let checkpoint = case.fetch().unwrap();
    assert!(checkpoint.source().to_string().contains(&old));
    let [remark] = checkpoint.remarks() else { panic!("{:?}", checkpoint.remarks()) };
    assert!(remark.is_warning());
    for said in ["cannot be written", &old, &format!("main is now at commit {COMMIT}")] {
        assert!(remark.text.contains(said), "{remark}");
    }
    // Without an older one there is nothing to use.
    std::fs::remove_dir_all(case.path("refs")).unwrap();
    case.refused(&["cannot write", "HF_HOME"]);
}

#[test]
fn what_the_cache_lacks_and_cannot_take() {
    let case = Case::new();
    case.fetch().unwrap();
    case.hub.state().files.insert("generation_config.json".into(), b"{}".into());
    bar(&case.cache.path().join(".locks"));
    let checkpoint = case.fetch().unwrap();
    let [remark] = checkpoint.remarks() else { panic!("{:?}", checkpoint.remarks()) };
    assert!(!remark.is_warning() && remark.text.contains("cannot be written"), "{remark}");
    #[cfg(target_os = "linux")]
    {
        std::fs::remove_file(case.cache.path().join(".locks")).unwrap();
        let part = format!("{}.part", checksum("generation_config.json", b"{}"));
        std::os::unix::fs::symlink("/dev/full", case.path("blobs").join(part)).unwrap();
        let full = case.fetch().unwrap().remarks()[0].to_string();
        assert!(full.contains("No space left"), "{full}");
    }
}

#[test]
fn small_files_that_a_repository_may_have() {
    let case = Case::new();
    let small = ["generation_config.json", "tokenizer_config.json"];
    for name in small {
        case.hub.state().files.insert(name.into(), format!("{{\"of\": \"{name}\"}}").into());
    }
    case.hub.state().files.insert("special_tokens_map.json".into(), b"{}".into());
    case.fetch().unwrap();
    assert_eq!(
        case.hub.files_read(),
        ["config.json", small[0], WEIGHTS, "tokenizer.json", small[1]]
    );
    // Whoever has fetched without them is given them.
    std::fs::remove_file(case.path(&format!("snapshots/{COMMIT}/{}", small[0]))).unwrap();
    let offline = Hub { offline: true, ..case.settings() };
    Checkpoint::fetch(ID, None, &offline, |_, _| {}).unwrap();
    Checkpoint::fetch(ID, Some(COMMIT), &case.settings(), |_, _| {}).unwrap();
    assert!(case.hub.requests().is_empty(), "a commit is not asked about again");
    case.fetch().unwrap();
    assert!(case.path(&format!("snapshots/{COMMIT}/{}", small[0])).exists());
    // Whoever lists endless ones gets nowhere.
    let case = Case::new();
    case.hub.state().files.insert(small[0].into(), vec![b' '; (64 << 20) + 1]);
    case.refused(&["as no hub does", "generation_config.json of 67108865 bytes"]);
    assert!(case.hub.files_read().is_empty());
}

#[test]
fn other_weights_are_named() {
    let case = Case::new();
    let mut state = case.hub.state();
    state.files.remove(WEIGHTS);
    state.files.remove("consolidated.safetensors");
    drop(state);
    case.refused(&["no model.safetensors", "it has gemma.gguf", "--file"]);
    case.hub.state().files.remove("gemma.gguf");
    case.refused(&["it has pytorch_model.bin", "convert them to safetensors"]);
    case.hub.state().files.insert("adapter_config.json".into(), b"{}".into());
    case.hub.state().files.remove("config.json");
    case.refused(&["no config.json", "it has adapter_config.json", "base model"]);
}

fn mirrored(mirror: Mirror) -> Case {
    let case = Case::new();
    case.hub.state().mirror = Some(mirror);
    case
}

/// Files at their addresses are enough.
#[test]
fn mirrors_of_files() {
    let whole = Mirror { commit: true, etag: "\"hash\"", ..Default::default() };
    let mut mirrors = vec![];
    for paths_info in [400, 401, 403, 404, 405, 410, 500, 501] {
        mirrors.push(Mirror { paths_info, ..whole });
        mirrors.push(Mirror { paths_info, revision: Some(paths_info), ..whole });
        mirrors.push(Mirror { paths_info, head: Some(paths_info), ..whole });
    }
    let poor = Mirror { paths_info: 404, revision: Some(404), ..whole };
    mirrors.push(Mirror { pages: true, ..poor });
    mirrors.push(Mirror { paths_info: 200, pages: true, ..whole });
    for etag in ["", "W/\"hash\"", "\"5f3-1a\"", "../../../evil", "hash"] {
        mirrors.push(Mirror { etag, ..poor });
    }
    for mirror in mirrors {
        let case = mirrored(mirror);
        if mirror.pages {
            // What it lacks is a page, too; then only its list tells.
            for name in ["generation_config.json", "tokenizer_config.json", INDEX] {
                case.hub.state().files.insert(name.into(), b"{}".into());
            }
        }
        let checkpoint = case.fetch().unwrap();
        assert_eq!(checkpoint.source().to_string(), format!("{ID} (revision {COMMIT})"));
        let link = case.path(&format!("snapshots/{COMMIT}/{WEIGHTS}")).canonicalize().unwrap();
        assert_eq!(link.parent(), case.path("blobs").canonicalize().ok().as_deref());
        assert_eq!(
            link == case.blob().canonicalize().unwrap_or_default(),
            mirror.etag.contains("hash")
        );
        case.hub.requests();
        case.fetch().unwrap();
        let again = case.hub.requests();
        let read = |r: &Request| r.method == "GET" && r.path.ends_with(WEIGHTS);
        assert!(mirror.head.is_some() || !again.iter().any(read), "{again:?}");
    }
}

/// The hub says what a file is when it redirects to where that lies.
#[test]
fn mirrors_that_redirect() {
    let case = mirrored(Mirror { paths_info: 404, redirects: true, ..Default::default() });
    case.hub.state().cut = Some(700_000);
    case.refused(&[&format!("700000 of {} bytes", size())]);
    case.hub.state().cut = None;
    case.hub.state().damage = true;
    case.refused(&["arrived damaged", "SHA-256"]);
    case.hub.state().damage = false;
    case.fetch().unwrap();
    assert_eq!(std::fs::read(case.blob()).unwrap(), case.weights());
    let requests = case.hub.requests();
    assert!(requests.iter().all(|r| !r.cdn || r.method == "GET"), "signed addresses are for GET");
}

#[test]
fn mirrors_are_checked() {
    let poor = Mirror { paths_info: 404, revision: Some(404), commit: true, ..Default::default() };
    let case = mirrored(Mirror { etag: "hash", ..poor });
    case.hub.state().damage = true;
    case.refused(&["model.safetensors arrived damaged", "SHA-256"]);
    // One tag for files of one size, as servers make it of the time.
    let case = mirrored(Mirror { etag: "\"same\"", ..poor });
    let shards = sharded(|_| {});
    let mut files = shards.hub.state().files.clone();
    let len = files.values().filter(|f| f.len() > 100_000).map(Vec::len).max().unwrap();
    for name in ["model-1.safetensors", "model-2.safetensors"] {
        let shard = files.get_mut(name).unwrap();
        let header = u64::from_le_bytes(shard[..8].try_into().unwrap()) as usize;
        // Of one size by spaces in the header, which are allowed there.
        let pad = len + 64 - shard.len();
        let padded = [
            &((header + pad) as u64).to_le_bytes(),
            &shard[8..8 + header],
            &vec![b' '; pad],
            &shard[8 + header..],
        ]
        .concat();
        *shard = padded;
    }
    case.hub.state().files = files;
    assert_eq!(case.fetch().unwrap().blocks().len(), 4);
}

#[test]
fn mirrors_that_will_not_do() {
    let poor = Mirror { paths_info: 404, revision: Some(404), etag: "hash", ..Default::default() };
    // No commit, but a commit's name is one.
    let case = mirrored(poor);
    case.refused(&["answers as no hub does", "X-Repo-Commit", "whole commit hash", "HF_ENDPOINT"]);
    Checkpoint::fetch(ID, Some(COMMIT), &case.settings(), |_, _| {}).unwrap();
    // Nothing but revisions.
    let case = mirrored(Mirror { revision: None, ..poor });
    case.hub.state().files.clear();
    case.refused(&["paths-info answers 404", "no file config.json", "HF_ENDPOINT"]);
    // Nothing at all: no repository, as far as anyone can tell.
    let case = mirrored(poor);
    case.hub.state().files.clear();
    case.refused(&["no repository on", &case.hub.endpoint]);
    // Pages for everything: a login.
    let case = mirrored(Mirror { pages: true, ..poor });
    case.hub.state().files.clear();
    case.refused(&["answers as no hub does", "HF_ENDPOINT"]);
    assert!(!case.path("snapshots").exists());
    // A hub that says what it means is believed.
    let case = Case::new();
    case.hub.state().refuse = Some((404, "RepoNotFound", ""));
    case.refused(&["no repository on"]);
    assert_eq!(case.hub.requests().len(), 1);
    // A mirror without weights says so.
    let case = mirrored(Mirror { commit: true, ..poor });
    case.hub.state().files.remove(WEIGHTS);
    case.refused(&["no model.safetensors in the repository"]);
}

#[test]
fn answers_that_break_off_are_asked_for_again() {
    for json_without_length in [false, true] {
        let case = Case::new();
        case.hub.state().json_without_length = json_without_length;
        let settings = Hub { retries: 2, ..case.settings() };
        case.hub.state().cut_json = 2;
        Checkpoint::fetch(ID, None, &settings, |_, _| {}).unwrap();
        case.hub.state().cut_json = 3;
        case.hub.requests();
        let fetched = Checkpoint::fetch(ID, None, &settings, |_, _| {}).unwrap();
        assert_eq!(case.hub.requests().len(), 3);
        assert!(fetched.remarks()[0].text.contains("cannot be reached"), "the cache will do");
        std::fs::remove_dir_all(case.path("snapshots")).unwrap();
        case.hub.state().cut_json = 3;
        let result = Checkpoint::fetch(ID, None, &settings, |_, _| {});
        let reason = assert_refused(result, &["cannot reach", &case.hub.endpoint]);
        assert!(matches!(reason, HubError::Unreachable { .. }));
    }
}

#[test]
fn endless_answers_end() {
    let case = Case::new();
    case.hub.state().endless = true;
    case.hub.state().json_without_length = true;
    case.refused(&["answers as no hub does", "more than 16777216 bytes"]);
}

#[test]
fn pasted_addresses() {
    let case = Case::new();
    let endpoint = &case.hub.endpoint;
    let open = |model: &str, revision: Option<&str>| {
        Checkpoint::open_or_fetch(model, None, revision, &case.settings(), |_, _| {})
    };
    let source = format!("{ID} (revision {COMMIT})");
    for model in [
        format!("https://huggingface.co/{ID}"),
        format!("hf.co/{ID}/tree/main"),
        format!("hf://{ID}"),
        format!("{ID}@refs/pr/1"),
        format!("{endpoint}/{ID}/"),
        format!("{endpoint}/{ID}/blob/{COMMIT}/config.json"),
    ] {
        assert_eq!(open(&model, None).unwrap().source().to_string(), source, "{model}");
    }
    open(&format!("{ID}@main"), Some("main")).unwrap();
    let error = |model: &str, revision| open(model, revision).err().unwrap().to_string();
    let two = error(&format!("{endpoint}/{ID}/tree/main"), Some("v2"));
    assert!(two.contains("'main'") && two.contains("'v2'"), "{two}");
    assert!(error(&format!("https://huggingface.co/datasets/{ID}"), None).contains("a dataset"));
    let elsewhere = error("https://me:secret@example.com/a/b?token=secret", None);
    assert!(elsewhere.contains("pass org/name") && !elsewhere.contains("secret"), "{elsewhere}");
    let nothing = error(&format!("https://huggingface.co/{ID}-2"), None);
    assert!(nothing.starts_with(&format!("{ID}-2: no repository on {endpoint}")), "{nothing}");
    let output = case.command(&["inspect", "--model", "https://example.com/a/b"]).output().unwrap();
    assert_exit_2(output, &["https://example.com/a/b: ", "set HF_ENDPOINT"]);
}

#[test]
fn the_binary_fetches() {
    let case = Case::new();
    let run = |args: &[&str]| {
        let output = case.command(args).env("HF_TOKEN", "hf_friend\n").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run(&["inspect", "--model", ID]);
    assert!(table.contains(&format!("{ID} (revision {COMMIT})")), "{table}");
    for request in case.hub.requests() {
        let token = (!request.cdn).then_some("Bearer hf_friend");
        assert_eq!(request.header("authorization"), token, "{request:?}");
    }
    let drift = run(&["--json", "--model-id", ID, "--revision", "refs/pr/1", "--layers", "0"]);
    let drift: Value = serde_json::from_str(&drift).unwrap();
    assert_eq!(drift["layers"][0]["input"], "model");
    assert_eq!(drift["checkpoint"]["source"], format!("{ID} (revision {COMMIT})"));
    // The cache is where HF_HOME says, and the token may lie there, too.
    assert!(case.cache.path().join("hub/models--google--gemma-tiny/refs/main").exists());
    std::fs::write(case.cache.path().join("token"), "hf_friend\n").unwrap();
    case.hub.requests();
    assert!(case.command(&["inspect", "--model", ID]).output().unwrap().status.success());
    let requests = case.hub.requests();
    assert!(requests.iter().all(|r| r.header("authorization") == Some("Bearer hf_friend")));
    // Offline there is no need for certificates, either.
    let mut offline = case.command(&["inspect", "--model", ID]);
    offline.envs([("HF_HUB_OFFLINE", "1"), ("SSL_CERT_FILE", "/none"), ("SSL_CERT_DIR", "/none")]);
    assert!(offline.output().unwrap().status.success() && case.hub.requests().is_empty());
}

#[test]
fn places_from_the_environment() {
    let case = Case::new();
    let at = |below: &str| case.cache.path().join(below);
    let run = |set: &[(&str, &Path)], unset: &[&str]| {
        let mut command = case.command(&["inspect", "--model", ID]);
        command.env("HF_ENDPOINT", format!("{}/\n", case.hub.endpoint));
        for name in unset {
            command.env_remove(name);
        }
        let output = command.envs(set.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let requests = case.hub.requests();
        requests[0].header("authorization").map(String::from)
    };
    let repo = "models--google--gemma-tiny/refs/main";
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        assert_eq!(run(&[(name, &at(name))], &[]), None);
        assert!(at(name).join(repo).exists(), "{name}");
    }
    run(&[("XDG_CACHE_HOME", &at("xdg"))], &["HF_HOME"]);
    assert!(at("xdg/huggingface/hub").join(repo).exists());
    run(&[("HOME", &at("home")), ("HF_HUB_CACHE", Path::new(""))], &["HF_HOME"]);
    assert!(at("home/.cache/huggingface/hub").join(repo).exists());

    std::fs::write(at("named"), "hf_named\n").unwrap();
    std::fs::write(at("token"), "hf_signed_in\n").unwrap();
    let (named, none) = (at("named"), at("none"));
    let token = |set: &[(&str, &Path)]| run(set, &[]).unwrap_or_default();
    assert_eq!(token(&[]), "Bearer hf_signed_in");
    assert_eq!(token(&[("HF_HUB_CACHE", &at("other/place"))]), "Bearer hf_signed_in");
    assert_eq!(token(&[("HF_TOKEN_PATH", &named)]), "Bearer hf_named");
    assert_eq!(token(&[("HF_TOKEN_PATH", &none)]), "", "it is in place of the other file");
    let (set, old) = (Path::new("hf_set"), ("HUGGING_FACE_HUB_TOKEN", Path::new("hf_old")));
    assert_eq!(token(&[("HF_TOKEN_PATH", &named), ("HF_TOKEN", set), old]), "Bearer hf_set");
    assert_eq!(token(&[old, ("HF_TOKEN", Path::new(""))]), "Bearer hf_old");
    for (value, sent) in [("1", ""), ("True", ""), ("0", "Bearer hf_set"), ("no", "Bearer hf_set")]
    {
        let implicit = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", Path::new(value));
        assert_eq!(token(&[("HF_TOKEN", set), implicit]), sent, "{value}");
    }
}

/// As a .env file or a container image sets them, where no shell has expanded them.
#[test]
fn places_with_variables_in_them() {
    let case = Case::new();
    let repo = "models--google--gemma-tiny/refs/main";
    for (name, value, place) in [
        ("HF_HOME", "~/hf", "hf/hub"),
        ("HF_HOME", "~", "hub"),
        ("HF_HUB_CACHE", "~/cache", "cache"),
        ("HF_HUB_CACHE", "$HOME/${BELOW}/a", "b/c/a"),
        ("XDG_CACHE_HOME", "~/xdg", "xdg/huggingface/hub"),
    ] {
        let (home, cwd) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut command = case.command(&["inspect", "--model", ID]);
        command.env_remove("HF_HOME").env("HOME", home.path()).env("BELOW", "b/c");
        let output = command.env(name, value).current_dir(cwd.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(home.path().join(place).join(repo).exists(), "{name}={value}");
        assert_eq!(std::fs::read_dir(cwd.path()).unwrap().count(), 0, "{name}={value}");
    }
    let mut command = case.command(&["inspect", "--model", ID]);
    let output = command.env("HF_HOME", "~nobody/hf").output().unwrap();
    assert_exit_2(output, &["HF_HOME begins with '~nobody'", "write out"]);
}

#[test]
#[cfg(unix)]
fn variables_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let case = Case::new();
    for name in ["HF_ENDPOINT", "HF_TOKEN", "HTTPS_PROXY", "no_proxy"] {
        let mut command = case.command(&["inspect", "--model", ID]);
        command.env(name, std::ffi::OsStr::from_bytes(b"http://caf\xe9"));
        assert_exit_2(command.output().unwrap(), &[&format!("{name} is not UTF-8")]);
    }
    assert!(case.hub.requests().is_empty());
}

#[test]
fn offline_by_either_variable() {
    let case = Case::new();
    let asks = |variables: &[(&str, &str)]| {
        let mut command = case.command(&["inspect", "--model", ID]);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let asked = !case.hub.requests().is_empty();
        assert_eq!(output.status.success(), asked, "{}", String::from_utf8_lossy(&output.stderr));
        if !asked {
            assert_exit_2(output, &["not in the cache", "TRANSFORMERS_OFFLINE"]);
        }
        asked
    };
    for yes in ["1", "ON", "yes", "True"] {
        assert!(!asks(&[("HF_HUB_OFFLINE", yes)]) && !asks(&[("TRANSFORMERS_OFFLINE", yes)]));
    }
    assert!(!asks(&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")]));
    assert!(asks(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]), "the first counts");
    assert!(asks(&[("TRANSFORMERS_OFFLINE", "no")]));
}

#[test]
fn proxies_from_the_environment() {
    let case = Case::new();
    let proxy = Proxy::new(&case.hub);
    let address = format!("http://us%20er:secret@{}", proxy.address);
    let hosts = || {
        let heads = proxy.heads();
        assert!(heads.iter().all(|head| !head.contains("hf_friend")), "{heads:?}");
        assert!(heads.iter().all(|head| head.contains("Basic dXMgZXI6c2VjcmV0")), "{heads:?}");
        let host = |head: &String| head.split(' ').nth(1).unwrap().to_string();
        heads.iter().map(host).collect::<std::collections::BTreeSet<_>>()
    };
    let run = |endpoint: &str, variables: &[(&str, &str)]| {
        let place = tempfile::tempdir().unwrap();
        let mut command = case.command(&["inspect", "--model", ID]);
        command.env("HF_TOKEN", "hf_friend").env("HF_HOME", place.path());
        command.env("HF_ENDPOINT", endpoint).envs(variables.iter().copied()).output().unwrap()
    };
    let cdn = case.hub.cdn.strip_prefix("http://").unwrap();
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let output = run("http://hub.invalid", &[(name, &address)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(hosts(), [cdn, "hub.invalid:80"].map(String::from).into(), "{name}");
    }
    let variables =
        [("HTTP_PROXY", &*address), ("HTTPS_PROXY", "nowhere"), ("NO_PROXY", "a.co, 127.0.0.0/8")];
    assert!(run("http://hub.invalid", &variables).status.success());
    assert_eq!(hosts(), ["hub.invalid:80".to_string()].into());
    assert!(run(&case.hub.endpoint, &variables).status.success());
    assert!(hosts().is_empty());

    let output =
        run("https://hub.invalid", &[("HTTPS_PROXY", &address), ("HTTP_PROXY", "nowhere")]);
    assert_exit_2(output, &["cannot reach https://hub.invalid", "proxy"]);
    assert_eq!(hosts(), ["hub.invalid:443".to_string()].into());
    let output = run("https://hub.invalid", &[("HTTPS_PROXY", "secret://:pass@")]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("pass"));
    assert_exit_2(output, &["HTTPS_PROXY is not a proxy's address", "the proxy"]);
}

#[test]
fn the_binary_refuses_in_one_line() {
    let case = Case::new();
    let run = |args: &[&str]| case.command(args).output().unwrap();
    let missing = run(&["drift", "--model", "google/gemma-3-270"]);
    assert_exit_2(missing, &["google/gemma-3-270: ", "no repository", "no directory", "spelling"]);
    case.hub.state().gate = Some("hf_friend");
    let gated = run(&["inspect", "--model", ID]);
    assert_exit_2(gated, &[ID, "accept its licence on", "then set HF_TOKEN"]);
    case.hub.requests();
    let offline = case.command(&["--model", ID]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_exit_2(offline, &["revision main is not in the cache", "HF_HUB_OFFLINE"]);
    // These are no ids.
    for path in ["./a/b", "/a/b", "~/b", "a/b/c", "gemma", "a/b/", "a/..b"] {
        assert_exit_2(run(&["forward", "--model", path]), &["no such file; pass a directory"]);
    }
    assert_exit_2(run(&["--model", "src/main.rs"]), &["it is a file"]);
    let directory = run(&["--model", "weights/tiny-gemma3", "--revision", "main"]);
    assert_exit_2(directory, &["weights/tiny-gemma3 is a directory", "'main'"]);
    assert!(run(&["--model", "weights/tiny-gemma3"]).status.success(), "directories win");
    assert!(case.hub.requests().is_empty(), "nothing of this was the hub's business");
}

/// Whatever ends the program in the middle: the next run goes on.
#[test]
fn killed_while_downloading() {
    let case = Case::new();
    *case.hub.state() =
        State { files: tiny(), stall: true, cut: Some(900_000), ..Default::default() };
    let blobs = case.cache.path().join("hub/models--google--gemma-tiny/blobs");
    let sha256 = checksum(WEIGHTS, &case.weights());
    let part = blobs.join(format!("{sha256}.part"));
    let mut command = case.command(&["inspect", "--model", ID]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while part.metadata().map_or(0, |part| part.len()) < 900_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", child.try_wait());
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!blobs.join(&sha256).exists());
    *case.hub.state() = State { files: tiny(), ..Default::default() };
    assert!(case.command(&["inspect", "--model", ID]).output().unwrap().status.success());
    let resumed = |r: &Request| r.header("range") == Some(&format!("bytes=900000-{}", size() - 1));
    assert!(case.hub.requests().iter().any(resumed));
    assert!(blobs.join(&sha256).exists() && !part.exists());
}

/// A GGUF file, whole or in parts, with the tokenizer beside it; nothing else is asked for.
#[test]
fn gguf_files_are_fetched_by_their_name() {
    let case = Case::new();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf");
    let parts = [1, 2, 3].map(|part| format!("split-0000{part}-of-00003.gguf"));
    for name in parts.iter().map(String::as_str).chain(["gemma3.gguf"]) {
        let bytes = std::fs::read(goldens.join(name)).unwrap();
        case.hub.state().files.insert(name.into(), bytes);
    }
    let settings = case.settings();
    let fetch = |name: &str| Checkpoint::fetch_file(ID, name, None, &settings, |_, _| {});
    let whole = fetch("gemma3.gguf").unwrap();
    assert_eq!(whole.source().to_string(), format!("{ID}/gemma3.gguf (revision {COMMIT})"));
    assert!(whole.remarks().iter().any(|remark| remark.text.contains("beside the file")));
    let split = fetch(&parts[1]).unwrap();
    assert_eq!(split.blocks().len(), whole.blocks().len());
    let snapshot = case.path(&format!("snapshots/{COMMIT}"));
    let fetched = |name: &str| snapshot.join(name).exists();
    assert!(parts.iter().all(|part| fetched(part)) && fetched("tokenizer.json"));
    assert!(!fetched("config.json") && !case.has_weights());
    // From the cache alone; and what is not in it.
    let offline = Hub { offline: true, ..case.settings() };
    Checkpoint::fetch_file(ID, &parts[2], None, &offline, |_, _| {}).unwrap();
    let result = Checkpoint::fetch_file(ID, "other.gguf", None, &offline, |_, _| {});
    assert_refused(result, &["other.gguf is not in the cache"]);
    let listed = "it has gemma.gguf, gemma3.gguf, split-00001";
    assert_refused(fetch("other.gguf"), &["no file other.gguf", listed]);
    assert_refused(fetch("gemma.safetensors"), &["at the top of the repository"]);
    assert_refused(fetch("../gemma3.gguf"), &["at the top of the repository"]);
    // What is called so and is none is one line of its own.
    let error = fetch("gemma.gguf").err().unwrap().to_string();
    let told = error.contains("does not begin with \"GGUF\"") && error.lines().count() == 1;
    assert!(told, "{error}");
    // The program: by name, and by the address of the file's page.
    let page = format!("{}/{ID}/blob/main/gemma3.gguf", case.hub.endpoint);
    let by_name = ["inspect", "--model", ID, "--file", "gemma3.gguf"];
    for args in [&by_name[..], &["inspect", "--model", &page]] {
        let output = case.command(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("gemma3.gguf"));
    }
    let both = case.command(&["inspect", "--model", &page, "--file", "x.gguf"]).output().unwrap();
    assert_exit_2(both, &["leave one out"]);
}
