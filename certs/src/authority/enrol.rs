//! How one becomes a member, and stays one.

use std::sync::PoisonError;

use lineside_wire::{Enrolled, JoinParams, RenewParams};
use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;
use serde_bytes::ByteBuf;
use zeroize::Zeroizing;

use super::{
    AuthorityError, JoinRefusal, RenewRefusal, Subject, check_name,
    refusals::Kind,
    registry::{Certificate, Registry, TokenRefusal, Used, seconds},
    transaction::{Certified, Draft},
};
use crate::{
    PeerIdentity, TokenId,
    audit::{Event, Line},
    csr::{self, Csr, CsrError},
    token::TokenKey,
    x509::sha256,
};

/// Longest address of a joiner in the audit log, in characters.
const FROM_CHARS_MAX: usize = 64;

/// Certificates that one node gets within a fourteenth of their lifetime, a day of two weeks: one whose answers are all
/// lost asks every hour. More would fill the memory of what was issued, and push others out of it.
pub(super) const RENEWALS_MAX: usize = 32;
pub(super) const RENEWALS_PART: u32 = 14;

impl From<TokenRefusal> for JoinRefusal {
    fn from(refusal: TokenRefusal) -> Self {
        match refusal {
            TokenRefusal::Unknown => Self::Unknown,
            TokenRefusal::Expired => Self::Expired,
            TokenRefusal::Used => Self::Used,
            TokenRefusal::OtherRole(role) => Self::OtherRole(role),
        }
    }
}

impl From<CsrError> for AuthorityError {
    fn from(error: CsrError) -> Self {
        Self::Request(error.to_string())
    }
}

