//! The cluster's certificate authority: a cluster is whoever it signed for.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lineside_wire::{ClusterId, NodeId, Role};
use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
    string::Ia5String,
};
use zeroize::Zeroizing;

use crate::{
    disk::{self, PUBLIC_MODE, SECRET_MODE},
    peer::member_uri,
    show::CertificateSummary,
};

/// The authority's own certificate outlives the machines; its key can be rotated before.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A member's certificate. Nothing renews it by itself yet, so it has to outlive a year of not being thought of.
const MEMBER_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// An admin's certificate changes the cluster: it lasts a working day.
const ADMIN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Certificates are valid from a little before they were made: clocks on a floor differ.
const BACKDATED: Duration = Duration::from_secs(3600);
/// Longest name of a cluster or a member, in bytes: X.509's own limit for a common name.
pub const NAME_BYTES_MAX: usize = 64;

const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("{} already holds a cluster's authority; it is never replaced (move it away to begin anew)", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} holds no authority: run this on the machine that made the cluster, or `lineside certs init`", .0.display())]
    Missing(PathBuf),
    /// A file cannot be read or written, or is not private.
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
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new cluster: a fresh id, key and certificate in `directory`.
    ///
    /// # Errors
    /// There is an authority already, the name cannot be used, or the files cannot be written.
    pub fn create(directory: &Path, cluster_name: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        if certificate_path.exists() || key_path.exists() {
            return Err(AuthorityError::Exists(directory.to_owned()));
        }
        check_name(cluster_name)?;
        let cluster = ClusterId::from_bytes(rand::rng().random());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = authority_params(cluster, cluster_name, now)?.self_signed(&key)?.pem();
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { path, source }
        };
        disk::make_private_directory(directory).map_err(file(directory))?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        // The key first: an authority counts as there once its certificate is.
        disk::write_whole(&key_path, key_pem.as_bytes(), SECRET_MODE).map_err(file(&key_path))?;
        disk::write_whole(&certificate_path, certificate.as_bytes(), PUBLIC_MODE)
            .map_err(file(&certificate_path))?;
        Self::load(directory)
    }

    /// Loads the authority that [`Authority::create`] made there.
    ///
    /// # Errors
    /// It is not there, not private, or damaged.
    pub fn load(directory: &Path) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        if !key_path.exists() && !certificate_path.exists() {
            return Err(AuthorityError::Missing(directory.to_owned()));
        }
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { path, source }
        };
        let damaged = |path: &Path, reason: String| AuthorityError::Damaged { path: path.to_owned(), reason };
        disk::check_directory(directory).map_err(file(directory))?;
        disk::check_secret(&key_path).map_err(file(&key_path))?;
        let certificate = std::fs::read_to_string(&certificate_path).map_err(file(&certificate_path))?;
        let key = Zeroizing::new(std::fs::read_to_string(&key_path).map_err(file(&key_path))?);
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
        Ok(Self { cluster, certificate, issuer })
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

    /// Makes a key and a certificate for it. Every field is decided here, none by the holder.
    ///
    /// # Errors
    /// The name cannot be used.
    pub fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Issued, AuthorityError> {
        check_name(&subject.name)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = leaf_params(self.cluster, subject, now)?;
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

/// The DNS name under which all members of a cluster lie. The authority can sign for no other.
pub(crate) fn cluster_domain(cluster: ClusterId) -> String {
    format!("{cluster}.lineside.internal")
}

fn authority_params(
    cluster: ClusterId,
    name: &str,
    now: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base_params(&format!("{name} CA g1"), now, AUTHORITY_LIFETIME);
    // The id makes namesakes distinct: a certificate of another cluster is then an unknown issuer's, not a bad
    // signature's.
    params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // DNS only: webpki refuses URI name constraints.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(cluster_domain(cluster))],
        excluded_subtrees: Vec::new(),
    });
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{cluster}"))?)];
    Ok(params)
}

fn leaf_params(
    cluster: ClusterId,
    subject: &Subject,
    now: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let Subject { role, node, name } = subject;
    let lifetime = match role {
        Role::Node | Role::Gateway | Role::Client => MEMBER_LIFETIME,
        Role::Admin => ADMIN_LIFETIME,
    };
    let mut params = base_params(name, now, lifetime);
    let domain = cluster_domain(cluster);
    let uri = Ia5String::try_from(member_uri(cluster, *role, *node))?;
    let own = Ia5String::try_from(format!("{node}.{domain}"))?;
    params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(own)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if role.is_member() {
        params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(format!("member.{domain}"))?));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn base_params(common_name: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // 128 random bits, the first one cleared: a serial number is positive.
    let mut serial: [u8; 16] = rand::rng().random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
    params
}
