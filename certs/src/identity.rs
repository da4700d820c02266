//! Who this process is: certificate, key and authority, from a directory.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::hkdf;
use lineside_wire::{ClusterId, NodeId, Role};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use zeroize::Zeroizing;

use crate::{
    Authority, IdentityError, Issued, PeerIdentity, Subject,
    disk::{self, PUBLIC_MODE, SECRET_MODE},
    names::parse_cluster_uri,
    peer::holder,
    provider,
    x509::{Facts, since_1970},
};

const CERTIFICATE_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const AUTHORITY_FILE: &str = "ca.pem";

/// The directory of the authority, below a data directory.
pub const AUTHORITY_DIRECTORY: &str = "ca";
/// The directory of the own identity, below a data directory.
pub const IDENTITY_DIRECTORY: &str = "identity";

/// A certificate, its key, and the authority whose members it trusts.
pub struct Identity {
    holder: PeerIdentity,
    not_before: SystemTime,
    certified: Arc<CertifiedKey>,
    authority: CertificateDer<'static>,
    derivation: hkdf::Prk,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads the identity in `directory`.
    ///
    /// An expired one is loaded too, so that it can be shown; ask [`Identity::check_validity`] before using it.
    ///
    /// # Errors
    /// A file is missing, not private, damaged, or does not belong to the others.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        if !is_there(directory)? {
            return Err(IdentityError::Missing(directory.to_owned()));
        }
        disk::check_directory(directory)?;
        let key = Zeroizing::new(read(directory, KEY_FILE)?);
        disk::check_secret(&directory.join(KEY_FILE))?;
        let certificate = read(directory, CERTIFICATE_FILE)?;
        let authority = read(directory, AUTHORITY_FILE)?;
        let damaged =
            |name: &str, reason: String| IdentityError::Damaged { path: directory.join(name), reason };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| damaged(CERTIFICATE_FILE, error.to_string()))?;
        let key =
            PrivateKeyDer::from_pem_slice(&key).map_err(|error| damaged(KEY_FILE, error.to_string()))?;
        let authority = CertificateDer::from_pem_slice(&authority)
            .map_err(|error| damaged(AUTHORITY_FILE, error.to_string()))?;
        Self::assemble(directory, chain, key, authority)
    }

    fn assemble(
        directory: &Path,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        let path = || directory.join(CERTIFICATE_FILE);
        let damaged =
            |name: &str, reason: String| IdentityError::Damaged { path: directory.join(name), reason };
        let leaf =
            chain.first().ok_or_else(|| damaged(CERTIFICATE_FILE, "it holds no certificate".to_owned()))?;
        let facts = Facts::of(leaf).map_err(|error| damaged(CERTIFICATE_FILE, error.to_string()))?;
        let holder = holder(&facts).map_err(|error| IdentityError::NoMember { path: path(), error })?;
        let signer = Facts::of(&authority).map_err(|error| damaged(AUTHORITY_FILE, error.to_string()))?;
        let of_cluster = signer.only_uri().ok().and_then(parse_cluster_uri);
        let not_before = since_1970(facts.not_before);
        if !signer.is_authority
            || of_cluster != Some(holder.cluster)
            || !signed_by(leaf, &authority, not_before)
        {
            return Err(IdentityError::ForeignAuthority(path()));
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"lineside identity");
        let derivation = salt.extract(key.secret_der());
        let signing = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| damaged(KEY_FILE, error.to_string()))?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| IdentityError::KeyMismatch(path()))?;
        Ok(Self { holder, not_before, certified: Arc::new(certified), authority, derivation })
    }

    /// Writes an issued certificate as an identity directory. An identity that is there is never replaced.
    ///
    /// # Errors
    /// There is one already, even a part of one, or the files cannot be written.
    pub fn store(directory: &Path, issued: &Issued) -> Result<(), IdentityError> {
        if is_there(directory)? {
            return Err(IdentityError::Exists(directory.to_owned()));
        }
        disk::make_private_directory(directory).map_err(file(directory))?;
        disk::check_directory(directory)?;
        let write = |name: &str, text: &str, mode| {
            let path = directory.join(name);
            match disk::write_new(&path, text.as_bytes(), mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Err(IdentityError::Exists(directory.to_owned()))
                }
                result => result.map_err(file(&path)),
            }
        };
        // The key first: of two that write here at once, whoever writes it wins.
        write(KEY_FILE, &issued.key, SECRET_MODE)?;
        let rest = write(AUTHORITY_FILE, &issued.authority, PUBLIC_MODE)
            .and_then(|()| write(CERTIFICATE_FILE, &issued.certificate, PUBLIC_MODE));
        if rest.is_err() {
            // On a full disk, say: half an identity would refuse the next try, too.
            for name in [KEY_FILE, AUTHORITY_FILE, CERTIFICATE_FILE] {
                let _not_there = fs::remove_file(directory.join(name));
            }
        }
        rest
    }

    /// Loads the identity below a data directory; in an empty one, makes a cluster with this as its first member.
    ///
    /// The second value says whether a cluster was made. With `may_create` false nothing is ever made. As with
    /// [`Identity::load`], an expired identity is loaded.
    ///
    /// # Errors
    /// As [`Identity::load`] and [`Authority::create`]: what is there but damaged or not whole is an error, never
    /// replaced by a new identity.
    pub fn ensure(
        data: &Path,
        name: &str,
        role: Role,
        may_create: bool,
        now: SystemTime,
    ) -> Result<(Self, bool), IdentityError> {
        let (identity, authority) = (data.join(IDENTITY_DIRECTORY), data.join(AUTHORITY_DIRECTORY));
        match Self::load(&identity) {
            Err(IdentityError::Missing(_)) if may_create => {}
            result => return result.map(|identity| (identity, false)),
        }
        if Authority::is_there(&authority)? {
            return Err(IdentityError::AuthorityOnly { authority, identity });
        }
        let authority = Authority::create(&authority, name, now)?;
        let issued = authority.issue(&Subject::new(role, name), now)?;
        Self::store(&identity, &issued)?;
        Self::load(&identity).map(|identity| (identity, true))
    }

    /// Says whether the certificate is valid now: peers refuse it otherwise.
    ///
    /// # Errors
    /// It has ended or has not begun, or this machine's clock is wrong.
    pub fn check_validity(&self, now: SystemTime) -> Result<(), IdentityError> {
        let name = || self.holder.name.clone();
        if now < self.not_before {
            return Err(IdentityError::NotYetValid { name: name(), from: self.not_before, now });
        }
        match self.expires_in(now) {
            Some(_) => Ok(()),
            None => Err(IdentityError::Expired { name: name(), since: self.not_after(), now }),
        }
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.holder.cluster
    }

    /// The id.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.holder.node
    }

    /// What the certificate allows.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.holder.role
    }

    /// The name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.holder.name
    }

    /// When the certificate ends.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.holder.not_after
    }

    /// Time until the certificate ends; `None` when it has ended.
    #[must_use]
    pub fn expires_in(&self, now: SystemTime) -> Option<Duration> {
        self.not_after().duration_since(now).ok().filter(|left| !left.is_zero())
    }

    /// 32 secret bytes for one purpose, the same at every start of the same identity.
    ///
    /// # Panics
    /// Never: the length fits HKDF.
    #[must_use]
    pub fn derive_secret(&self, purpose: &str) -> [u8; 32] {
        let mut secret = [0; 32];
        self.derivation
            .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut secret))
            .expect("32 bytes are what one block of HKDF-SHA256 gives");
        secret
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    pub(crate) const fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }
}

