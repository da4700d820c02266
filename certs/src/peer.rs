//! Who a certificate says its holder is.

use std::time::SystemTime;

use lineside_wire::{ClusterId, NodeId, Role};
use rustls_pki_types::CertificateDer;

use crate::{
    names::{generation_of, parse_member_uri},
    x509::{Facts, since_1970},
};

/// The holder of a certificate: proven when it comes from a completed handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// What it may be.
    pub role: Role,
    /// Its name for people. Unique by custom only: never decide by it.
    pub name: String,
    /// When its certificate ends.
    pub not_after: SystemTime,
    /// Its certificate's serial number, lower-case hexadecimal.
    pub serial: String,
    /// Generation of the authority that signed it, as the issuer's name says; 0 when that says none.
    pub generation: u32,
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
    #[error("the certificate has {0} URI names; a member's has exactly one: it was not issued by lineside")]
    UriCount(usize),
    /// Its URI is no member's.
    #[error("{0:?} is no member's name; it reads spiffe://<cluster id>/<role>/<node id>")]
    NotAMember(String),
}

/// Reads who the holder of a chain's leaf is. Says nothing about who signed it: the handshake has checked
/// that.
///
/// # Errors
/// The certificate names no member.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerIdentityError> {
    let leaf = chain.first().ok_or(PeerIdentityError::NoCertificate)?;
    holder(&Facts::of(leaf)?)
}

/// As [`peer_identity`], of a certificate that has been read already.
pub(crate) fn holder(facts: &Facts) -> Result<PeerIdentity, PeerIdentityError> {
    let (cluster, role, node) = parse_member_uri(facts.only_uri()?)?;
    let not_after = since_1970(facts.not_after);
    let generation = generation_of(&facts.issuer).unwrap_or(0);
    let (name, serial) = (facts.subject.clone(), facts.serial.clone());
    Ok(PeerIdentity { cluster, node, role, name, not_after, serial, generation })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType, SerialNumber};

    use super::*;

    const URI: &str = "spiffe://c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1/node/dededededededededededededededede";

    /// A certificate that nobody issued, with these URI names.
    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["press.example".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn one_member_name_makes_a_member() {
        let seen = peer_identity(&[certificate(&[URI])]).unwrap();
        assert_eq!((seen.role, seen.node), (Role::Node, NodeId::from_bytes([0xde; 16])));
    }

    #[test]
    fn a_member_has_a_serial_number_and_the_generation_that_its_issuers_name_says() {
        let key = KeyPair::generate().unwrap();
        let issued_by = |issuer: &str| {
            let mut office = CertificateParams::default();
            office.distinguished_name.push(DnType::CommonName, issuer);
            let office = Issuer::new(office, KeyPair::generate().unwrap());
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(URI.try_into().unwrap())];
            params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc]));
            peer_identity(&[params.signed_by(&key, &office).unwrap().into()]).unwrap()
        };
        let seen = issued_by("plant CA g12");
        assert_eq!((seen.serial.as_str(), seen.generation), ("0abc", 12));
        for other in
            ["plant", "plant CA g", "plant CA g0", "plant CA g01", "plant CA g-1", "plant CA g4294967296"]
        {
            assert_eq!(issued_by(other).generation, 0, "{other}");
        }
        assert_eq!(issued_by("CA g1 CA g2").generation, 2);
    }

    #[test]
    fn none_or_several_names_make_no_member() {
        assert_eq!(peer_identity(&[certificate(&[])]), Err(PeerIdentityError::UriCount(0)));
        assert_eq!(peer_identity(&[certificate(&[URI, URI])]), Err(PeerIdentityError::UriCount(2)));
        let beside = certificate(&[URI, "https://example.org"]);
        assert_eq!(peer_identity(&[beside]), Err(PeerIdentityError::UriCount(2)));
    }

    #[test]
    fn a_role_that_does_not_exist_makes_no_member() {
        let root = URI.replace("node", "root");
        assert_eq!(peer_identity(&[certificate(&[&root])]), Err(PeerIdentityError::NotAMember(root)));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_an_error() {
        assert_eq!(peer_identity(&[]), Err(PeerIdentityError::NoCertificate));
        let good = certificate(&[URI]);
        let longer = CertificateDer::from([good.as_ref(), b"x"].concat());
        let shorter = CertificateDer::from(good[..good.len() - 1].to_vec());
        for wrong in [longer, shorter, CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]), vec![].into()] {
            assert!(matches!(peer_identity(&[wrong]), Err(PeerIdentityError::Unreadable(_))));
        }
    }

    #[test]
    fn no_byte_of_a_certificate_can_make_reading_it_panic() {
        let good = certificate(&[URI]);
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = good.to_vec();
                bytes[at] ^= flip;
                drop(peer_identity(&[bytes.into()]));
            }
        }
    }
}
