//! Addresses on the web: what they are made of, whose they are, and where a redirect leads.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Uri;

/// A name as one segment of an address.
pub(super) fn segment(name: &str) -> String {
    const RESERVED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(name, RESERVED).to_string()
}

/// A whole address of HTTP.
pub(super) fn parse(address: &str) -> Option<Uri> {
    let uri: Uri = address.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    Some(uri).filter(|uri| known && uri.host().is_some_and(|host| !host.is_empty()))
}

/// Scheme, host and port: who gets to see what is sent there. Without path and query, which may
/// carry a signature.
pub(super) fn origin(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match (scheme, uri.port_u16()) {
        ("http", Some(80)) | ("https", Some(443)) | (_, None) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    }
}

/// Where a `Location` leads from an address.
pub(super) fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    if location.starts_with("//") {
        return parse(&format!("{scheme}:{location}"));
    }
    if location.starts_with('/') {
        return parse(&format!("{scheme}://{authority}{location}"));
    }
    let path = location.split(['?', '#']).next()?;
    if path.contains(':') {
        return parse(location);
    }
    let folder = &from.path()[..=from.path().rfind('/')?];
    parse(&format!("{scheme}://{authority}{folder}{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        assert_eq!(segment("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(segment("v1.0-a_b~c"), "v1.0-a_b~c");
        assert_eq!(segment("50%+ü#?"), "50%25%2B%C3%BC%23%3F");
    }

    #[test]
    fn addresses() {
        for address in ["https://hub.co", "http://127.0.0.1:80/hf", "HTTPS://hub.co/a?b"] {
            assert!(parse(address).is_some(), "{address}");
        }
        for address in ["", "hub.co", "/a", "ftp://hub.co", "https://", "https:///a", "http://a b"]
        {
            assert!(parse(address).is_none(), "{address}");
        }
    }

    #[test]
    fn origins() {
        let origin = |address: &str| origin(&parse(address).unwrap());
        assert_eq!(origin("https://Hub.co:443/a?Signature=secret"), "https://hub.co");
        assert_eq!(origin("https://user:secret@hub.co/a"), "https://hub.co");
        let others =
            ["http://hub.co", "https://hub.co:8443", "https://hub.com", "https://a.hub.co"];
        for other in others {
            assert_ne!(origin(other), origin("https://hub.co"));
        }
    }

    #[test]
    fn redirects() {
        let from = parse("https://hub.co:1/a/b?c").unwrap();
        for (location, to) in [
            ("https://cdn.co/x?y=http://z", "https://cdn.co/x?y=http://z"),
            ("//cdn.co/x", "https://cdn.co/x"),
            ("/x?y=http://z", "https://hub.co:1/x?y=http://z"),
            ("x?y=z:1", "https://hub.co:1/a/x?y=z:1"),
        ] {
            assert_eq!(follow(&from, location), parse(to), "{location}");
            assert!(parse(to).is_some());
        }
        for location in ["file:///etc/passwd", "javascript:x", "https://", "/a b"] {
            assert_eq!(follow(&from, location), None, "{location}");
        }
    }
}
