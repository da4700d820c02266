//! The cluster's certificate authority: a cluster is whoever it signed for.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use lineside_wire::{ClusterId, NodeId, Role};
use rand::RngExt as _;
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::Zeroizing;

use crate::{
    disk::{self, PUBLIC_MODE, SECRET_MODE, Unsafe},
    show::CertificateSummary,
    template,
    x509::readable,
};

/// Longest name of a cluster or a member, in bytes: X.509's own limit for a common name.
pub const NAME_BYTES_MAX: usize = 64;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// Why the authority cannot be used. Nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("{} already holds a cluster's authority; it is never replaced (move it away to begin anew)", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} holds no authority: run this on the machine that made the cluster, or `lineside certs init`", .0.display())]
    Missing(PathBuf),
    /// A part of it is not there.
    #[error(
        "{} is missing: an authority is ca.pem and ca.key; restore both from one backup (if making the cluster was \
         cut off just now, remove the directory and begin anew)",
        .0.display()
    )]
    Incomplete(PathBuf),
    /// Others can read the key or change the directory.
    #[error(transparent)]
    Unsafe(#[from] Unsafe),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is damaged.
    #[error("{} is damaged ({reason}): restore it from a backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// The authority's own time is over.
    #[error("the authority ended on {}: nobody would trust what it signs; make a new cluster, or set this machine's clock", readable(*.0))]
    Expired(SystemTime),
    /// A name that no certificate can carry.
    #[error("{0:?} cannot be a name: use 1 to {NAME_BYTES_MAX} letters, digits, spaces, '.', '_' or '-'")]
    InvalidName(String),
    /// The certificate could not be made: a defect of ours.
    #[error("the certificate could not be made: {0}")]
    Signing(#[from] rcgen::Error),
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What the holder may be.
    pub role: Role,
    /// The holder's id: fresh for a new machine, the same for a new certificate of a known one.
    pub node: NodeId,
    /// The holder's name for people.
    pub name: String,
}

impl Subject {
    /// A new holder with a fresh random id.
    #[must_use]
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self { role, node: NodeId::from_bytes(rand::rng().random()), name: name.into() }
    }
}

/// A certificate with its key, and the authority's certificate.
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM; wiped from memory when dropped.
    pub key: Zeroizing<String>,
    /// The authority's certificate, PEM.
    pub authority: String,
}

/// The authority with its key.
pub struct Authority {
    cluster: ClusterId,
    certificate: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new cluster: a fresh id, key and certificate in `directory`.
    ///
    /// # Errors
    /// There is an authority already, even half of one, the name cannot be used, or the files cannot be written.
    pub fn create(directory: &Path, cluster_name: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        if Self::is_there(directory)? {
            return Err(AuthorityError::Exists(directory.to_owned()));
        }
        check_name(cluster_name)?;
        let cluster = ClusterId::from_bytes(rand::rng().random());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = template::authority(cluster, cluster_name, now)?.self_signed(&key)?.pem();
        disk::make_private_directory(directory).map_err(file(directory))?;
        disk::check_directory(directory)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        // The key first: of two that make a cluster here at once, whoever writes it wins.
        write_new(directory, &key_path, key_pem.as_bytes(), SECRET_MODE)?;
        write_new(directory, &certificate_path, certificate.as_bytes(), PUBLIC_MODE)?;
        Self::load(directory)
    }

    /// Loads the authority that [`Authority::create`] made there.
    ///
    /// # Errors
    /// It is not there, not whole, not private, or damaged.
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        if !Self::is_there(directory)? {
            return Err(AuthorityError::Missing(directory.to_owned()));
        }
        let damaged = |path: &Path, reason: String| AuthorityError::Damaged { path: path.to_owned(), reason };
        let key = Zeroizing::new(read(&key_path)?);
        let certificate = read(&certificate_path)?;
        disk::check_directory(directory)?;
        disk::check_secret(&key_path)?;
        let key = KeyPair::from_pem(&key).map_err(|error| damaged(&key_path, error.to_string()))?;
        let summary = CertificateSummary::of_pem(&certificate)
            .map_err(|error| damaged(&certificate_path, error.to_string()))?;
        let cluster = summary.authority_of.ok_or_else(|| {
            damaged(&certificate_path, "it is not the certificate of a cluster's authority".to_owned())
        })?;
        if summary.public_key != key.public_key_raw() {
            return Err(damaged(&key_path, "it does not belong to ca.pem".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self { cluster, certificate, not_after: summary.not_after(), issuer })
    }

    /// Whether there is an authority in `directory`, whole or not.
    pub(crate) fn is_there(directory: &Path) -> Result<bool, AuthorityError> {
        for name in [KEY_FILE, CERTIFICATE_FILE] {
            let path = directory.join(name);
            if disk::is_there(&path).map_err(file(&path))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// When the authority ends, and with it every certificate of the cluster.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Makes a key and a certificate for it. Every field is decided here, none by the holder.
    ///
    /// # Errors
    /// The name cannot be used, or the authority's own time is over.
    pub fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Issued, AuthorityError> {
        check_name(&subject.name)?;
        if self.not_after <= now {
            return Err(AuthorityError::Expired(self.not_after));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = template::leaf(self.cluster, subject, now, self.not_after)?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let key = Zeroizing::new(key.serialize_pem());
        Ok(Issued { certificate, key, authority: self.certificate.clone() })
    }
}

fn check_name(name: &str) -> Result<(), AuthorityError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-');
    match !name.trim().is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(legal) {
        true => Ok(()),
        false => Err(AuthorityError::InvalidName(name.chars().take(80).collect())),
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { path, source }
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(AuthorityError::Incomplete(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(AuthorityError::Damaged { path: path.to_owned(), reason: "it is no text".to_owned() })
        }
        Err(source) => Err(AuthorityError::File { path: path.to_owned(), source }),
    }
}

fn write_new(directory: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    match disk::write_new(path, bytes, mode) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(AuthorityError::Exists(directory.to_owned()))
        }
        Err(source) => Err(AuthorityError::File { path: path.to_owned(), source }),
    }
}
