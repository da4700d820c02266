//! Web pages that ask the door to work: which may. Pure.
//!
//! A browser on the line's network sends what any page tells it to send, also to this door: forms, bodies of plain text
//! and WebSockets need nobody's leave. It says where the page is from, in headers that no page can change; programs
//! send none of them, and are not asked. Two kinds of pages are refused:
//!
//! * one of another host;
//! * one whose own name leads to the door, because its owner says so (DNS rebinding): there `Origin` and `Host` agree.
//!   Names that only the network itself gives cannot be taken so, and with HTTPS a certificate proves the name.

use http::{HeaderMap, HeaderName, header, request::Parts, uri::Authority};
use lineside_certs::WebName;
use lineside_wire::{Fault, FaultCode};

/// How browsers say whether a page is of the host that it asks, over HTTPS and to `localhost`.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks where the page is from that sends this request; `allowed` are hosts whose pages may send any.
///
/// # Errors
/// 403: the page may not.
pub(crate) fn check(head: &Parts, allowed: &[String]) -> Result<(), Fault> {
    let Some(origin) = head.headers.get(header::ORIGIN) else {
        return match head.headers.get(FETCH_SITE) {
            Some(site) if site.as_bytes() == b"cross-site" => Err(refused("a page of another host")),
            _ => Ok(()),
        };
    };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let Some((scheme, page)) = origin.and_then(|(scheme, rest)| Some((scheme, host(rest)?))) else {
        return Err(refused("a page that does not say where it is from"));
    };
    if allowed.iter().any(|host| host.eq_ignore_ascii_case(&page)) {
        return Ok(());
    }
    if own(head).is_none_or(|own| own != page) {
        return Err(refused("a page of another host"));
    }
    match scheme == "https" || is_of_the_network(&page) {
        true => Ok(()),
        false => Err(refused("a page whose name anybody could have made to lead here")),
    }
}

fn refused(what: &str) -> Fault {
    let text = format!(
        "{what} may not ask this door to work: if you trust it, list the host of its Origin in gateway.allowed_origins"
    );
    Fault::new(FaultCode::PermissionDenied, text)
}

/// The host that a request is for: HTTP/2 says it in the URI.
fn own(head: &Parts) -> Option<String> {
    let named = |headers: &HeaderMap| host(headers.get(header::HOST)?.to_str().ok()?);
    named(&head.headers).or_else(|| host(head.uri.authority()?.as_str()))
}

/// The host without port, in the one way of writing it: small letters, no dot at the end, no brackets.
fn host(authority: &str) -> Option<String> {
    let authority = Authority::try_from(authority).ok()?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// Whether nobody outside the network could have made this name lead here: an address, a name without a dot, or one
/// under a domain that no public name server knows.
fn is_of_the_network(host: &str) -> bool {
    !host.contains('.')
        || host.parse::<std::net::IpAddr>().is_ok()
        || host.ends_with(".localhost")
        || host.parse::<WebName>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(headers: &[(&'static str, &str)], allowed: &[&str]) -> Option<String> {
        let mut request = http::Request::builder().method("POST").uri("/rpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).expect("a request").into_parts().0;
        let allowed: Vec<_> = allowed.iter().map(|host| (*host).to_owned()).collect();
        check(&head, &allowed).err().map(|fault| fault.message)
    }

    fn from(origin: &str, host: &str) -> Option<String> {
        words(&[("origin", origin), ("host", host)], &[])
    }

    #[test]
    fn programs_are_not_asked() {
        assert_eq!(words(&[("host", "press.example.com:8080"), ("content-type", "text/plain")], &[]), None);
        for site in ["same-origin", "same-site", "none"] {
            assert_eq!(
                words(&[("host", "press.example.com"), ("sec-fetch-site", site)], &[]),
                None,
                "{site}"
            );
        }
    }

    #[test]
    fn a_page_of_the_door_itself_may_and_no_other() {
        for (origin, host) in [
            ("http://press:8080", "press:8080"),
            ("http://press:3000", "press:8080"),
            ("https://PRESS", "press:8443"),
            ("http://press.local.", "press.local:8080"),
            ("http://localhost:8080", "localhost:8080"),
            ("http://192.168.1.20:8080", "192.168.1.20:8080"),
            ("http://[fd00::1]:80", "[fd00::1]:8080"),
        ] {
            assert_eq!(from(origin, host), None, "{origin}");
        }
        for origin in
            ["http://evil.example", "http://press.evil.example", "http://localhost", "https://10.0.0.7"]
        {
            let words = from(origin, "press:8080").unwrap_or_default();
            assert!(words.starts_with("a page of another host"), "{origin}: {words}");
        }
        for origin in ["null", "", "press:8080", "http://", "http://[", "file://"] {
            let words = from(origin, "press:8080").unwrap_or_default();
            assert!(words.starts_with("a page that does not say"), "{origin}: {words}");
        }
        let words = words(&[("host", "press"), ("sec-fetch-site", "cross-site")], &[]).unwrap_or_default();
        assert!(words.starts_with("a page of another host"), "{words}");
    }

    #[test]
    fn a_name_that_anybody_could_make_lead_here_is_taken_with_https_or_when_it_is_allowed() {
        let words_of = |origin: &str, host: &str| from(origin, host).unwrap_or_default();
        for host in ["evil.example:8080", "localhost.evil.example:8080", "local.", "10.0.0.7.evil.example"] {
            let words = words_of(&format!("http://{host}"), host);
            assert_eq!(words.starts_with("a page whose name"), host != "local.", "{host}: {words}");
        }
        for host in ["press.plant.lan", "press.home.arpa", "a.localhost", "press.corp"] {
            assert_eq!(from(&format!("http://{host}:8080"), host), None, "{host}");
        }
        assert_eq!(from("https://press.example.com", "press.example.com"), None);
        let own = [("origin", "http://press.example.com:8080"), ("host", "press.example.com:8080")];
        assert!(words(&own, &[]).is_some() && words(&own, &["other", "Press.Example.com"]).is_none());
        let other = [("origin", "http://panel.example.com"), ("host", "press")];
        assert!(words(&other, &["panel.example.com"]).is_none());
        assert!(words(&other, &["example.com"]).is_some());
    }
}
