//! What a certificate says, for people and for `certs show`.

use std::time::{Duration, SystemTime};

use lineside_wire::{ClusterId, NodeId, Role};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Serialize;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::peer::{PeerIdentityError, parse_member_uri, seconds_since_1970};

/// One certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateSummary {
    /// The holder's name.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The serial number, hexadecimal.
    pub serial: String,
    /// The holder's cluster, role and id; absent on an authority's own certificate.
    pub cluster: Option<ClusterId>,
    /// See `cluster`.
    pub role: Option<Role>,
    /// See `cluster`.
    pub node: Option<NodeId>,
    /// The cluster that this certificate is the authority of.
    pub authority_of: Option<ClusterId>,
    /// Start of validity, seconds since 1970.
    pub not_before: u64,
    /// End of validity, seconds since 1970.
    pub not_after: u64,
    /// The public key's bytes.
    #[serde(skip)]
    pub public_key: Vec<u8>,
}

impl CertificateSummary {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn of_pem(pem: &str) -> Result<Self, PeerIdentityError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| PeerIdentityError::Unreadable(error.to_string()))?;
        Self::of_der(&certificate)
    }

    /// Reads one certificate.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_der(certificate: &CertificateDer<'_>) -> Result<Self, PeerIdentityError> {
        let unreadable = |error: String| PeerIdentityError::Unreadable(error);
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| unreadable(error.to_string()))?;
        let names = parsed.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
        let uri = names.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let member = uri.and_then(|uri| parse_member_uri(uri).ok());
        let authority_of = match parsed.is_ca() {
            true => uri.and_then(|uri| uri.strip_prefix("spiffe://")?.parse().ok()),
            false => None,
        };
        let common_name = |name: &x509_parser::x509::X509Name<'_>| {
            name.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or("").to_owned()
        };
        let seconds = |at: i64| u64::try_from(at).unwrap_or(0);
        Ok(Self {
            subject: common_name(parsed.subject()),
            issuer: common_name(parsed.issuer()),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            cluster: member.map(|(cluster, _, _)| cluster),
            role: member.map(|(_, role, _)| role),
            node: member.map(|(_, _, node)| node),
            authority_of,
            not_before: seconds(parsed.validity().not_before.timestamp()),
            not_after: seconds(parsed.validity().not_after.timestamp()),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        seconds_since_1970(i64::try_from(self.not_after).unwrap_or(i64::MAX))
    }

    /// Time until the certificate ends; `None` when it has ended.
    #[must_use]
    pub fn expires_in(&self, now: SystemTime) -> Option<Duration> {
        self.not_after().duration_since(now).ok().filter(|left| !left.is_zero())
    }
}
