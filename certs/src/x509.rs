//! Reads X.509: the one place that knows how a certificate is laid out.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::ParsedExtension,
    prelude::{FromDer, GeneralName, X509Certificate},
    time::ASN1Time,
    x509::X509Name,
};

use crate::{
    PeerIdentityError,
    web::{WebName, is_below},
};

/// What a certificate says. Nothing is judged here: not who signed it, not whether it is still valid.
pub(crate) struct Facts {
    /// The common name of the holder; empty when there is none.
    pub(crate) subject: String,
    /// The common name of the signer; empty when there is none.
    pub(crate) issuer: String,
    /// Lower-case hexadecimal.
    pub(crate) serial: String,
    /// The URI names, in the certificate's order.
    pub(crate) uris: Vec<String>,
    /// Whether it may sign others.
    pub(crate) is_authority: bool,
    /// Seconds since 1970.
    pub(crate) not_before: u64,
    /// Seconds since 1970.
    pub(crate) not_after: u64,
    /// The bytes of the public key.
    pub(crate) public_key: Vec<u8>,
    /// SHA-256 of the whole SPKI: what a token says of an authority.
    pub(crate) spki_sha256: [u8; 32],
    /// Whether holder and signer have one name: an authority's own certificate, not one that another signed
    /// for it.
    pub(crate) is_self_issued: bool,
}

impl Facts {
    /// Reads one certificate, and nothing behind it.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, PeerIdentityError> {
        let unreadable = |error: String| PeerIdentityError::Unreadable(error);
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable(format!("{} bytes follow it", rest.len())));
        }
        let names = parsed.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
        let uris = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
            .collect();
        Ok(Self {
            subject: common_name(parsed.subject()),
            issuer: common_name(parsed.issuer()),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            uris,
            is_authority: parsed.is_ca(),
            not_before: seconds(parsed.validity().not_before),
            not_after: seconds(parsed.validity().not_after),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            spki_sha256: sha256(parsed.public_key().raw),
            is_self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
        })
    }

    /// The URI name, when there is exactly one.
    pub(crate) fn only_uri(&self) -> Result<&str, PeerIdentityError> {
        match &self.uris[..] {
            [uri] => Ok(uri),
            other => Err(PeerIdentityError::UriCount(other.len())),
        }
    }
}

/// The names of a certificate for HTTPS. Those that the authority never gives are left out.
pub(crate) fn web_names(certificate: &CertificateDer<'_>) -> Result<Vec<WebName>, PeerIdentityError> {
    let unreadable = |error: String| PeerIdentityError::Unreadable(error);
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| unreadable(error.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        GeneralName::IPAddress(bytes) => address(bytes)?.to_string().parse().ok(),
        _ => None,
    });
    Ok(names.collect())
}

/// Whether an authority may speak for a name, by its own certificate. One that says nothing of names of that kind may.
pub(crate) fn permits(authority: &CertificateDer<'_>, name: &WebName) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(authority) else { return false };
    let constraints = parsed.extensions().iter().find_map(|one| match one.parsed_extension() {
        ParsedExtension::NameConstraints(constraints) => Some(constraints),
        _ => None,
    });
    let permitted = constraints.and_then(|constraints| constraints.permitted_subtrees.as_ref());
    let mut of_kind = permitted.into_iter().flatten().filter_map(|subtree| match (&subtree.base, name) {
        (GeneralName::DNSName(domain), WebName::Dns(name)) => Some(is_below(name, domain)),
        (GeneralName::IPAddress(network), WebName::Address(address)) => Some(holds(network, *address)),
        _ => None,
    });
    match of_kind.next() {
        None => true,
        Some(first) => first || of_kind.any(|permitted| permitted),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

/// Whether a network (an address and a mask of the same length) holds an address.
fn holds(network: &[u8], address: IpAddr) -> bool {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let Some((base, mask)) = network.split_at_checked(bytes.len()) else { return false };
    base.len() == mask.len()
        && bytes.iter().zip(base).zip(mask).all(|((byte, base), mask)| byte & mask == base & mask)
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn common_name(name: &X509Name<'_>) -> String {
    name.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or("").to_owned()
}

/// A moment before 1970 counts as 1970.
fn seconds(at: ASN1Time) -> u64 {
    u64::try_from(at.timestamp()).unwrap_or(0)
}

/// The moment, of X.509's resolution.
pub(crate) fn since_1970(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A moment as people read it, in UTC: `2026-11-24 10:07 UTC`.
pub(crate) fn readable(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let Some(at) = i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
    else {
        return format!("{seconds} s after 1970");
    };
    let at = at.to_datetime();
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", at.hour(), at.minute())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CidrSubnet, GeneralSubtree, IsCa, KeyPair, NameConstraints,
    };

    use super::*;

    /// An authority that may speak for these alone.
    fn authority(permitted: Vec<GeneralSubtree>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: Vec::new() });
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn an_authority_from_before_https_may_speak_for_addresses_and_for_no_name() {
        let name = |text: &str| text.parse::<WebName>().unwrap();
        let older = authority(vec![GeneralSubtree::DnsName("c1c1.lineside.internal".to_owned())]);
        assert!(!permits(&older, &name("press.local")) && permits(&older, &name("10.0.0.7")));
        let network = CidrSubnet::from_addr_prefix([10, 0, 0, 0].into(), 8);
        let newer = vec![GeneralSubtree::DnsName("local".to_owned()), GeneralSubtree::IpAddress(network)];
        let newer = authority(newer);
        for (text, may) in [
            ("press.local", true),
            ("press.lan", false),
            ("10.255.0.1", true),
            ("192.168.1.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(permits(&newer, &name(text)), may, "{text}");
        }
        assert!(!permits(&CertificateDer::from(vec![1, 2, 3]), &name("press.local")));
    }

    #[test]
    fn a_moment_reads_as_a_date_in_utc() {
        assert_eq!(readable(SystemTime::UNIX_EPOCH), "1970-01-01 00:00 UTC");
        assert_eq!(readable(since_1970(1_795_514_820)), "2026-11-24 10:07 UTC");
        let far_away = since_1970(i64::MAX as u64);
        assert!(readable(far_away).contains("1970"), "{}", readable(far_away));
    }
}
