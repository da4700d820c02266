//! The cluster's certificate authority: a cluster is whoever it signed for.
//!
//! ```text
//! join, renew, revoke, ... ─► transaction: lock ─► registry as it is on the disk ─► change ─► diary ─► disk ─► answer
//!                                                  (pure: decides)       (keys: sign)
//! ```
//!
//! Several processes may work on one directory, and whole copies of it may work on several machines; see
//! [`Authority::merge`].

mod api_keys;
mod changes;
mod enrol;
mod error;
mod files;
mod keys;
mod kinds;
mod publish;
mod refusals;
mod registry;
mod transaction;
mod web;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use lineside_wire::{ClusterId, Enrolled, JoinParams, NodeId, RenewParams, SignedTrust};
use rand::RngExt as _;
use rcgen::PublicKeyData as _;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

pub use error::{AuthorityError, JoinRefusal, RenewRefusal};
pub use kinds::{
    API_KEY_LIFETIME, API_KEY_LIFETIME_MAX, API_KEY_LOGGING, API_KEY_METHODS, ApiKeyOrder, ApiKeyRow,
    ApiKeyState, Issued, IssuedRow, JoinCertificates, Lifetimes, Revoke, Rotation, Subject, TOKEN_LIFETIME,
    TOKEN_LIFETIME_MAX, TokenOrder, TokenRow, TokenState,
};

use crate::{
    PeerIdentity, Token, TokenId,
    audit::{Event, Line},
    disk,
    passphrase::{self, CHARACTERS_MIN},
    pem::write as pem,
    provider, template,
    x509::sha256,
};
use files::Files;
use keys::Held;
use refusals::Refusals;
use registry::Registry;

/// Longest name of a cluster or a member, in bytes: X.509's own limit for a common name.
pub const NAME_BYTES_MAX: usize = 64;

/// How long join certificates are good for: longer than any token that they are made for.
const JOIN_CERTIFICATE_LIFETIME: Duration = TOKEN_LIFETIME_MAX.saturating_add(Duration::from_secs(3600));

/// The authority with its keys.
///
/// Each change is one transaction: the directory is locked, what another process wrote is read, the change is on disk
/// (and in the audit log) before it is told.
pub struct Authority {
    files: Files,
    cluster: ClusterId,
    lifetimes: Lifetimes,
    /// Kept for the keys of generations that begin while this process runs.
    passphrase: Mutex<Option<Zeroizing<String>>>,
    held: ArcSwap<Held>,
    refusals: Mutex<Refusals>,
    web: Mutex<web::Recent>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// How it begins.
impl Authority {
    /// Makes a new cluster: a fresh id, key and certificate in `directory`.
    ///
    /// # Errors
    /// There is an authority already, even half of one, the name cannot be used, or the files cannot be written.
    pub fn create(directory: &Path, cluster_name: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let files = Files::at(directory);
        if files.is_there()? {
            return Err(AuthorityError::Exists(directory.to_owned()));
        }
        check_name(cluster_name)?;
        disk::make_private_directory(directory).map_err(AuthorityError::file(directory))?;
        disk::tighten_if_empty(directory).map_err(AuthorityError::file(directory))?;
        files.check()?;
        let lock = files.lock()?;
        // Of two that make a cluster here at once, one has waited for the other.
        if files.is_there()? {
            return Err(AuthorityError::Exists(directory.to_owned()));
        }
        let cluster = ClusterId::from_bytes(rand::rng().random());
        let key = keys::generate()?;
        let certificate = template::authority(cluster, cluster_name, 1, now)?.self_signed(&key)?;
        files.write_secret(&files.key_path(1), &keys::file_text(&key, None))?;
        files.write_public(&files.certificate_path(1), &certificate.pem())?;
        let mut registry = Registry::new(cluster, cluster_name, sha256(&key.subject_public_key_info()));
        let held = Held::load(&files, &registry, None, None)?;
        publish::publish(&mut registry, &held, 0, None, now)?;
        let line = Line {
            name: Some(cluster_name.to_owned()),
            generation: Some(1),
            trust: Some(registry.trust.number),
            ..Line::new(Event::AuthorityCreated)
        };
        files.audit(&[line], now)?;
        files.write_registry(&registry)?;
        drop(lock);
        Self::load(directory)
    }

