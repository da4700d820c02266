//! Who this process is: certificate, key and authority, from a directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::hkdf;
use lineside_wire::{ClusterId, NodeId, Role};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use zeroize::Zeroizing;

use crate::{
    Authority, AuthorityError, Issued, PeerIdentity, PeerIdentityError, Subject,
    disk::{self, PUBLIC_MODE, SECRET_MODE},
    peer_identity, provider,
    show::CertificateSummary,
};

const CERTIFICATE_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const AUTHORITY_FILE: &str = "ca.pem";

/// The directory of the authority, below a data directory.
pub const AUTHORITY_DIRECTORY: &str = "ca";
/// The directory of the own identity, below a data directory.
pub const IDENTITY_DIRECTORY: &str = "identity";

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is none.
    #[error(
        "{} holds no identity: issue one on the machine that made the cluster (`lineside certs issue`) and copy \
         its directory here",
        .0.display()
    )]
    Missing(PathBuf),
    /// A part of it is not there.
    #[error("{} is missing: the identity directory must hold cert.pem, key.pem and ca.pem; copy it whole", .0.display())]
    Incomplete(PathBuf),
    /// A file cannot be read or written, or is not private.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{} is damaged ({reason}): restore it, or issue this machine a new identity", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// Key and certificate are of different identities.
    #[error("{} and key.pem do not belong together: copy the whole directory of one identity", .0.display())]
    KeyMismatch(PathBuf),
    /// The certificate was signed by another authority than the one beside it.
    #[error("{} was not signed by the authority in ca.pem: they are of different clusters", .0.display())]
    ForeignAuthority(PathBuf),
    /// The certificate names no member.
    #[error("{}: {error}", path.display())]
    NoMember {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: PeerIdentityError,
    },
    /// The cluster could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// A certificate, its key, and the authority whose members it trusts.
pub struct Identity {
    holder: PeerIdentity,
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
    /// An expired one is loaded too, so that it can be shown; ask [`Identity::expires_in`].
    ///
    /// # Errors
    /// A file is missing, not private, damaged, or does not belong to the others.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        if !directory.join(CERTIFICATE_FILE).exists() && !directory.join(KEY_FILE).exists() {
            return Err(IdentityError::Missing(directory.to_owned()));
        }
        disk::check_directory(directory).map_err(file(directory))?;
        let key_path = directory.join(KEY_FILE);
        if key_path.exists() {
            disk::check_secret(&key_path).map_err(file(&key_path))?;
        }
        let certificate = read(directory, CERTIFICATE_FILE)?;
        let key = Zeroizing::new(read(directory, KEY_FILE)?);
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
        if chain.is_empty() {
            return Err(damaged(CERTIFICATE_FILE, "it holds no certificate".to_owned()));
        }
        let holder =
            peer_identity(&chain).map_err(|error| IdentityError::NoMember { path: path(), error })?;
        let summary = CertificateSummary::of_der(&authority)
            .map_err(|error| damaged(AUTHORITY_FILE, error.to_string()))?;
        if summary.authority_of != Some(holder.cluster) || !signed_by(&chain[0], &authority) {
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
        Ok(Self { holder, certified: Arc::new(certified), authority, derivation })
    }

    /// Writes an issued certificate as an identity directory. An identity that is there is never replaced.
    ///
    /// # Errors
    /// There is one already, or the files cannot be written.
    pub fn store(directory: &Path, issued: &Issued) -> Result<(), IdentityError> {
        if directory.join(CERTIFICATE_FILE).exists() || directory.join(KEY_FILE).exists() {
            let source =
                io::Error::new(io::ErrorKind::AlreadyExists, "an identity is there; it is never replaced");
            return Err(IdentityError::File { path: directory.to_owned(), source });
        }
        disk::make_private_directory(directory).map_err(file(directory))?;
        let write = |name: &str, text: &str, mode| {
            let path = directory.join(name);
            disk::write_whole(&path, text.as_bytes(), mode).map_err(file(&path))
        };
        write(AUTHORITY_FILE, &issued.authority, PUBLIC_MODE)?;
        write(KEY_FILE, &issued.key, SECRET_MODE)?;
        write(CERTIFICATE_FILE, &issued.certificate, PUBLIC_MODE)
    }

    /// Loads the identity below a data directory; in an empty one, makes a cluster with this as its first member.
    ///
    /// The second value says whether a cluster was made. With `may_create` false nothing is ever made.
    ///
    /// # Errors
    /// As [`Identity::load`]: what is there but damaged is an error, never replaced by a new identity.
    pub fn ensure(
        data: &Path,
        name: &str,
        role: Role,
        may_create: bool,
        now: SystemTime,
    ) -> Result<(Self, bool), IdentityError> {
        let (identity, authority) = (data.join(IDENTITY_DIRECTORY), data.join(AUTHORITY_DIRECTORY));
        match Self::load(&identity) {
            Err(IdentityError::Missing(_)) if may_create && !authority.exists() => {}
            result => return result.map(|identity| (identity, false)),
        }
        disk::make_private_directory(data).map_err(file(data))?;
        let authority = Authority::create(&authority, name, now)?;
        let issued = authority.issue(&Subject::new(role, name), now)?;
        Self::store(&identity, &issued)?;
        Self::load(&identity).map(|identity| (identity, true))
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

/// Whether `authority` signed `leaf`; validity in time is not asked.
fn signed_by(leaf: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let Ok(anchor) = webpki::anchor_from_trusted_cert(authority) else { return false };
    let Ok(end_entity) = webpki::EndEntityCert::try_from(leaf) else { return false };
    let Ok(summary) = CertificateSummary::of_der(leaf) else { return false };
    // Judged at a moment when the leaf was valid, so that an expired identity is told from a foreign one.
    let when = UnixTime::since_unix_epoch(Duration::from_secs(summary.not_before + 1));
    let algorithms = provider().signature_verification_algorithms.all;
    end_entity
        .verify_for_usage(algorithms, &[anchor], &[], when, webpki::KeyUsage::client_auth(), None, None)
        .is_ok()
}
