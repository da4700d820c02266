//! Reads a request for a certificate (PKCS #10): its public key and nothing else.
//!
//! What else a request asks for (names, a lifetime, to be an authority) is the authority's to decide: whoever signs what
//! he is asked for issues an authority to whoever asks for one. It is kept as a note for the audit log.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use lineside_wire::CSR_BYTES_MAX;
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::OID_SIG_ECDSA_WITH_SHA256,
    prelude::{FromDer, GeneralName, ParsedExtension},
};

/// What stands before the point in the SPKI of every P-256 key: algorithm, curve and lengths, all of them fixed.
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: its marker and two coordinates.
const POINT_BYTES: usize = 65;
/// Wishes of a request that are told in the audit log: enough to see what somebody tried.
const WISHES_MAX: usize = 8;
/// Longest text of one of them, in characters.
const WISH_CHARS_MAX: usize = 80;

/// A public key, ECDSA on P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey(Vec<u8>);

impl PublicKey {
    /// As it stands in certificates: SubjectPublicKeyInfo, DER.
    pub(crate) fn spki(&self) -> Vec<u8> {
        [&SPKI_HEAD, &self.0[..]].concat()
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A request whose sender has shown that the private key is his.
#[derive(Debug)]
pub(crate) struct Csr {
    /// The key to certify.
    pub(crate) key: PublicKey,
    /// What it asks for besides and does not get, for people.
    pub(crate) wishes: Vec<String>,
}

/// Why bytes are no request that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// It is not looked at.
    #[error("it has {0} bytes, at most {CSR_BYTES_MAX} are read")]
    TooLong(usize),
    /// It is no PKCS #10.
    #[error("it is no certificate request (PKCS #10, DER): {0}")]
    Unreadable(String),
    /// A key of another kind.
    #[error("its key is not ECDSA on P-256, the one kind that is certified")]
    OtherKey,
    /// Its sender does not have the private key, or it was changed on its way.
    #[error(
        "its own signature (ECDSA with SHA-256) is wrong: it was changed, or made without the private key"
    )]
    Signature,
}

/// Reads a request as the authority does, and gives the key that it would certify: SubjectPublicKeyInfo, DER.
///
/// # Errors
/// The authority would not sign it.
pub fn key_of_request(der: &[u8]) -> Result<Vec<u8>, CsrError> {
    read(der).map(|csr| csr.key.spki())
}

/// Reads a request, all of it and nothing behind it.
pub(crate) fn read(der: &[u8]) -> Result<Csr, CsrError> {
    if CSR_BYTES_MAX < der.len() {
        return Err(CsrError::TooLong(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|error| CsrError::Unreadable(error.to_string().chars().take(WISH_CHARS_MAX).collect()))?;
    if !rest.is_empty() {
        return Err(CsrError::Unreadable(format!("{} bytes follow it", rest.len())));
    }
    let spki = request.certification_request_info.subject_pki.raw;
    let point = spki.strip_prefix(&SPKI_HEAD).filter(|point| point.len() == POINT_BYTES && point[0] == 4);
    let point = point.ok_or(CsrError::OtherKey)?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    let signed = request.certification_request_info.raw;
    if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256
        || key.verify(signed, &request.signature_value.data).is_err()
    {
        return Err(CsrError::Signature);
    }
    Ok(Csr { key: PublicKey(point.to_vec()), wishes: wishes(&request) })
}

fn wishes(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let mut wishes = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                wishes.extend(names.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => format!("URI {uri}"),
                    GeneralName::DNSName(dns) => format!("DNS {dns}"),
                    other => format!("{other:?}"),
                }));
            }
            ParsedExtension::BasicConstraints(constraints) => wishes.push(format!("CA:{}", constraints.ca)),
            _ => wishes.push("another extension".to_owned()),
        }
        if WISHES_MAX <= wishes.len() {
            break;
        }
    }
    wishes.truncate(WISHES_MAX);
    wishes.iter().map(|wish| wish.chars().take(WISH_CHARS_MAX).collect()).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

    use super::*;

    fn request(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_gives_its_key_and_nothing_else() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let csr = read(&request(&key)).unwrap();
        assert_eq!(csr.key.spki(), key.subject_public_key_info());
        assert!(csr.wishes.is_empty(), "{:?}", csr.wishes);
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
            let key = KeyPair::generate_for(kind).unwrap();
            assert_eq!(read(&request(&key)).unwrap_err(), CsrError::OtherKey);
        }
    }

    #[test]
    fn a_request_that_is_too_long_is_not_looked_at() {
        assert_eq!(read(&vec![0x30; 1 << 20]).unwrap_err(), CsrError::TooLong(1 << 20));
    }

    #[test]
    fn no_changed_byte_brings_in_another_key_and_none_panics() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let good = request(&key);
        let honest = read(&good).unwrap();
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                // What the signature does not cover, such as the outermost tag, may be read with leniency.
                let same =
                    read(&bytes).map_or(true, |csr| csr.key == honest.key && csr.wishes == honest.wishes);
                assert!(same, "byte {at} was changed and something else was read");
            }
            assert!(read(&good[..at]).is_err());
        }
        assert!(matches!(read(&[&good[..], b"x"].concat()), Err(CsrError::Unreadable(_))));
    }
}