impl Draft<'_> {
    /// See [`Authority::join`](super::Authority::join).
    pub(super) fn join(
        &mut self,
        params: &JoinParams,
        exporter: &[u8; 32],
        from: &str,
    ) -> Result<Enrolled, JoinRefusal> {
        let from: String = from.chars().take(FROM_CHARS_MAX).collect();
        let token = TokenId(*params.token);
        let about = |event| Line {
            token: Some(token.to_string()),
            from: Some(from.clone()),
            role: Some(params.role),
            ..Line::new(event)
        };
        let joined =
            self.admit(token, params, exporter).and_then(|(name, csr)| self.enrol(token, params, name, &csr));
        match joined {
            Ok((used, fresh)) => {
                let event = if fresh { Event::TokenUsed } else { Event::TokenAnsweredAgain };
                let (node, serial) = (Some(used.node), Some(used.serial));
                self.lines.push(Line { node, serial, ..about(event) });
                let certificates = used.certificates.into_iter().map(|one| ByteBuf::from(one.0)).collect();
                Ok(enrolled(&self.registry, certificates, seconds(self.now)))
            }
            Err(refusal) => {
                let kind = match refusal {
                    JoinRefusal::Unknown => Kind::Stranger,
                    _ => Kind::Joiner,
                };
                self.refused(kind, Line { reason: Some(refusal.to_string()), ..about(Event::TokenRefused) });
                Err(refusal)
            }
        }
    }

    /// The proof, then the token, then the request: nothing that a stranger sent is read before the proof.
    fn admit(
        &self,
        token: TokenId,
        params: &JoinParams,
        exporter: &[u8; 32],
    ) -> Result<(Option<String>, Csr), JoinRefusal> {
        let key = self.registry.token_key(token);
        // Also for a token that is not known, so that time does not tell which are.
        let checked = TokenKey(Zeroizing::new(key.unwrap_or_default()));
        let is_right = checked.accepts(&params.proof, exporter, params.role, &params.name, &params.csr);
        if key.is_none() || !is_right {
            return Err(JoinRefusal::Unknown);
        }
        let name = self.registry.admit(token, params.role, self.now)?;
        let csr = csr::read(&params.csr).map_err(|error| match self.registry.is_used(token) {
            // Used up, whatever the request is like: this too is told in the same words.
            true => JoinRefusal::Used,
            false => JoinRefusal::Request(error.to_string()),
        })?;
        Ok((name, csr))
    }

    /// Has the diary tell of a refusal, unless there are too many. What was prepared before it did not happen.
    pub(super) fn refused(&mut self, kind: Kind, line: Line) {
        let mut refusals = self.authority.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let told = refusals.count(kind, seconds(self.now));
        self.lines = told.map(|left_out| Line { left_out, ..line }).into_iter().collect();
    }

    /// What the token was used for, and whether it is used only now.
    fn enrol(
        &mut self,
        token: TokenId,
        params: &JoinParams,
        name: Option<String>,
        csr: &Csr,
    ) -> Result<(Used, bool), JoinRefusal> {
        let key = sha256(&csr.key.spki());
        if let Some(used) = self.registry.answer_of(token, &key)? {
            return Ok((used.clone(), false));
        }
        let name = name.unwrap_or_else(|| params.name.clone());
        check_name(&name).map_err(|error| JoinRefusal::Request(error.to_string()))?;
        let certified = self.certify(&csr.key, &Subject::new(params.role, name))?;
        let used = Used {
            at: seconds(self.now),
            node: certified.row.node,
            key,
            serial: certified.row.serial.clone(),
            certificates: certified.chain.iter().map(|one| Certificate(one.to_vec())).collect(),
        };
        self.registry.use_token(token, used.clone())?;
        let line = certified.line(Event::CertificateIssued);
        self.lines.push(Line { ignored: csr.wishes.clone(), ..line });
        Ok((used, true))
    }

    /// See [`Authority::renew`](super::Authority::renew).
    pub(super) fn renew(
        &mut self,
        peer: &PeerIdentity,
        params: &RenewParams,
    ) -> Result<Enrolled, RenewRefusal> {
        match self.renewed(peer, params) {
            Ok(certified) => Ok(self.enrolled(&certified)),
            Err(refusal) => {
                let line = Line {
                    node: Some(peer.node),
                    role: Some(peer.role),
                    name: Some(peer.name.clone()),
                    serial: Some(peer.serial.clone()),
                    reason: Some(refusal.to_string()),
                    ..Line::new(Event::RenewalRefused)
                };
                self.refused(Kind::Member, line);
                Err(refusal)
            }
        }
    }

    fn renewed(&mut self, peer: &PeerIdentity, params: &RenewParams) -> Result<Certified, RenewRefusal> {
        if peer.role == lineside_wire::Role::Admin {
            return Err(RenewRefusal::Role(peer.role));
        }
        if peer.cluster != self.registry.cluster || self.registry.is_revoked(peer.node, &peer.serial) {
            return Err(RenewRefusal::Revoked);
        }
        if self.registry.is_in_doubt(peer.node, &peer.serial, self.now) {
            return Err(RenewRefusal::InDoubt);
        }
        let within = self.authority.lifetimes.of(peer.role) / RENEWALS_PART;
        if RENEWALS_MAX <= self.registry.issued_within(peer.node, within, self.now) {
            return Err(RenewRefusal::TooOften { within });
        }
        let csr = csr::read(&params.csr).map_err(|error| RenewRefusal::Request(error.to_string()))?;
        let subject = Subject { role: peer.role, node: peer.node, name: peer.name.clone() };
        let certified = self.certify(&csr.key, &subject)?;
        let line = certified.line(Event::CertificateRenewed);
        self.lines.push(Line { replaces: Some(peer.serial.clone()), ignored: csr.wishes, ..line });
        Ok(certified)
    }

    /// See [`Authority::sign`](super::Authority::sign).
    pub(super) fn sign(&mut self, csr: &[u8], subject: &Subject) -> Result<Enrolled, AuthorityError> {
        let csr = csr::read(csr)?;
        let certified = self.issue(&csr.key, subject, csr.wishes)?;
        Ok(self.enrolled(&certified))
    }

    /// Makes a certificate on a person's word.
    pub(super) fn issue(
        &mut self,
        key: &impl PublicKeyData,
        subject: &Subject,
        ignored: Vec<String>,
    ) -> Result<Certified, AuthorityError> {
        let certified = self.certify(key, subject)?;
        self.lines.push(Line { ignored, ..certified.line(Event::CertificateIssued) });
        Ok(certified)
    }

    fn enrolled(&self, certified: &Certified) -> Enrolled {
        let bytes = |one: &CertificateDer<'_>| ByteBuf::from(one.to_vec());
        enrolled(&self.registry, certified.chain.iter().map(bytes).collect(), seconds(self.now))
    }
}

pub(super) fn enrolled(registry: &Registry, certificates: Vec<ByteBuf>, now: u64) -> Enrolled {
    Enrolled { certificates, trust: registry.trust.signed(), now }
}
