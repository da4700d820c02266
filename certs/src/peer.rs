//! Who a certificate says its holder is.

use std::time::{Duration, SystemTime};

use lineside_wire::{ClusterId, NodeId, Role};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The holder of a certificate: proven when it comes from a completed handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// What it may be.
    pub role: Role,
    /// Its name for people.
    pub name: String,
    /// When its certificate ends.
    pub not_after: SystemTime,
}

/// Why a certificate names no member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// There is none.
    #[error("there is no certificate")]
    NoCertificate,
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// It has none or several URI names.
    #[error("the certificate has {0} URI names; a member's has exactly one")]
    UriCount(usize),
    /// Its URI is no member's.
    #[error("{0:?} is no member's name; it reads spiffe://<cluster id>/<role>/<node id>")]
    NotAMember(String),
}

/// The name of a member in its certificate.
pub(crate) fn member_uri(cluster: ClusterId, role: Role, node: NodeId) -> String {
    format!("spiffe://{cluster}/{role}/{node}")
}

/// Reads a member's name: exactly one spelling is taken.
///
/// # Errors
/// Anything else.
pub fn parse_member_uri(uri: &str) -> Result<(ClusterId, Role, NodeId), PeerIdentityError> {
    let parsed = (|| {
        let mut parts = uri.strip_prefix("spiffe://")?.split('/');
        let cluster = parts.next()?.parse().ok()?;
        let role = parts.next()?.parse().ok()?;
        let node = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some((cluster, role, node))
    })();
    parsed.ok_or_else(|| PeerIdentityError::NotAMember(uri.chars().take(120).collect()))
}

/// Reads who the holder of a chain's leaf is. Says nothing about who signed it: the handshake has checked that.
///
/// # Errors
/// The certificate names no member.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerIdentityError> {
    let leaf = chain.first().ok_or(PeerIdentityError::NoCertificate)?;
    let unreadable = |error: String| PeerIdentityError::Unreadable(error);
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| unreadable(error.to_string()))?;
    let names = certificate.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else { return Err(PeerIdentityError::UriCount(uris.len())) };
    let (cluster, role, node) = parse_member_uri(uri)?;
    let name =
        certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or("");
    let not_after = seconds_since_1970(certificate.validity().not_after.timestamp());
    Ok(PeerIdentity { cluster, node, role, name: name.to_owned(), not_after })
}

pub(crate) fn seconds_since_1970(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_name_has_exactly_one_spelling() {
        let (cluster, node) = (ClusterId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let uri = member_uri(cluster, Role::Gateway, node);
        assert_eq!(parse_member_uri(&uri), Ok((cluster, Role::Gateway, node)));
        let wrong = [
            uri.to_uppercase(),
            format!("{uri}/"),
            format!("{uri}/x"),
            uri.replace("gateway", "root"),
            uri.replace("spiffe", "http"),
            uri.replace("//", "/"),
            String::new(),
        ];
        for uri in wrong {
            assert!(parse_member_uri(&uri).is_err(), "{uri:?} was taken for a member");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_are_an_error() {
        assert_eq!(peer_identity(&[]), Err(PeerIdentityError::NoCertificate));
        let chain = [CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])];
        assert!(matches!(peer_identity(&chain), Err(PeerIdentityError::Unreadable(_))));
    }
}