    /// Loads the authority that [`Authority::create`] made there.
    ///
    /// # Errors
    /// It is not there, not whole, not private, damaged, or encrypted.
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        Self::open(directory, None)
    }

    /// As [`Authority::load`], for a key that is encrypted with this passphrase. One that is not takes any passphrase.
    ///
    /// # Errors
    /// As [`Authority::load`], or the passphrase is wrong.
    pub fn unlock(directory: &Path, passphrase: &str) -> Result<Self, AuthorityError> {
        Self::open(directory, Some(passphrase))
    }

    /// Whether the key in `directory` is encrypted.
    ///
    /// # Errors
    /// There is no authority, or it cannot be read.
    pub fn is_locked(directory: &Path) -> Result<bool, AuthorityError> {
        let files = Files::at(directory);
        let registry = files.existing_registry()?;
        let mut held = registry.generations.iter().filter(|generation| generation.held);
        held.try_fold(false, |locked, generation| {
            let text = Zeroizing::new(files.read(&files.key_path(generation.number))?);
            Ok(locked || passphrase::is_sealed(&text))
        })
    }

    fn open(directory: &Path, passphrase: Option<&str>) -> Result<Self, AuthorityError> {
        let files = Files::at(directory);
        let registry = files.existing_registry()?;
        let held = Held::load(&files, &registry, passphrase, None)?;
        let (cluster, lifetimes) = (registry.cluster, Lifetimes::default());
        let authority = Self {
            files,
            cluster,
            lifetimes,
            passphrase: Mutex::default(),
            held: ArcSwap::from_pointee(held),
            refusals: Mutex::default(),
            web: Mutex::default(),
        };
        // For keys in the clear, what was typed is no passphrase.
        authority.keep_passphrase(if Self::is_locked(directory)? { passphrase } else { None });
        Ok(authority)
    }

    /// Whether there is an authority in `directory`, whole or not.
    pub(crate) fn is_there(directory: &Path) -> Result<bool, AuthorityError> {
        Files::at(directory).is_there()
    }

    /// The same authority, whose certificates live so long.
    #[must_use]
    pub fn with_lifetimes(self, lifetimes: Lifetimes) -> Self {
        Self { lifetimes, ..self }
    }

    /// Encrypts the keys on disk with a passphrase; `None` keeps them in the clear, as they are at first.
    ///
    /// Other processes that have the keys in memory go on with them, and need the new passphrase at their next start.
    ///
    /// # Errors
    /// The passphrase is too short, or the keys cannot be written; the old files are then still there.
    pub fn set_passphrase(&self, passphrase: Option<&str>) -> Result<(), AuthorityError> {
        match passphrase {
            Some(passphrase) if passphrase.chars().count() < CHARACTERS_MIN => {
                Err(AuthorityError::WeakPassphrase)
            }
            _ => self.change_passphrase(passphrase, SystemTime::now()),
        }
    }

    fn passphrase(&self) -> Option<Zeroizing<String>> {
        self.passphrase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_passphrase(&self, passphrase: Option<&str>) {
        let kept = passphrase.map(|passphrase| Zeroizing::new(passphrase.to_owned()));
        *self.passphrase.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }
}

/// What it is.
impl Authority {
    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The certificate of the authority that signs, PEM; as of the last time that the disk was looked at.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.held.load().issuing().pem.clone()
    }

