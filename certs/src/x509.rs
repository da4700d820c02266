//! Reads X.509: the one place that knows how a certificate is laid out.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::{
    prelude::{FromDer, GeneralName, X509Certificate},
    time::ASN1Time,
    x509::X509Name,
};

use crate::PeerIdentityError;

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
    use super::*;

    #[test]
    fn a_moment_reads_as_a_date_in_utc() {
        assert_eq!(readable(SystemTime::UNIX_EPOCH), "1970-01-01 00:00 UTC");
        assert_eq!(readable(since_1970(1_795_514_820)), "2026-11-24 10:07 UTC");
        let far_away = since_1970(i64::MAX as u64);
        assert!(readable(far_away).contains("1970"), "{}", readable(far_away));
    }
}
