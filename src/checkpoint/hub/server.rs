//! Requests to a server that is no hub, by the same proxies and certificates. Redirects are shown and
//! not followed.

use super::address::parse;
use super::failure::{plain, reason, text};
use super::http::{Ask, Http};
use super::proxy::Proxies;
use super::reference::shown;
use std::io::Read;
use std::time::Duration;
use ureq::http::Uri;
use ureq::http::header::HeaderValue;
use ureq::{Body, Error};

/// A server at an address.
pub struct Server {
    http: Http,
    address: String,
    patience: Duration,
}

/// What a server answers.
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// Where it says to ask instead, as far as that is fit to be shown.
    pub location: Option<String>,
    /// Reading it fails beyond the limit.
    pub body: Box<dyn Read>,
}

impl Server {
    /// For an address such as `http://127.0.0.1:8000`. `key` is sent with every request; `patience` is
    /// how long an answer may take.
    ///
    /// # Errors
    /// No such address, no such key, a proxy that is none: what is wrong, in a line.
    pub fn new(address: &str, key: Option<&str>, patience: Duration) -> Result<Self, String> {
        let address = address.trim().trim_end_matches('/');
        let uri = parse(address).filter(|uri| uri.query().is_none());
        let uri = uri.ok_or("not the address of a server, as http://127.0.0.1:8000 is")?;
        let bearer = |key: &str| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| "the key has characters that no key has")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let key = key.map(str::trim).filter(|key| !key.is_empty()).map(bearer).transpose()?;
        let proxies = Proxies::from_env().map_err(|error| error.to_string())?;
        let http = Http::patient(&uri, key, proxies, patience);
        Ok(Self { http, address: address.into(), patience })
    }

    /// Its address without what may be secret, for messages.
    pub fn name(&self) -> String {
        shown(&self.address)
    }

    /// What it has at a path, of at most `limit` bytes.
    ///
    /// # Errors
    /// No answer: why, in a line.
    pub fn get(&self, path: &str, limit: u64) -> Result<Answer, String> {
        self.ask(path, &Ask::Get, limit)
    }

    /// What it answers at a path to some JSON, of at most `limit` bytes.
    ///
    /// # Errors
    /// No answer: why, in a line.
    pub fn post(&self, path: &str, json: String, limit: u64) -> Result<Answer, String> {
        self.ask(path, &Ask::Post(json), limit)
    }

    fn ask(&self, path: &str, ask: &Ask, limit: u64) -> Result<Answer, String> {
        let uri: Uri = format!("{}{path}", self.address)
            .parse()
            .map_err(|_| format!("{path} cannot be put behind the address"))?;
        let response = self.http.send(&uri, ask, &mut |_| false).map_err(|error| match error {
            Error::Timeout(_) => format!("no answer within {} s", self.patience.as_secs()),
            error => reason(&error),
        })?;
        let location = text(&response, "Location").map(|to| plain(&shown(to)));
        let status = response.status().as_u16();
        let body: Body = response.into_body();
        let body = Box::new(body.into_with_config().limit(limit).reader());
        Ok(Answer { status, location, body })
    }
}
