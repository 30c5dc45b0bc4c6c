//! A server on loopback that says what a test wants.
#![allow(dead_code, reason = "not every test takes all of it")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub key: Option<String>,
    pub body: Value,
}

type Log = Arc<Mutex<Vec<Request>>>;

/// Status and body.
pub type Answer = (u16, String);

/// A server on loopback that answers by a function of path and body.
pub struct Fake {
    pub url: String,
    log: Log,
}

impl Fake {
    pub fn new(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        Self::raw(move |stream, path, body| {
            let (status, body) = answer(path, body);
            let head = format!(
                "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat());
        })
    }

    pub fn raw(answer: impl Fn(&mut TcpStream, &str, &Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Log::default();
        let (answer, seen) = (Arc::new(answer), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, seen) = (answer.clone(), seen.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.ok()?;
                    let request = read_request(&stream).ok()?;
                    seen.lock().unwrap().push(request.clone());
                    let path = request.line.split(' ').nth(1)?.to_string();
                    answer(&mut stream, &path, &request.body);
                    Some(())
                });
            }
        });
        Self { url, log }
    }

    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut len, mut key) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => len = value.parse().unwrap(),
            "authorization" => key = Some(value.to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Request { line: line.trim().into(), key, body })
}