    /// When the authority that signs ends, and with it every certificate that it signed.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.held.load().issuing().not_after
    }

    /// SHA-256 of the SPKI of the authority that signs: what a token carries.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.held.load().issuing().fingerprint
    }

    /// Whether the keys here sign for the cluster: false for a copy that a rotation has left behind.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.held.load().issuing().issuer.is_some()
    }

    /// Changes whenever another process (or this one) changed what is on disk; cheap enough to ask every half second.
    #[must_use]
    pub fn disk_version(&self) -> u64 {
        self.files.version()
    }

    /// The present trust list, read from the disk.
    ///
    /// # Errors
    /// The disk fails.
    pub fn trust(&self) -> Result<SignedTrust, AuthorityError> {
        Ok(self.look()?.trust.signed())
    }

    /// The certificates that were issued and have not been over for long, newest first.
    ///
    /// # Errors
    /// The disk fails.
    pub fn issued(&self) -> Result<Vec<IssuedRow>, AuthorityError> {
        Ok(self.look()?.issued())
    }

    /// The tokens that are known, newest first; those that are over for a day are forgotten.
    ///
    /// # Errors
    /// The disk fails.
    pub fn tokens(&self, now: SystemTime) -> Result<Vec<TokenRow>, AuthorityError> {
        Ok(self.look()?.token_rows(now))
    }

    /// How far a rotation has come.
    ///
    /// # Errors
    /// The disk fails.
    pub fn rotation(&self, now: SystemTime) -> Result<Rotation, AuthorityError> {
        Ok(self.look()?.rotation(now))
    }
}

/// Who becomes a member, and stays one.
impl Authority {
    /// Makes a key and a certificate for it. Every field is decided here, none by the holder.
    ///
    /// # Errors
    /// The name cannot be used, the node was revoked, the authority's own time is over, or the disk fails.
    pub fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Issued, AuthorityError> {
        self.transact(now, |draft| {
            let key = keys::generate()?;
            let certified = draft.issue(&key, subject, Vec::new())?;
            Ok(Issued {
                certificate: certified.chain.iter().map(|one| pem("CERTIFICATE", one)).collect(),
                key: Zeroizing::new(key.serialize_pem()),
                authority: draft.held.bundle(),
                trust: Some(draft.registry.trust.signed()),
            })
        })
    }

    /// Makes a token. It has no addresses yet: see [`Token::at`].
    ///
    /// # Errors
    /// The role, the name or the time is not allowed, there are too many open tokens, or the disk fails.
    pub fn create_token(&self, order: &TokenOrder, now: SystemTime) -> Result<Token, AuthorityError> {
        self.transact(now, |draft| draft.create_token(order))
    }

    /// Takes a token back. False when there is no open one with this id.
    ///
    /// # Errors
    /// The disk fails.
    pub fn revoke_token(&self, id: TokenId, now: SystemTime) -> Result<bool, AuthorityError> {
        self.transact(now, |draft| Ok(draft.revoke_token(id)))
    }

    /// Answers `enrol.join`: the proof is checked before anything of the request is read, and use and issue are one
    /// transaction. `exporter` is the TLS exporter's value on this connection, `from` the joiner's address for the audit
    /// log. The same token with the same key gets the same certificate again, for an answer that was lost.
    ///
    /// # Errors
    /// See [`JoinRefusal`].
    pub fn join(
        &self,
        params: &JoinParams,
        exporter: &[u8; 32],
        from: &str,
        now: SystemTime,
    ) -> Result<Enrolled, JoinRefusal> {
        self.transact(now, |draft| draft.join(params, exporter, from))
    }

    /// Answers `certs.renew` for the holder of a connection's certificate: it keeps its id, role and name.
    ///
    /// # Errors
    /// See [`RenewRefusal`].
    pub fn renew(
        &self,
        peer: &PeerIdentity,
        params: &RenewParams,
        now: SystemTime,
    ) -> Result<Enrolled, RenewRefusal> {
        self.transact(now, |draft| draft.renew(peer, params))
    }

    /// Signs a request that a person brought (DER): role, id and name are the person's word, only the public key is the
    /// request's.
    ///
    /// # Errors
    /// The request or the name cannot be used, the node was revoked, or the disk fails.
    pub fn sign(&self, csr: &[u8], subject: &Subject, now: SystemTime) -> Result<Enrolled, AuthorityError> {
        self.transact(now, |draft| draft.sign(csr, subject))
    }

