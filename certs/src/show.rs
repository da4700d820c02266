//! What a certificate says, for people and for `certs show`.

use std::time::{Duration, SystemTime};

use lineside_wire::{ClusterId, NodeId, Role};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Serialize;

use crate::{
    names::parse_cluster_uri,
    peer::{PeerIdentityError, holder},
    x509::{Facts, since_1970},
};

/// One certificate. An expired, a foreign or a meaningless one can be shown too: nothing is judged.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateSummary {
    /// The holder's name.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The serial number, lower-case hexadecimal.
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
        Facts::of(certificate).map(Self::from)
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        since_1970(self.not_after)
    }

    /// Time until the certificate ends; `None` when it has ended.
    #[must_use]
    pub fn expires_in(&self, now: SystemTime) -> Option<Duration> {
        self.not_after().duration_since(now).ok().filter(|left| !left.is_zero())
    }
}

impl From<Facts> for CertificateSummary {
    fn from(facts: Facts) -> Self {
        let holder = holder(&facts).ok();
        let authority_of = match facts.is_authority {
            true => facts.only_uri().ok().and_then(parse_cluster_uri),
            false => None,
        };
        Self {
            cluster: holder.as_ref().map(|holder| holder.cluster),
            role: holder.as_ref().map(|holder| holder.role),
            node: holder.as_ref().map(|holder| holder.node),
            authority_of,
            subject: facts.subject,
            issuer: facts.issuer,
            serial: facts.serial,
            not_before: facts.not_before,
            not_after: facts.not_after,
            public_key: facts.public_key,
        }
    }
}
