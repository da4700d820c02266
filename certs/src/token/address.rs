//! Where to join: an address as a token can have it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::TOKEN_PORT;

/// Longest host name, in bytes: DNS's own limit.
pub(super) const HOST_BYTES_MAX: usize = 253;
/// Longest part of a host name between two dots.
const LABEL_BYTES_MAX: usize = 63;

/// Gives the address's one spelling, with the port; the error says what is wrong with it.
pub(super) fn canonical(text: &str) -> Result<String, &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the ']' is missing")?;
        if host.contains('%') {
            return Err("an address with an interface is another machine's on every machine");
        }
        let host: Ipv6Addr = host.parse().map_err(|_| "between [ and ] belongs an IPv6 address")?;
        if host.is_unspecified() {
            return Err(UNSPECIFIED);
        }
        return match rest {
            "" => Ok(format!("[{host}]:{TOKEN_PORT}")),
            rest => {
                Ok(format!("[{host}]:{}", port(rest.strip_prefix(':').ok_or("behind ] belongs :PORT")?)?))
            }
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => return Err("an IPv6 address stands between [ and ]"),
        Some((host, rest)) => (host, port(rest)?),
        None => (text, TOKEN_PORT),
    };
    check_host(host)?;
    Ok(format!("{host}:{port}"))
}

const UNSPECIFIED: &str = "nobody can be reached at the unspecified address";

fn port(text: &str) -> Result<u16, &'static str> {
    let port = text.parse().ok().filter(|port: &u16| *port != 0 && port.to_string() == text);
    port.ok_or("a port is a number from 1 to 65535")
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if let Ok(host) = host.parse::<Ipv4Addr>() {
        return if host.is_unspecified() { Err(UNSPECIFIED) } else { Ok(()) };
    }
    if host.is_empty() {
        return Err("the host is missing");
    }
    if HOST_BYTES_MAX < host.len() {
        return Err("the host's name is too long");
    }
    let legal = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !host.split('.').all(legal) {
        return Err("a host's name has letters, digits, '-', '_', and single dots between them");
    }
    // What ends in digits is meant as an IPv4 address, and resolvers guess which: 10.1 is 10.0.0.1 for some.
    match host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        true => Err("an IPv4 address has four numbers from 0 to 255"),
        false => Ok(()),
    }
}
