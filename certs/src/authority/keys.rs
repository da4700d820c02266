//! The generations' certificates and keys, as they are held in memory.

use std::{sync::Arc, time::SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

use super::{
    AuthorityError,
    files::Files,
    registry::{Generation, Registry},
};
use crate::{
    disk,
    names::parse_cluster_uri,
    passphrase::{self, SealError},
    x509::{Facts, since_1970},
};

/// The authorities that the cluster trusts, with the keys that are here.
pub(super) struct Held {
    /// Oldest first; the last one signs.
    pub(super) authorities: Vec<Arc<HeldAuthority>>,
    /// The last one's certificate as the one before it signed it, while a rotation runs.
    pub(super) cross: Option<CertificateDer<'static>>,
}

/// One of them.
pub(super) struct HeldAuthority {
    pub(super) generation: u32,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
    /// SHA-256 of its SPKI.
    pub(super) fingerprint: [u8; 32],
    pub(super) not_after: SystemTime,
    point: Vec<u8>,
    /// `None` when another holder began this generation.
    pub(super) issuer: Option<Issuer<'static, KeyPair>>,
}

impl HeldAuthority {
    /// Whether this authority's key made a signature.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(bytes, signature).is_ok()
    }
}

impl Held {
    /// Loads what a registry names; what `before` has already is not read again.
    pub(super) fn load(
        files: &Files,
        registry: &Registry,
        passphrase: Option<&str>,
        before: Option<&Self>,
    ) -> Result<Self, AuthorityError> {
        let authorities = registry.generations.iter().map(|generation| {
            match before.and_then(|before| before.find(generation)) {
                Some(known) => Ok(Arc::clone(known)),
                None => load_authority(files, registry, generation, passphrase).map(Arc::new),
            }
        });
        let authorities = authorities.collect::<Result<Vec<_>, _>>()?;
        let issuing = registry.issuing();
        let cross = match registry.retiring().is_some() && issuing.held {
            true => Some(read_certificate(files, &files.cross_path(issuing.number))?.1),
            false => None,
        };
        Ok(Self { authorities, cross })
    }

    /// Whether this is what a registry names.
    pub(super) fn fits(&self, registry: &Registry) -> bool {
        self.authorities.len() == registry.generations.len()
            && registry.generations.iter().all(|generation| self.find(generation).is_some())
    }

    fn find(&self, generation: &Generation) -> Option<&Arc<HeldAuthority>> {
        self.authorities.iter().find(|authority| {
            authority.generation == generation.number
                && authority.fingerprint == generation.fingerprint
                && authority.issuer.is_some() == generation.held
        })
    }

    /// The authority that signs.
    pub(super) fn issuing(&self) -> &HeldAuthority {
        self.authorities.last().expect("a registry has a generation")
    }

    /// All certificates, PEM, oldest first.
    pub(super) fn bundle(&self) -> String {
        self.authorities.iter().map(|authority| authority.pem.as_str()).collect()
    }
}

/// Makes a key.
pub(super) fn generate() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// What a key file holds.
pub(super) fn file_text(key: &KeyPair, passphrase: Option<&str>) -> Zeroizing<String> {
    let pem = Zeroizing::new(key.serialize_pem());
    match passphrase {
        Some(passphrase) => Zeroizing::new(passphrase::seal(&pem, passphrase)),
        None => pem,
    }
}

/// Writes all keys anew, under another passphrase or none.
///
/// They are written beside the old ones before the first takes its place: a power cut in between leaves files of which
/// one passphrase, the old one or the new one, opens all.
pub(super) fn replace(files: &Files, held: &Held, passphrase: Option<&str>) -> Result<(), AuthorityError> {
    let keys =
        held.authorities.iter().filter_map(|held| Some((held.generation, held.issuer.as_ref()?.key())));
    let keys: Vec<_> = keys.collect();
    let written = keys.iter().try_for_each(|(generation, key)| {
        files.write_secret(&files.next_key_path(*generation), &file_text(key, passphrase))
    });
    if let Err(error) = written {
        for (generation, _) in &keys {
            files.remove(&files.next_key_path(*generation))?;
        }
        return Err(error);
    }
    for (generation, _) in &keys {
        files.rename(&files.next_key_path(*generation), &files.key_path(*generation))?;
    }
    files.sync()
}

