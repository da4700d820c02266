//! Certificates for HTTPS. They make nobody a member: they have no URI name, and are for serving only.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use lineside_wire::{Enrolled, NodeId, WEB_NAMES_MAX, WebParams};
use rustls_pki_types::CertificateDer;
use serde_bytes::ByteBuf;

use super::{
    Authority, AuthorityError, RenewRefusal,
    enrol::{RENEWALS_MAX, RENEWALS_PART, enrolled},
    refusals::Kind,
    registry::seconds,
    transaction::Draft,
};
use crate::{
    PeerIdentity, WebName,
    audit::{Event, Line},
    csr, template,
    x509::{Facts, permits},
};

/// Longest life of a certificate for HTTPS: clients do not ask whether it was revoked. Members' certificates that are set
/// to be shorter make these as short.
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Certificates that are remembered, to refuse those who ask without end: all that the largest cluster's members can have
/// within the window.
const RECENT_MAX: usize = 256 * RENEWALS_MAX;

/// Names of which it is remembered who has a certificate: all that the largest cluster's members can have in one each.
const NAMES_MAX: usize = 256 * WEB_NAMES_MAX;

/// What is remembered of certificates for HTTPS. Forgotten at a restart, which is no harm: it bounds how fast the diary
/// grows, and tells people what they should look at.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Whom they were issued of late, oldest first.
    asked: VecDeque<(u64, NodeId)>,
    /// Whose the newest with a name is, and until when.
    holders: BTreeMap<WebName, (NodeId, u64)>,
}

impl Recent {
    /// Whether one more is too many; counts it when it is not.
    fn is_too_often(&mut self, node: NodeId, window: Duration, now: SystemTime) -> bool {
        let now = seconds(now);
        let begin = now.saturating_sub(window.as_secs());
        self.asked.retain(|(at, _)| (begin..=now).contains(at));
        let own = self.asked.iter().filter(|(_, whose)| *whose == node).count();
        if RENEWALS_MAX <= own || RECENT_MAX <= self.asked.len() {
            return true;
        }
        self.asked.push_back((now, node));
        false
    }

    /// Remembers whose the names are now. Gives those that another node has a certificate for, which is still good, with
    /// that node: nobody can tell from here whose they are, so a person has to. Each machine is `localhost` for itself.
    fn given(&mut self, names: &[WebName], node: NodeId, ends: u64, now: u64) -> Vec<(WebName, NodeId)> {
        self.holders.retain(|_, (_, ends)| now < *ends);
        let mut shared = Vec::new();
        for name in names.iter().filter(|name| !name.is_own_machine()) {
            match self.holders.get(name) {
                Some((holder, _)) if *holder != node => shared.push((name.clone(), *holder)),
                None if NAMES_MAX <= self.holders.len() => continue,
                Some(_) | None => {}
            }
            self.holders.insert(name.clone(), (node, ends));
        }
        shared
    }
}

impl Authority {
    /// Answers `certs.web` for the holder of a connection's certificate: a certificate for HTTPS under these names. Names
    /// that an authority of the cluster is not allowed to speak for by its own certificate are left out.
    ///
    /// # Errors
    /// See [`RenewRefusal`].
    pub fn web(
        &self,
        peer: &PeerIdentity,
        params: &WebParams,
        now: SystemTime,
    ) -> Result<Enrolled, RenewRefusal> {
        self.transact(now, |draft| draft.web(peer, params))
    }
}

