//! A hub on loopback that answers as the real one does, with a second server as its CDN, and that
//! can be told to fail.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const ID: &str = "google/gemma-tiny";
/// What the repository was called once.
pub const OLD_ID: &str = "google/gemma-old";

/// What the hub holds and how it misbehaves.
#[derive(Default)]
pub struct State {
    pub files: BTreeMap<String, Vec<u8>>,
    /// Only this token may read the files.
    pub gate: Option<&'static str>,
    /// The answer to everything: status, `X-Error-Code`, body.
    pub refuse: Option<(u16, &'static str, &'static str)>,
    /// The hub does not say what the SHA-256 of big files is, as mirrors may.
    pub no_sha256: bool,
    /// So many requests find the hub busy,
    pub busy: usize,
    /// or their connection cut.
    pub hang_up: usize,
    /// The hub's questions are answered by the server at this address; the empty one leads back.
    pub redirect: Option<String>,
    /// The CDN's answer to everything.
    pub cdn_refuse: Option<u16>,
    /// The CDN sends so many bytes and then hangs up,
    pub cut: Option<usize>,
    /// or goes silent.
    pub stall: bool,
    /// The CDN sends no length, so that the end of the connection is the end of the file.
    pub no_length: bool,
    /// Nor does it here, but it sends piece by piece.
    pub chunked: bool,
    /// The CDN compresses, asked to or not.
    pub gzip: bool,
    /// The CDN sends the whole file, whatever the range.
    pub ignore_range: bool,
    /// The CDN sends other bytes.
    pub damage: bool,
    /// The hub is a mirror.
    pub mirror: Option<Mirror>,
    /// So many answers in JSON are cut in half,
    pub cut_json: usize,
    /// and they have no length.
    pub json_without_length: bool,
    /// The hub's answers in JSON never end.
    pub endless: bool,
    pub log: Vec<Request>,
}

/// Serves files at their addresses, and little else.
#[derive(Clone, Copy, Default)]
pub struct Mirror {
    /// What it answers to questions about a revision, where it knows none, without saying why,
    pub revision: Option<u16>,
    /// about some files,
    pub paths_info: u16,
    /// and to HEAD.
    pub head: Option<u16>,
    /// Files come with their commit,
    pub commit: bool,
    /// and with this for a tag: `hash` stands for their hash.
    pub etag: &'static str,
    /// There is a web page for everything that it does not have.
    pub pages: bool,
    /// It leads to files as the hub does.
    pub redirects: bool,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub cdn: bool,
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

pub struct FakeHub {
    pub endpoint: String,
    /// Where its CDN is.
    pub cdn: String,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let cdn = serve(state.clone(), true, String::new());
        let endpoint = serve(state.clone(), false, cdn.clone());
        Self { endpoint, cdn, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().log)
    }

    /// The files that were read since the last call, once each.
    pub fn files_read(&self) -> Vec<String> {
        let read = |r: &Request| r.path.split_once("/resolve/").map(|(_, file)| file.to_string());
        let mut files: Vec<_> = self.requests().iter().filter_map(read).collect();
        files.sort();
        files.dedup();
        files.iter().map(|file| file.split_once('/').unwrap().1.to_string()).collect()
    }
}

fn serve(state: Arc<Mutex<State>>, cdn: bool, cdn_address: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (state, cdn_address) = (state.clone(), cdn_address.clone());
            // A client may hang up at any time.
            std::thread::spawn(move || answer(stream.ok()?, &state, cdn, &cdn_address).ok());
        }
    });
    address
}

fn read_request(stream: &TcpStream, cdn: bool) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(String::from);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    Ok(Request { cdn, method, path, headers, body })
}

fn answer(
    mut stream: TcpStream,
    state: &Mutex<State>,
    cdn: bool,
    cdn_address: &str,
) -> std::io::Result<()> {
    let request = read_request(&stream, cdn)?;
    let mut state = state.lock().unwrap();
    state.log.push(request.clone());
    if state.hang_up > 0 {
        state.hang_up -= 1;
        return Ok(());
    }
    let Answer { status, mut headers, mut body } = match state.refuse {
        _ if state.busy > 0 => {
            state.busy -= 1;
            refusal(503, "", "")
        }
        Some((status, code, body)) => refusal(status, code, body),
        None if cdn && state.cdn_refuse.is_some() => {
            refusal(state.cdn_refuse.unwrap_or_default(), "", "<Error>Request has expired</Error>")
        }
        None if cdn => from_cdn(&state, &request),
        None => from_hub(&state, &request, cdn_address),
    };
    if cdn && state.gzip {
        body = gzip(&body);
        headers.push(("Content-Encoding", "gzip".into()));
    }
    let mut head = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    let chunked = cdn && state.chunked;
    let json = request.path.starts_with("/api/models/");
    let no_length = if json { state.json_without_length } else { cdn && state.no_length };
    if chunked {
        head += "Transfer-Encoding: chunked\r\n";
    } else if !no_length {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut sent = state.cut.filter(|_| cdn).unwrap_or(body.len()).min(body.len());
    if json && state.cut_json > 0 {
        state.cut_json -= 1;
        sent /= 2;
    }
    let endless = json && state.endless;
    let stall = state.stall && cdn && request.method == "GET";
    drop(state);
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if endless {
        loop {
            stream.write_all(&[b' '; 1 << 16])?;
        }
    }
    if request.method == "HEAD" {
    } else if chunked {
        for piece in body[..sent].chunks(10_000) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            stream.write_all(&[piece, b"\r\n"].concat())?;
        }
        stream.write_all(if sent == body.len() { b"0\r\n\r\n" } else { b"" })?;
    } else {
        stream.write_all(&body[..sent])?;
    }
    if stall {
        stream.read_to_end(&mut vec![])?; // until the client is gone
    }
    Ok(())
}

