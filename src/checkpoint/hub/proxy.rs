//! The proxy that the environment names for an address, by the rules of curl.

use super::environment::text;
use crate::error::HubError;
use std::net::IpAddr;
use ureq::Proxy;
use ureq::http::Uri;

/// ureq's own reading takes one proxy for all addresses, and lists no subdomains or networks.
#[derive(Default)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    /// Hosts that are asked directly.
    direct: String,
}

impl Proxies {
    pub(super) fn from_env() -> Result<Self, HubError> {
        Ok(Self {
            http: proxy([["HTTP_PROXY", "http_proxy"], ALL])?,
            https: proxy([["HTTPS_PROXY", "https_proxy"], ALL])?,
            direct: either_case(["NO_PROXY", "no_proxy"])?.unwrap_or_default(),
        })
    }

    pub(super) fn find(&self, uri: &Uri) -> Option<&Proxy> {
        let host = uri.host().unwrap_or_default();
        if self.direct.split(',').any(|entry| covers(entry.trim(), host)) {
            return None;
        }
        if uri.scheme_str() == Some("https") { self.https.as_ref() } else { self.http.as_ref() }
    }
}

/// A variable in either case.
type Names = [&'static str; 2];

const ALL: Names = ["ALL_PROXY", "all_proxy"];

fn proxy(variables: [Names; 2]) -> Result<Option<Proxy>, HubError> {
    for names in variables {
        let Some(value) = either_case(names)? else { continue };
        // The value may hold a password.
        let odd = |_| HubError::Settings(format!("{} is not a proxy's address", names[0]));
        return Proxy::new(&value).map(Some).map_err(odd);
    }
    Ok(None)
}

fn either_case([upper, lower]: Names) -> Result<Option<String>, HubError> {
    Ok(text(upper)?.or(text(lower)?))
}

/// Whether an entry of `NO_PROXY` is this host, a domain or a network that it is in, or `*`.
fn covers(entry: &str, host: &str) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
        return contains(entry, ip);
    }
    let (domain, host) = (entry.trim_start_matches('.').to_lowercase(), host.to_lowercase());
    !domain.is_empty()
        && host.strip_suffix(&domain).is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// Whether a network, `address/bits`, or an address alone contains this address.
fn contains(network: &str, ip: IpAddr) -> bool {
    let (address, bits) = network.split_once('/').unwrap_or((network, "128"));
    let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits.min(128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemptions() {
        for (entry, host) in [
            ("*", "hub.co"),
            ("hub.co", "Hub.co"),
            ("hub.co", "a.hub.co"),
            (".hub.co", "hub.co"),
            (".Hub.co", "a.hub.co"),
            ("127.0.0.1", "127.0.0.1"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("0.0.0.0/0", "10.1.2.3"),
            ("::1", "[::1]"),
            ("fe80::/10", "[fe80::1]"),
        ] {
            assert!(covers(entry, host), "{entry} {host}");
        }
        for (entry, host) in [
            ("", "hub.co"),
            (".", "hub.co"),
            ("hub.co", "github.co"),
            ("a.hub.co", "hub.co"),
            ("127.0.0.1", "127.0.0.2"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("10.0.0.0/x", "10.0.0.0"),
            ("::/0", "10.1.2.3"),
            ("1", "10.0.0.1"),
        ] {
            assert!(!covers(entry, host), "{entry} {host}");
        }
    }
}
