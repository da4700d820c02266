//! One change of the authority: the lock, what is on the disk now, the change, the diary, the disk.

use std::{sync::Arc, time::SystemTime};

use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;

use super::{
    Authority, AuthorityError, IssuedRow, Subject, check_name,
    keys::Held,
    publish,
    registry::{Registry, seconds},
};
use crate::{
    audit::{Event, Line},
    template,
    x509::Facts,
};

/// A change that is being made. Nothing of it is on the disk yet.
pub(super) struct Draft<'a> {
    pub(super) authority: &'a Authority,
    pub(super) registry: Registry,
    pub(super) held: Arc<Held>,
    pub(super) now: SystemTime,
    /// What the diary will say; also when the change is refused.
    pub(super) lines: Vec<Line>,
    /// Whether the registry is to be written.
    pub(super) changed: bool,
}

/// A certificate that is part of a change.
pub(super) struct Certified {
    /// The leaf, and during a rotation the cross certificate.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) row: IssuedRow,
}

impl Authority {
    /// Makes a change. When `work` refuses it, what it noted is in the diary all the same.
    pub(super) fn transact<T, E: From<AuthorityError>>(
        &self,
        now: SystemTime,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.files.lock()?;
        let (registry, held) = self.read()?;
        let mut draft = Draft { authority: self, registry, held, now, lines: Vec::new(), changed: false };
        match work(&mut draft) {
            Ok(value) => {
                draft.commit()?;
                Ok(value)
            }
            Err(refusal) => {
                // The refusal stands whether or not it can be noted. Nobody waits for the disk: a stranger could keep it
                // busy, and would learn from the time what he was refused for.
                if let Err(error) = self.files.note(&draft.lines, now) {
                    tracing::error!(%error, "the audit log cannot be written");
                }
                Err(refusal)
            }
        }
    }

    /// What is on the disk now, with the keys that belong to it.
    pub(super) fn read(&self) -> Result<(Registry, Arc<Held>), AuthorityError> {
        let registry = self.files.registry()?;
        match self.held_for(&registry) {
            // The end of a rotation removes a key after the registry no longer names it: this one did.
            Err(AuthorityError::Incomplete(_)) => {
                let registry = self.files.registry()?;
                let held = self.held_for(&registry)?;
                Ok((registry, held))
            }
            held => Ok((registry, held?)),
        }
    }

    /// What is on the disk now, for whoever only reads. It needs no key: one that cannot be had (another process has changed
    /// the passphrase) is told in the log, and by the next change.
    pub(super) fn look(&self) -> Result<Registry, AuthorityError> {
        let registry = self.files.registry()?;
        if let Err(error) = self.held_for(&registry) {
            tracing::warn!(%error, "a key of the authority cannot be loaded");
        }
        Ok(registry)
    }

    fn held_for(&self, registry: &Registry) -> Result<Arc<Held>, AuthorityError> {
        let present = self.held.load_full();
        if present.fits(registry) {
            return Ok(present);
        }
        let passphrase = self.passphrase();
        let passphrase = passphrase.as_ref().map(|passphrase| passphrase.as_str());
        let held = Arc::new(Held::load(&self.files, registry, passphrase, Some(&present))?);
        self.held.store(Arc::clone(&held));
        Ok(held)
    }
}

impl Draft<'_> {
    fn commit(mut self) -> Result<(), AuthorityError> {
        let files = &self.authority.files;
        if !self.changed {
            return files.audit(&self.lines, self.now);
        }
        self.registry.forget_what_is_over(self.now);
        // The diary first: whatever the registry will ever hold is in it.
        files.audit(&self.lines, self.now)?;
        files.write_registry(&self.registry).inspect_err(|error| self.note_not_done(error))
    }

    /// Takes back what the diary says already.
    pub(super) fn note_not_done(&self, error: &AuthorityError) {
        let line = Line { reason: Some(error.to_string()), ..Line::new(Event::NotDone) };
        if let Err(error) = self.authority.files.audit(&[line], self.now) {
            tracing::error!(%error, "the audit log cannot be written");
        }
    }

    /// Signs the next trust list. Returns its number.
    pub(super) fn publish(&mut self) -> Result<u64, AuthorityError> {
        self.registry.forget_what_is_over(self.now);
        publish::publish(&mut self.registry, &self.held, 0, None, self.now)?;
        self.changed = true;
        Ok(self.registry.trust.number)
    }

    /// Checks that the key is here that signs for the cluster.
    pub(super) fn check_current(&self) -> Result<(), AuthorityError> {
        match self.held.issuing().issuer {
            Some(_) => Ok(()),
            None => Err(AuthorityError::LeftBehind { issuing: self.held.issuing().generation }),
        }
    }

    /// Makes a certificate for a key. Every field is decided here, none by the holder.
    pub(super) fn certify(
        &mut self,
        key: &impl PublicKeyData,
        subject: &Subject,
    ) -> Result<Certified, AuthorityError> {
        check_name(&subject.name)?;
        self.check_current()?;
        if self.registry.is_node_revoked(subject.node) {
            return Err(AuthorityError::RevokedNode(subject.node));
        }
        let held = Arc::clone(&self.held);
        let signer = held.issuing();
        let Some(issuer) = &signer.issuer else {
            return Err(AuthorityError::LeftBehind { issuing: signer.generation });
        };
        if signer.not_after <= self.now {
            return Err(AuthorityError::Expired(signer.not_after));
        }
        let lifetime = self.authority.lifetimes.of(subject.role);
        let params = template::leaf(self.registry.cluster, subject, lifetime, self.now, signer.not_after)?;
        let leaf = CertificateDer::from(params.signed_by(key, issuer)?);
        let facts = Facts::of(&leaf).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let row = IssuedRow {
            serial: facts.serial,
            node: subject.node,
            role: subject.role,
            name: subject.name.clone(),
            generation: signer.generation,
            issued: seconds(self.now),
            not_after: facts.not_after,
            revoked: None,
        };
        self.registry.record(row.clone(), self.now);
        self.changed = true;
        if self.registry.is_trust_old(self.now) {
            self.publish()?;
        }
        let chain = std::iter::once(leaf).chain(held.cross.clone()).collect();
        Ok(Certified { chain, row })
    }
}

impl Certified {
    /// The line that tells of it.
    pub(super) fn line(&self, event: Event) -> Line {
        Line {
            node: Some(self.row.node),
            role: Some(self.row.role),
            name: Some(self.row.name.clone()),
            serial: Some(self.row.serial.clone()),
            generation: Some(self.row.generation),
            ends: Some(self.row.not_after),
            ..Line::new(event)
        }
    }
}