fn refusal(status: u16, code: &'static str, body: &str) -> Answer {
    let headers = vec![("X-Error-Code", code.into()), ("Retry-After", "7".into())];
    Answer { status, headers, body: body.into() }
}

fn json_answer(value: Value) -> Answer {
    let headers = vec![("Content-Type", "application/json".into())];
    Answer { status: 200, headers, body: value.to_string().into() }
}

fn from_hub(state: &State, request: &Request, cdn: &str) -> Answer {
    let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if token == Some("hf_unknown") {
        return refusal(401, "", r#"{"error": "Invalid credentials in Authorization header"}"#);
    }
    if request.path.contains(OLD_ID) {
        return redirect(request.path.replace(OLD_ID, ID));
    }
    if let Some(address) = &state.redirect {
        return redirect(format!("{address}{}", request.path));
    }
    let is_api = request.path.starts_with("/api/models/");
    if let Some(mirror) = state.mirror.filter(|mirror| is_api || !mirror.redirects) {
        return from_mirror(state, mirror, request);
    }
    let api = format!("/api/models/{ID}/");
    if let Some(rest) = request.path.strip_prefix(&api) {
        return from_api(state, request, rest);
    }
    if let Some(name) = request.path.strip_prefix(RESOLVE_CACHE) {
        return from_git(name, &state.files[name]);
    }
    match request.path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/")) {
        Some(_) if state.gate.is_some() && token.is_none() => {
            refusal(401, "GatedRepo", "Access to this model is restricted.")
        }
        Some(_) if state.gate.is_some() && token != state.gate => {
            refusal(403, "GatedRepo", "Access to this model is restricted.")
        }
        Some(name) => resolve(state, name, cdn),
        // To those who are not signed in, missing repositories look like private ones.
        None if token.is_none() => {
            refusal(401, "RepoNotFound", r#"{"error": "Invalid username or password."}"#)
        }
        None => refusal(404, "RepoNotFound", r#"{"error": "Repository not found"}"#),
    }
}

fn from_mirror(state: &State, mirror: Mirror, request: &Request) -> Answer {
    let bare = |status| match mirror.pages && (200..=404).contains(&status) {
        true => web_page(),
        false => Answer { status, headers: vec![], body: b"Cannot answer".into() },
    };
    if let Some(rest) = request.path.strip_prefix(&format!("/api/models/{ID}/")) {
        return match mirror.revision {
            _ if rest.starts_with("paths-info/") => bare(mirror.paths_info),
            Some(status) => bare(status),
            None => from_api(state, request, rest),
        };
    }
    let path = request.path.strip_prefix(&format!("/{ID}/resolve/"));
    let name = path.and_then(|path| path.split_once('/')).map(|(_, name)| name);
    let Some((name, bytes)) = name.and_then(|name| Some((name, state.files.get(name)?))) else {
        return bare(404);
    };
    if let Some(status) = mirror.head.filter(|_| request.method == "HEAD") {
        return bare(status);
    }
    let mut headers = vec![];
    if mirror.commit {
        headers.push(("X-Repo-Commit", COMMIT.into()));
    }
    if !mirror.etag.is_empty() {
        headers.push(("ETag", mirror.etag.replace("hash", &checksum(name, bytes))));
    }
    let mut body = bytes.clone();
    if state.damage && is_big(name) {
        body.reverse();
    }
    Answer { status: 200, headers, body }
}

fn web_page() -> Answer {
    let headers = vec![("Content-Type", "text/html; charset=utf-8".into())];
    Answer { status: 200, headers, body: b"<html>Welcome</html>".into() }
}

fn from_api(state: &State, request: &Request, rest: &str) -> Answer {
    match rest {
        "revision/main" | "revision/refs%2Fpr%2F1" => revision(state),
        rest if rest == format!("revision/{COMMIT}") => revision(state),
        rest if rest == format!("paths-info/{COMMIT}") => {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let names = body["paths"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
            let entries = names.filter_map(|name| Some(entry(state, name, state.files.get(name)?)));
            json_answer(entries.collect())
        }
        _ => refusal(404, "RevisionNotFound", r#"{"error": "Invalid rev id"}"#),
    }
}

fn revision(state: &State) -> Answer {
    let siblings: Vec<_> = state.files.keys().map(|name| json!({"rfilename": name})).collect();
    json_answer(json!({"id": ID, "sha": COMMIT, "siblings": siblings}))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Big files lie in another store, under their SHA-256; small ones in git.
fn is_big(name: &str) -> bool {
    name.ends_with(".safetensors")
}

pub fn checksum(name: &str, bytes: &[u8]) -> String {
    let sha256 = sha256(bytes);
    if is_big(name) { sha256 } else { sha256[..40].into() }
}

fn entry(state: &State, name: &str, bytes: &[u8]) -> Value {
    let oid = &sha256(bytes)[..40];
    let mut entry = json!({"type": "file", "path": name, "size": bytes.len(), "oid": oid});
    if is_big(name) && !state.no_sha256 {
        entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 132});
    }
    entry
}

fn redirect(location: String) -> Answer {
    Answer { status: 307, headers: vec![("Location", location)], body: b"See there".into() }
}

fn resolve(state: &State, name: &str, cdn: &str) -> Answer {
    let Some(bytes) = state.files.get(name) else {
        return refusal(404, "EntryNotFound", "Entry not found");
    };
    let mut headers = vec![("X-Repo-Commit", COMMIT.into())];
    if !is_big(name) {
        headers.push(("Location", format!("{RESOLVE_CACHE}{name}")));
        return Answer { status: 307, headers, body: b"Temporary Redirect".into() };
    }
    headers.push(("X-Linked-ETag", format!("\"{}\"", checksum(name, bytes))));
    headers.push(("X-Linked-Size", bytes.len().to_string()));
    headers.push(("Location", format!("{cdn}/{name}?Signature=secret")));
    Answer { status: 302, headers, body: b"Found. Redirecting".into() }
}

/// Where the hub itself serves small files.
const RESOLVE_CACHE: &str = "/api/resolve-cache/models/google/gemma-tiny/";

fn from_git(name: &str, bytes: &[u8]) -> Answer {
    let etag = format!("\"{}\"", checksum(name, bytes));
    let headers = vec![("X-Repo-Commit", COMMIT.into()), ("ETag", etag)];
    Answer { status: 200, headers, body: bytes.into() }
}

fn from_cdn(state: &State, request: &Request) -> Answer {
    let name = request.path[1..].split('?').next().unwrap();
    let mut bytes = state.files[name].clone();
    if state.damage {
        bytes.reverse();
    }
    let headers = vec![("ETag", "\"of-the-cdn\"".into()), ("Accept-Ranges", "bytes".into())];
    match request.header("range").filter(|_| !state.ignore_range) {
        None => Answer { status: 200, headers, body: bytes },
        Some(range) => {
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            Answer { status: 206, headers, body: bytes[first..=last].into() }
        }
    }
}

/// As gzip, without making it smaller.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(u16::MAX.into()).peekable();
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        packed.push(blocks.peek().is_none().into());
        packed.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
        packed.extend(block);
    }
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    let crc =
        bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)));
    packed.extend([(!crc).to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat());
    packed
}

