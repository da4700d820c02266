//! What a certificate says, for people and for `certs show`.

use std::time::{Duration, SystemTime};

use lineside_wire::{ClusterId, NodeId, Role};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Serialize;

use crate::{
    Alarm, Renewal,
    names::{generation_of, parse_cluster_uri},
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
    /// Which generation of the authority that was; absent when its name says none.
    pub generation: Option<u32>,
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
    /// When its holder begins to renew it, at the earliest, in seconds since 1970; absent when nobody does:
    /// an authority's, and an admin's.
    pub renewal_from: Option<u64>,
    /// When it has begun at the latest.
    pub renewal_until: Option<u64>,
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

    /// How near the end is.
    #[must_use]
    pub fn alarm(&self, now: SystemTime) -> Alarm {
        renewal(self.not_before, self.not_after).alarm(now)
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
        let is_renewed = holder.as_ref().is_some_and(|holder| holder.role != Role::Admin);
        let due = |jitter| {
            let at = renewal(facts.not_before, facts.not_after).due_at(jitter);
            is_renewed.then(|| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
        };
        Self {
            renewal_from: due(0.0),
            renewal_until: due(1.0),
            generation: generation_of(&facts.issuer),
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

fn renewal(not_before: u64, not_after: u64) -> Renewal {
    Renewal { not_before: since_1970(not_before), not_after: since_1970(not_after) }
}
