//! Who a client is when a proxy stands before the door.

use std::{net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderName};

/// Where proxies write for whom they ask, the nearest to us last.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Addresses in `X-Forwarded-For` that are looked at, from the last on: no plant has so many proxies in a row, and
/// what a client writes itself stands before them.
const HOPS_MAX: usize = 16;

/// Addresses with the same first bits, written `10.0.0.0/8`; without a length it is one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write an address such as 10.0.0.7, or a network such as 10.0.0.0/8")]
pub struct InvalidNetwork(String);

impl Network {
    /// Whether an address belongs to it. An IPv4 address is the same however it is written.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differs = own.to_bits() ^ other.to_bits();
                differs.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differs = own.to_bits() ^ other.to_bits();
                differs.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        read(text).ok_or_else(|| InvalidNetwork(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Network> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let written: IpAddr = address.parse().ok()?;
    let bits: u8 = if written.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None => bits,
    };
    if bits < prefix {
        return None;
    }
    let address = written.to_canonical();
    // An IPv4 address within IPv6 has 96 bits before it.
    let prefix = match address.is_ipv4() && written.is_ipv6() {
        true => prefix.checked_sub(96)?,
        false => prefix,
    };
    Some(Network { address, prefix })
}

/// The address of the client: the peer itself unless it is a trusted proxy, else the last address in
/// `X-Forwarded-For` that is no trusted proxy.
///
/// What cannot be read there ends the search: nothing before it was written by anybody who is trusted, and the proxy
/// that passed it on is then the client.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    let mut known = peer;
    if !is_trusted(peer) {
        return known;
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for entry in entries.take(HOPS_MAX) {
        let Some(address) = hop(entry) else { return known };
        known = address;
        if !is_trusted(address) {
            return known;
        }
    }
    known
}

/// One address, with or without a port.
fn hop(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address: Option<IpAddr> = text.parse().ok().or_else(with_port).or_else(in_brackets);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn seen(peer: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        client(peer.parse().unwrap(), &headers, &networks(trusted)).to_string()
    }

    #[test]
    fn a_network_holds_the_addresses_with_its_first_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::ffff:11.1.1.1"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.6"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.9.9.9"),
            ("0.0.0.0/0", "203.0.113.9", "fd00::1"),
            ("fd00:1::/32", "fd00:1:ffff::9", "fd00:2::"),
            ("::/0", "fd00::1", "10.0.0.1"),
            ("fd00::1", "fd00::1", "fd00::2"),
            ("10.0.0.192/26", "10.0.0.255", "10.0.0.191"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
    }

    #[test]
    fn what_names_no_network_is_refused_with_an_example() {
        for wrong in
            ["", "line", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "fd00::/129", "10.0.0/8"]
        {
            let error = wrong.parse::<Network>().unwrap_err();
            assert!(error.to_string().contains("10.0.0.0/8"), "{wrong}");
        }
        assert!("::ffff:10.0.0.0/95".parse::<Network>().is_err());
    }

    #[test]
    fn only_a_trusted_proxy_says_who_asks() {
        let trusted = &["10.0.0.0/8", "fd00::/16"];
        assert_eq!(seen("192.0.2.1", &["203.0.113.9"], trusted), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9"], trusted), "203.0.113.9");
        assert_eq!(seen("::ffff:10.0.0.1", &["203.0.113.9"], trusted), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &[], trusted), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9"], &[]), "10.0.0.1");
        // What the client itself wrote stands before what the proxies wrote.
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], trusted), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.0.0.2"], trusted), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &["[2001:db8::1]:4711"], trusted), "2001:db8::1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9:4711, fd00::1, [fd00::2]"], trusted), "203.0.113.9");
    }

    #[test]
    fn what_cannot_be_read_makes_nobody_someone_else() {
        let trusted = &["10.0.0.0/8"];
        for garbage in ["unknown", "1.1.1.1, nobody", "1.1.1.1,", "1.1.1.1 2.2.2.2", "\"1.1.1.1\""] {
            assert_eq!(seen("10.0.0.1", &[garbage], trusted), "10.0.0.1", "{garbage}");
        }
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, _hidden, 10.0.0.2"], trusted), "10.0.0.2");
        let long = format!("1.1.1.1{}", ", 10.0.0.2".repeat(HOPS_MAX));
        assert_eq!(seen("10.0.0.1", &[&long], trusted), "10.0.0.2");
    }

    proptest! {
        #[test]
        fn no_header_panics(line in "[ -~]{0,200}") {
            seen("10.0.0.1", &[&line], &["10.0.0.0/8", "::/0"]);
        }
    }
}