impl Draft<'_> {
    fn web(&mut self, peer: &PeerIdentity, params: &WebParams) -> Result<Enrolled, RenewRefusal> {
        let about = |event| Line { node: Some(peer.node), role: Some(peer.role), ..Line::new(event) };
        match self.web_certificate(peer, params) {
            Ok((chain, line)) => {
                self.lines.push(line);
                let chain = chain.iter().map(|one| ByteBuf::from(one.to_vec())).collect();
                Ok(enrolled(&self.registry, chain, seconds(self.now)))
            }
            Err(refusal) => {
                let reason = Some(refusal.to_string());
                self.refused(Kind::Member, Line { reason, ..about(Event::WebCertificateRefused) });
                Err(refusal)
            }
        }
    }

    fn web_certificate(
        &self,
        peer: &PeerIdentity,
        params: &WebParams,
    ) -> Result<(Vec<CertificateDer<'static>>, Line), RenewRefusal> {
        if !peer.role.is_member() {
            return Err(RenewRefusal::Role(peer.role));
        }
        if peer.cluster != self.registry.cluster || self.registry.is_revoked(peer.node, &peer.serial) {
            return Err(RenewRefusal::Revoked);
        }
        if self.registry.is_in_doubt(peer.node, &peer.serial, self.now) {
            return Err(RenewRefusal::InDoubt);
        }
        let csr = csr::read(&params.csr).map_err(|error| RenewRefusal::Request(error.to_string()))?;
        let (names, left_out) = self.web_names_of(params)?;
        let within = self.authority.lifetimes.member / RENEWALS_PART;
        let mut recent = self.authority.web.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.is_too_often(peer.node, within, self.now) {
            return Err(RenewRefusal::TooOften { within });
        }
        drop(recent);
        self.check_current()?;
        let signer = self.held.issuing();
        let issuer = signer.issuer.as_ref().expect("it was checked");
        if signer.not_after <= self.now {
            return Err(AuthorityError::Expired(signer.not_after).into());
        }
        let lifetime = LIFETIME_MAX.min(self.authority.lifetimes.member);
        let params = template::web(peer.node, &names, lifetime, self.now, signer.not_after)
            .map_err(AuthorityError::from)?;
        let leaf = params.signed_by(&csr.key, issuer).map_err(AuthorityError::from)?;
        let leaf = CertificateDer::from(leaf);
        let facts =
            Facts::of(&leaf).map_err(|_| AuthorityError::from(rcgen::Error::CouldNotParseCertificate))?;
        let mut recent = self.authority.web.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = recent.given(&names, peer.node, facts.not_after, seconds(self.now));
        drop(recent);
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let line = Line {
            node: Some(peer.node),
            role: Some(peer.role),
            name: Some(names.join(" ")),
            serial: Some(facts.serial),
            generation: Some(signer.generation),
            ends: Some(facts.not_after),
            reason: told(peer.node, &shared),
            ignored: left_out.iter().map(ToString::to_string).collect(),
            ..Line::new(Event::WebCertificateIssued)
        };
        Ok((std::iter::once(leaf).chain(self.held.cross.clone()).collect(), line))
    }

    /// The names that the certificate gets, and those that it does not.
    fn web_names_of(&self, params: &WebParams) -> Result<(Vec<WebName>, Vec<WebName>), RenewRefusal> {
        if params.names.is_empty() || WEB_NAMES_MAX < params.names.len() {
            let text = format!("it has {} names; use 1 to {WEB_NAMES_MAX}", params.names.len());
            return Err(RenewRefusal::Request(text));
        }
        let names = params.names.iter().map(|name| name.parse::<WebName>());
        let names = names.collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| RenewRefusal::Request(error.to_string()))?;
        // Clients refuse the whole certificate for one name that an authority on their way to it may not speak for. Those of
        // before there was HTTPS may speak for no DNS name but members'.
        let may = |name: &WebName| self.held.authorities.iter().all(|one| permits(&one.certificate, name));
        let (names, left_out): (Vec<_>, Vec<_>) = names.into_iter().partition(may);
        match names.is_empty() {
            false => Ok((names, left_out)),
            true => Err(RenewRefusal::Request(
                "the authority's certificate allows none of its names: it is older than HTTPS; replace it \
                 (`lineside certs rotate-ca`), or use IP addresses"
                    .to_owned(),
            )),
        }
    }
}

/// Tells that a name is in the certificates of two nodes, if one is.
fn told(node: NodeId, shared: &[(WebName, NodeId)]) -> Option<String> {
    for (name, holder) in shared {
        tracing::warn!(
            %name, %node, %holder,
            "two members have a certificate for HTTPS under one name: right where both serve it, else one of them may \
             stand in for the other"
        );
    }
    let each = |(name, holder): &(WebName, NodeId)| format!("{name} is in a certificate of {holder}, too");
    (!shared.is_empty()).then(|| shared.iter().map(each).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::since_1970;

    #[test]
    fn a_name_of_two_members_is_told_while_the_first_ones_certificate_is_good() {
        let mut recent = Recent::default();
        let [press, weld] = [1, 2].map(|n| NodeId::from_bytes([n; 16]));
        let names = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<WebName>>();
        let given = names(&["press.local", "10.0.0.7", "localhost", "127.0.0.1", "::1"]);
        assert!(recent.given(&given, press, 1_000, 10).is_empty());
        assert!(recent.given(&given, press, 1_500, 500).is_empty(), "renewed");
        let both = recent.given(&names(&["weld.local", "10.0.0.7", "localhost", "::1"]), weld, 2_000, 1_499);
        assert_eq!(both, [(names(&["10.0.0.7"]).remove(0), press)]);
        assert!(told(weld, &both).unwrap().contains("10.0.0.7 is in a certificate of 0101"));
        assert!(recent.given(&names(&["press.local"]), weld, 3_000, 1_500).is_empty(), "it was over");
        assert_eq!(told(weld, &[]), None);
        for n in 0..=NAMES_MAX {
            recent.given(&names(&[&format!("m{n}.local")]), press, 9_000, 1_500);
        }
        assert_eq!(recent.holders.len(), NAMES_MAX);
    }

    #[test]
    fn one_that_asks_without_end_is_told_to_wait_and_the_others_are_not() {
        let (mut recent, window) = (Recent::default(), Duration::from_secs(3600));
        let [press, weld] = [1, 2].map(|n| NodeId::from_bytes([n; 16]));
        let at = since_1970(10_000);
        for _ in 0..RENEWALS_MAX {
            assert!(!recent.is_too_often(press, window, at));
        }
        assert!(recent.is_too_often(press, window, at));
        assert!(!recent.is_too_often(weld, window, at));
        assert!(!recent.is_too_often(press, window, at + window + Duration::from_secs(1)));
    }
}