/// Checks that a passphrase (or none) is the one under which a key lies on the disk.
pub(super) fn check_passphrase(
    files: &Files,
    generation: u32,
    passphrase: Option<&str>,
) -> Result<(), AuthorityError> {
    let path = files.key_path(generation);
    match (passphrase::is_sealed(&files.read(&path)?), passphrase) {
        (true, _) => read_key(files, generation, passphrase).map(drop),
        (false, None) => Ok(()),
        (false, Some(_)) => Err(AuthorityError::WrongPassphrase(path)),
    }
}

fn load_authority(
    files: &Files,
    registry: &Registry,
    generation: &Generation,
    passphrase: Option<&str>,
) -> Result<HeldAuthority, AuthorityError> {
    let path = files.certificate_path(generation.number);
    let (pem, certificate) = read_certificate(files, &path)?;
    let facts = Facts::of(&certificate).map_err(|error| AuthorityError::damaged(&path, error))?;
    let cluster = facts.only_uri().ok().and_then(parse_cluster_uri);
    if !facts.is_authority || cluster != Some(registry.cluster) {
        return Err(AuthorityError::damaged(&path, "it is not the certificate of this cluster's authority"));
    }
    let fingerprint = facts.spki_sha256;
    if fingerprint != generation.fingerprint {
        return Err(AuthorityError::damaged(&path, "it has another key than registry.json says"));
    }
    let issuer = match generation.held {
        true => {
            let key = read_key(files, generation.number, passphrase)?;
            if facts.public_key != key.der_bytes() {
                let reason = format!("it does not belong to ca-g{}.pem", generation.number);
                return Err(AuthorityError::damaged(&files.key_path(generation.number), reason));
            }
            Some(Issuer::from_ca_cert_der(&certificate, key)?)
        }
        false => None,
    };
    Ok(HeldAuthority {
        generation: generation.number,
        certificate,
        pem,
        fingerprint,
        not_after: since_1970(facts.not_after),
        point: facts.public_key,
        issuer,
    })
}

fn read_certificate(
    files: &Files,
    path: &std::path::Path,
) -> Result<(String, CertificateDer<'static>), AuthorityError> {
    let pem = files.read(path)?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
    let certificate = certificate.map_err(|error| AuthorityError::damaged(path, error))?;
    Ok((pem, certificate))
}

fn read_key(files: &Files, generation: u32, passphrase: Option<&str>) -> Result<KeyPair, AuthorityError> {
    let path = files.key_path(generation);
    let error = match read_key_file(files, &path, passphrase) {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    // A change of the passphrase that was cut off after the first of two keys.
    let next = files.next_key_path(generation);
    if matches!(error, AuthorityError::WrongPassphrase(_) | AuthorityError::Locked(_))
        && disk::is_there(&next).map_err(AuthorityError::file(&next))?
        && let Ok(key) = read_key_file(files, &next, passphrase)
    {
        return Ok(key);
    }
    Err(error)
}

fn read_key_file(
    files: &Files,
    path: &std::path::Path,
    passphrase: Option<&str>,
) -> Result<KeyPair, AuthorityError> {
    let text = Zeroizing::new(files.read(path)?);
    disk::check_secret(path)?;
    let text = match (passphrase::is_sealed(&text), passphrase) {
        (false, _) => text,
        (true, None) => return Err(AuthorityError::Locked(path.to_owned())),
        (true, Some(passphrase)) => passphrase::open(&text, passphrase).map_err(|error| match error {
            SealError::Wrong => AuthorityError::WrongPassphrase(path.to_owned()),
            SealError::Damaged(reason) => AuthorityError::damaged(path, reason),
        })?,
    };
    KeyPair::from_pem(&text).map_err(|error| AuthorityError::damaged(path, error))
}