    /// Certificates for the join protocol of the member `node`, good for [`TOKEN_LIFETIME_MAX`] and an hour.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn join_certificates(
        &self,
        node: NodeId,
        now: SystemTime,
    ) -> Result<JoinCertificates, AuthorityError> {
        let (registry, held) = self.read()?;
        let mut made = Vec::new();
        for authority in &held.authorities {
            let Some(issuer) = &authority.issuer else { continue };
            let (lifetime, ends) = (JOIN_CERTIFICATE_LIFETIME, authority.not_after);
            let key = keys::generate()?;
            let leaf =
                template::join(registry.cluster, node, lifetime, now, ends)?.signed_by(&key, issuer)?;
            let chain = vec![CertificateDer::from(leaf), authority.certificate.clone()];
            let key = Zeroizing::new(key.serialize_pem());
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
            let key = provider()
                .key_provider
                .load_private_key(key)
                .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
            made.push((authority.fingerprint, Arc::new(CertifiedKey::new(chain, key))));
        }
        Ok(JoinCertificates(made))
    }
}

/// Who is trusted no longer.
impl Authority {
    /// Revokes; gives the certificates that this ended. A node or serial that is not known here is revoked all the same.
    ///
    /// # Errors
    /// A serial is not hexadecimal, there are too many revocations, or the disk fails.
    pub fn revoke(&self, what: &Revoke, now: SystemTime) -> Result<Vec<IssuedRow>, AuthorityError> {
        self.transact(now, |draft| draft.revoke(what))
    }

    /// Begins a rotation: makes the next generation, signed also by the present one, which from now on signs new
    /// certificates.
    ///
    /// # Errors
    /// One runs already, or the disk fails.
    pub fn rotation_start(&self, now: SystemTime) -> Result<Rotation, AuthorityError> {
        let rotation = self.transact(now, |draft| draft.rotation_start())?;
        self.read()?;
        Ok(rotation)
    }

    /// Ends a rotation: the old generation is trusted no more, its key is removed, open tokens of it are revoked. The
    /// caller has made sure that nobody waits, or wants it all the same.
    ///
    /// # Errors
    /// None runs, or the disk fails. When only the old key could not be removed, the error names it, and the rotation is
    /// finished; once more removes it, as after a power cut at that moment.
    pub fn rotation_finish(&self, now: SystemTime) -> Result<Rotation, AuthorityError> {
        let finished = self.transact(now, |draft| {
            let before = draft.generations();
            let rotation = draft.rotation_finish()?;
            Ok((rotation, before, draft.generations()))
        });
        match finished {
            Ok((rotation, before, after)) => {
                self.read()?;
                self.remove_gone(&before, &after)?;
                Ok(rotation)
            }
            Err(AuthorityError::NotRotating(only)) => {
                self.remove_gone(&[only.saturating_sub(1)].into(), &[only].into())?;
                Err(AuthorityError::NotRotating(only))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes in what a second holder of the key published: its revocations are added to ours, and a rotation that it
    /// began or finished is followed. True when ours has changed and has to be published.
    ///
    /// # Errors
    /// The list is not of this authority, there are too many revocations, or the disk fails.
    pub fn merge(&self, seen: &SignedTrust, now: SystemTime) -> Result<bool, AuthorityError> {
        let (changed, before, after) = self.transact(now, |draft| {
            let before = draft.generations();
            let changed = draft.merge(seen)?;
            Ok::<_, AuthorityError>((changed, before, draft.generations()))
        })?;
        if changed {
            self.read()?;
            self.remove_gone(&before, &after)?;
        }
        Ok(changed)
    }
}

/// Checks that a certificate can carry a name.
fn check_name(name: &str) -> Result<(), AuthorityError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-');
    match !name.trim().is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(legal) {
        true => Ok(()),
        false => Err(AuthorityError::InvalidName(name.chars().take(80).collect())),
    }
}

#[cfg(test)]
mod tests;