/// Whether there is an identity in `directory`, whole or not.
fn is_there(directory: &Path) -> Result<bool, IdentityError> {
    for name in [KEY_FILE, AUTHORITY_FILE, CERTIFICATE_FILE] {
        let path = directory.join(name);
        if disk::is_there(&path).map_err(file(&path))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { path, source }
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, IdentityError> {
    let path = directory.join(name);
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(IdentityError::Incomplete(path)),
        Err(source) => Err(IdentityError::File { path, source }),
        Ok(bytes) => Ok(bytes),
    }
}

/// Whether `authority` signed `leaf`; whether it is valid now is not asked.
///
/// Judged at a moment when the leaf was valid, so that an expired identity is told from a foreign one.
fn signed_by(leaf: &CertificateDer<'_>, authority: &CertificateDer<'_>, when: SystemTime) -> bool {
    let Ok(anchor) = webpki::anchor_from_trusted_cert(authority) else { return false };
    let Ok(end_entity) = webpki::EndEntityCert::try_from(leaf) else { return false };
    let when = UnixTime::since_unix_epoch(when.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider().signature_verification_algorithms.all;
    end_entity
        .verify_for_usage(algorithms, &[anchor], &[], when, webpki::KeyUsage::client_auth(), None, None)
        .is_ok()
}
