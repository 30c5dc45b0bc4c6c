//! Requests over HTTP: through proxies and redirects, with a token that nobody but the hub sees.

use super::address::{follow, origin};
use super::proxy::Proxies;
use crate::error::HubError;
use std::ops::Range;
use std::time::Duration;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use ureq::http::{Request, Response, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, Body, ResponseExt};

/// How long nothing may arrive before a connection counts as broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;
/// What is read of an answer that is not wanted.
const MAX_REFUSAL: u64 = 1 << 16;

pub(super) struct Http {
    agent: Agent,
    proxies: Proxies,
    patience: Duration,
    /// Whose the token is.
    hub: String,
    token: Option<HeaderValue>,
}

/// What is asked for.
pub(super) enum Ask {
    /// A short answer.
    Get,
    /// A short answer to some JSON.
    Post(String),
    /// What is said of a file, without it.
    Head,
    /// A file, or some bytes of it.
    File(Option<Range<u64>>),
}

impl Http {
    /// For a hub at an address.
    pub(super) fn new(hub: &Uri, token: Option<HeaderValue>) -> Result<Self, HubError> {
        Ok(Self::patient(hub, token, Proxies::from_env()?, PATIENCE))
    }

    pub(super) fn patient(
        hub: &Uri,
        token: Option<HeaderValue>,
        proxies: Proxies,
        patience: Duration,
    ) -> Self {
        let roots = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .user_agent(concat!("gemma-mlp/", env!("CARGO_PKG_VERSION")))
            // Sizes, ranges and checksums are of the bytes as they are.
            .accept_encoding("identity")
            .tls_config(roots)
            // Every request brings its own.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_resolve(Some(patience.min(PATIENCE)))
            .timeout_connect(Some(patience.min(PATIENCE)))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience))
            .build()
            .new_agent();
        Self { agent, proxies, patience, hub: origin(hub), token }
    }

    /// The answer of whoever the redirects lead to. `see` is shown theirs, too, and says whether
    /// to follow.
    pub(super) fn send(
        &self,
        uri: &Uri,
        ask: &Ask,
        see: &mut dyn FnMut(&Response<Body>) -> bool,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut uri = uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut response = self.send_once(&uri, ask)?;
            if !see(&response) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION);
            let Some(location) = location.filter(|_| response.status().is_redirection()) else {
                return Ok(response);
            };
            let to = location.to_str().ok().and_then(|location| follow(&uri, location));
            uri = to.ok_or(ureq::Error::RedirectFailed)?;
            // Read to its end, a connection serves again.
            refusal(&mut response);
        }
        Err(ureq::Error::TooManyRedirects)
    }

    fn send_once(&self, uri: &Uri, ask: &Ask) -> Result<Response<Body>, ureq::Error> {
        let mut request = Request::get(uri);
        if let Some(token) = self.token.as_ref().filter(|_| origin(uri) == self.hub) {
            request = request.header(AUTHORIZATION, token);
        }
        match ask {
            Ask::Get => self.run(request.body(())?, uri, Some(self.patience)),
            Ask::Post(json) => {
                let request = request.method("POST").header(CONTENT_TYPE, "application/json");
                self.run(request.body(json)?, uri, Some(self.patience))
            }
            Ask::Head => self.run(request.method("HEAD").body(())?, uri, Some(self.patience)),
            Ask::File(None) => self.run(request.body(())?, uri, None),
            Ask::File(Some(range)) => {
                let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
                self.run(request.header(RANGE, range).body(())?, uri, None)
            }
        }
    }

    /// `limit` is the time that all of it may take.
    fn run(
        &self,
        request: Request<impl AsSendBody>,
        uri: &Uri,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        let proxy = self.proxies.find(uri).cloned();
        self.agent.run(request.proxy(proxy).timeout_global(limit).build())
    }

    /// Whether it is the hub that answers, and not whom it has redirected to.
    pub(super) fn is_of_hub(&self, response: &Response<Body>) -> bool {
        origin(response.get_uri()) == self.hub
    }
}

/// The beginning of an answer that is not wanted, such as an error page.
pub(super) fn refusal(response: &mut Response<Body>) -> String {
    let body = response.body_mut().with_config().limit(MAX_REFUSAL).lossy_utf8(true);
    body.read_to_string().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::address::parse;
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use ureq::{Error, Timeout};

    const SHORT: Duration = Duration::from_millis(600);

    /// Asks a server that answers in its own way.
    fn ask(answer: fn(&mut TcpStream), ask: &Ask) -> Result<Vec<u8>, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(&stream).lines();
            lines.take_while(|line| !line.as_ref().unwrap().is_empty()).for_each(drop);
            answer(&mut stream);
            // Until the client is gone.
            let _ = stream.read_to_end(&mut vec![]);
        });
        let http = Http::patient(&uri, None, Proxies::default(), SHORT);
        let mut bytes = vec![];
        http.send(&uri, ask, &mut |_| true)?.body_mut().as_reader().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn begin(stream: &mut TcpStream) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    }

    /// Ten bytes in twice the time that is waited for one.
    fn trickle(stream: &mut TcpStream) {
        begin(stream);
        for _ in 0..10 {
            thread::sleep(SHORT / 5);
            let _ = stream.write_all(b"x");
        }
    }

    #[test]
    fn silence_breaks_a_connection() {
        let file = [Ask::File(None), Ask::File(Some(0..10))];
        for question in [Ask::Get, Ask::Post("{}".into())].into_iter().chain(file) {
            for answer in [|_: &mut TcpStream| {}, begin] {
                let error = ask(answer, &question).unwrap_err();
                assert!(matches!(error, Error::Timeout(_)), "{error}");
            }
        }
    }

    #[test]
    fn a_file_may_take_long() {
        assert_eq!(ask(trickle, &Ask::File(None)).unwrap(), [b'x'; 10]);
        let error = ask(trickle, &Ask::Get).unwrap_err();
        assert!(matches!(error, Error::Timeout(Timeout::Global)), "{error}");
    }
}
