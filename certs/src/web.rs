//! Certificates for HTTPS: the names that the cluster's authority may speak for, and the certificates themselves.
//!
//! Clients over HTTPS put the authority into their list of those that they trust. So that this can never be turned
//! against them, it may speak for private names and addresses alone. For names the rule is kept twice: whoever has the key
//! signs no other, and the authority's own certificate says so (name constraints), which clients check.

mod certificate;

use std::{fmt, net::IpAddr, str::FromStr};

pub use certificate::WebCertificate;

/// Domains of names that no public name server knows: each is reserved for local use, or withheld from the public root
/// for good because so many use it. `localhost` is a name itself; of the others, names below them. Not `internal`, where
/// the names of all clusters' members are: what cannot be told apart by name constraints is left alone.
pub(crate) const DOMAINS: [&str; 7] = ["localhost", "local", "lan", "home.arpa", "home", "corp", "intranet"];

/// Where the names are that members have for each other. Whoever could have a certificate for one of these would be taken
/// for the authority's machine by joiners.
const MEMBERS_DOMAIN: &str = "internal";

/// Addresses that routers on the internet do not carry: private, loopback, link-local.
pub(crate) const NETWORKS: [(IpAddr, u8); 8] = [
    (v4(10, 0), 8),
    (v4(172, 16), 12),
    (v4(192, 168), 16),
    (v4(127, 0), 8),
    (v4(169, 254), 16),
    (IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128),
    (IpAddr::V6(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

const fn v4(first: u8, second: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(first, second, 0, 0))
}

/// Longest DNS name, and longest of its labels, in characters: DNS's own limits.
const NAME_CHARS_MAX: usize = 253;
const LABEL_CHARS_MAX: usize = 63;

/// A name in a certificate for HTTPS: one that the authority may speak for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WebName {
    /// An address of a private network, of this machine, or of its link.
    Address(IpAddr),
    /// `localhost`, or a name below a private domain; lower case.
    Dns(String),
}

/// A text that is no name which the authority speaks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot be in a certificate of the cluster: {reason}; use addresses of private networks, localhost, or names \
     under .local, .lan, .home.arpa, .home, .corp or .intranet"
)]
pub struct InvalidWebName {
    name: String,
    reason: &'static str,
}

impl FromStr for WebName {
    type Err = InvalidWebName;

    fn from_str(text: &str) -> Result<Self, InvalidWebName> {
        let text = text.trim();
        let refused = |reason| InvalidWebName { name: text.chars().take(80).collect(), reason };
        if let Ok(address) = text.parse() {
            return match is_private(address) {
                true => Ok(Self::Address(address)),
                false => Err(refused("it is a public address")),
            };
        }
        let name = text.to_ascii_lowercase();
        if !is_dns(&name) {
            return Err(refused("it is neither an IP address nor a DNS name"));
        }
        if is_below(&name, MEMBERS_DOMAIN) {
            return Err(refused("names under .internal are those of members for each other"));
        }
        if !name.contains('.') && name != "localhost" {
            // Name constraints know domains and what is below them: one that allowed this would allow all names.
            return Err(refused("a name of one word cannot be told from a public one; add .local, say"));
        }
        match DOMAINS.iter().any(|domain| is_below(&name, domain)) && !is_only_a_domain(&name) {
            true => Ok(Self::Dns(name)),
            false => Err(refused("it is a public name")),
        }
    }
}

impl WebName {
    /// Whether every machine means itself by it.
    pub(crate) fn is_own_machine(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            Self::Dns(name) => is_below(name, "localhost"),
        }
    }
}

impl fmt::Display for WebName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Dns(name) => f.write_str(name),
        }
    }
}

/// Whether a name is a domain or one below it.
pub(crate) fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

fn is_only_a_domain(name: &str) -> bool {
    name != "localhost" && DOMAINS.contains(&name)
}

fn is_dns(name: &str) -> bool {
    let is_label = |label: &str| {
        let legal = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=LABEL_CHARS_MAX).contains(&label.len())
            && legal
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= NAME_CHARS_MAX && name.split('.').all(is_label)
}

fn is_private(address: IpAddr) -> bool {
    NETWORKS.iter().any(|(network, prefix)| bits(*network, *prefix) == bits(address, *prefix))
}

/// The first bits of an address, with what kind it is: networks of the other kind are never the same.
fn bits(address: IpAddr, prefix: u8) -> (bool, u128) {
    let of = |value: u128, width: u32| value.checked_shr(width - u32::from(prefix).min(width)).unwrap_or(0);
    match address {
        IpAddr::V4(v4) => (false, of(u128::from(u32::from(v4)), 32)),
        IpAddr::V6(v6) => (true, of(u128::from(v6), 128)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_names_and_addresses_are_taken() {
        for name in [
            "localhost",
            "press-1.local",
            "Press-1.LOCAL",
            "a.b.corp",
            "door.plant2.lan",
            "x.home.arpa",
            "10.0.0.7",
            "172.31.255.255",
            "192.168.1.20",
            "127.0.0.1",
            "169.254.9.9",
            "::1",
            "fd00::7",
            "fe80::1",
        ] {
            let read: WebName = name.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(read.to_string(), name.to_ascii_lowercase());
        }
    }

    #[test]
    fn the_authority_never_speaks_for_anything_public_or_for_members() {
        for name in [
            "",
            "press-1",
            "example.org",
            "press.example.org",
            "notlocal",
            "xlocal.lan2",
            "evil-local",
            "local",
            "home.arpa",
            "*.local",
            ".local",
            "a..local",
            "-a.local",
            "a-.local",
            "a_b.local",
            "press.local.",
            "pr\u{e9}ss.local",
            "member.c1c1.lineside.internal",
            "lineside.internal",
            "door.internal",
            "X.LINESIDE.INTERNAL",
            "8.8.8.8",
            "172.32.0.1",
            "192.169.0.1",
            "0.0.0.0",
            "::",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "ff02::1",
            "10.0.0.0/8",
            "localhost\0.example.org",
        ] {
            assert!(name.parse::<WebName>().is_err(), "{name:?} was taken");
        }
        assert!(format!("{}.local", "x".repeat(64)).parse::<WebName>().is_err());
        assert!(format!("{}local", "x.".repeat(130)).parse::<WebName>().is_err());
    }

    #[test]
    fn a_long_name_is_not_repeated_in_full() {
        assert!("x".repeat(10_000).parse::<WebName>().unwrap_err().to_string().len() < 500);
    }
}