/// A proxy that leads to where it is asked, but knows only itself where `hub.invalid` is.
pub struct Proxy {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn new(hub: &FakeHub) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hub = hub.endpoint.strip_prefix("http://").unwrap().to_string();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let log = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (hub, log) = (hub.clone(), log.clone());
                std::thread::spawn(move || tunnel(stream.ok()?, &hub, &log).ok());
            }
        });
        Self { address, heads }
    }

    /// What it was asked since the last call, head by head.
    pub fn heads(&self) -> Vec<String> {
        std::mem::take(&mut self.heads.lock().unwrap())
    }
}

fn tunnel(mut client: TcpStream, hub: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(client.try_clone()?);
    while reader.read_line(&mut head)? > 2 {}
    log.lock().unwrap().push(head.clone());
    let to = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let server = match to {
        Some("hub.invalid:80") => TcpStream::connect(hub),
        Some(to) if to.starts_with("127.0.0.1:") => TcpStream::connect(to),
        _ => return client.write_all(b"HTTP/1.1 502 Nobody There\r\n\r\n"),
    };
    let (mut server, mut back) = (server?, client.try_clone()?);
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let mut answers = server.try_clone()?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        back.shutdown(Shutdown::Both)
    });
    std::io::copy(&mut reader, &mut server)?;
    Ok(())
}
