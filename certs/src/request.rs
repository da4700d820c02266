//! Asking for a certificate: the holder makes the key, the authority never sees it.

mod answer;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lineside_wire::{Enrolled, JoinParams, Role};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_bytes::{ByteArray, ByteBuf};
use zeroize::Zeroizing;

pub use self::answer::{EnrolError, enrolled_from_pem, enrolled_to_pem, request_from_pem};
use crate::{
    Identity, IdentityError, Issued, Token, csr,
    disk::{self, PUBLIC_MODE, SECRET_MODE},
    identity::files,
    pem,
};

/// The key of a request that waits for its answer.
pub const REQUEST_KEY_FILE: &str = "request.key";
/// The request itself: what is brought to the authority.
pub const REQUEST_FILE: &str = "request.pem";

/// A fresh key and the request (PKCS #10) for a certificate.
pub struct CertificateRequest {
    pub(crate) key: Zeroizing<String>,
    pub(crate) csr: Vec<u8>,
}

impl std::fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateRequest").finish_non_exhaustive()
    }
}

impl CertificateRequest {
    /// Makes a key (ECDSA P-256) and a request for it.
    ///
    /// # Panics
    /// The system gives no random bytes.
    #[must_use]
    pub fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the system gives random bytes");
        // No name and no wish: who the certificate is for is not the request's to say.
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).expect("a request without wishes can be written");
        Self { key: Zeroizing::new(key.serialize_pem()), csr: csr.der().to_vec() }
    }

    /// The request, DER.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// The request, PEM: for a file that is brought to the authority.
    #[must_use]
    pub fn pem(&self) -> String {
        pem::write(pem::REQUEST, &self.csr)
    }

    /// The params of `enrol.join`, with the proof for this connection.
    #[must_use]
    pub fn join_params(&self, token: &Token, role: Role, name: &str, exporter: &[u8; 32]) -> JoinParams {
        JoinParams {
            token: ByteArray::new(token.id().0),
            role,
            name: name.to_owned(),
            csr: ByteBuf::from(self.csr.clone()),
            proof: ByteArray::new(token.proof(exporter, role, name, &self.csr)),
        }
    }

    /// Makes an identity of the answer to `enrol.join` or `certs sign`.
    ///
    /// # Errors
    /// The certificate is not for this key, not signed by an authority of the trust list that came with it,
    /// or that list was not signed by the authority that was expected (SHA-256 of its SPKI).
    pub fn complete(&self, answer: &Enrolled, expected: Option<&[u8; 32]>) -> Result<Issued, EnrolError> {
        answer::complete(self, answer, expected)
    }

    /// Makes the renewed form of an identity of the answer to `certs.renew`: same cluster, role, node. Of the
    /// two trust lists the newer one goes with it.
    ///
    /// # Errors
    /// As [`CertificateRequest::complete`], or the certificate is another member's, or ends before the
    /// present one.
    pub fn renew(&self, present: &Identity, answer: &Enrolled) -> Result<Issued, EnrolError> {
        answer::renew(self, present, answer)
    }

    /// Keeps a request for `certs install` in `directory`: `request.key` and `request.pem`. One that is there
    /// is never replaced.
    ///
    /// # Errors
    /// It cannot be written, or one is there.
    pub fn store(&self, directory: &Path) -> Result<(), IdentityError> {
        let [key, request] = places(directory);
        for path in [&key, &request] {
            if disk::is_there(path).map_err(files::file(path))? {
                return Err(IdentityError::RequestExists(directory.to_owned()));
            }
        }
        disk::make_private_directory(directory).map_err(files::file(directory))?;
        disk::check_directory(directory)?;
        let write = |path: &Path, text: &str, mode| match disk::write_new(path, text.as_bytes(), mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(IdentityError::RequestExists(directory.to_owned()))
            }
            result => result.map_err(files::file(path)),
        };
        write(&key, &self.key, SECRET_MODE)?;
        let rest = write(&request, &self.pem(), PUBLIC_MODE);
        if rest.is_err() {
            // As with an identity: half a request would refuse the next try.
            let _not_there = fs::remove_file(&key);
        }
        rest
    }

    /// The request that [`CertificateRequest::store`] kept.
    ///
    /// # Errors
    /// It is not there, not whole, not private or damaged.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let [key_path, request_path] = places(directory);
        let damaged = |path: &Path, reason: String| {
            let fix = "remove request.key and request.pem, and make a new request (`lineside certs request`)";
            IdentityError::Damaged { path: path.to_owned(), reason, fix }
        };
        for path in [&key_path, &request_path] {
            if !disk::is_there(path).map_err(files::file(path))? {
                return Err(IdentityError::RequestMissing(path.clone()));
            }
        }
        disk::check_directory(directory)?;
        let key = files::read_secret(&key_path)?;
        let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
        let pair = KeyPair::from_pem(&key).map_err(|error| damaged(&key_path, error.to_string()))?;
        let request = String::from_utf8_lossy(&files::read(&request_path)?).into_owned();
        let csr = request_from_pem(&request).map_err(|error| damaged(&request_path, error.to_string()))?;
        let read = csr::read(&csr).map_err(|error| damaged(&request_path, error.to_string()))?;
        match read.key.spki() == rcgen::PublicKeyData::subject_public_key_info(&pair) {
            true => Ok(Self { key, csr }),
            false => Err(damaged(&request_path, "it is of another key than request.key".to_owned())),
        }
    }

    /// Removes what [`CertificateRequest::store`] kept, once its answer is installed. That there is none is
    /// no error.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(directory: &Path) -> Result<(), IdentityError> {
        for path in places(directory) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(files::file(&path))?,
            }
        }
        Ok(())
    }
}

impl Default for CertificateRequest {
    fn default() -> Self {
        Self::new()
    }
}

fn places(directory: &Path) -> [PathBuf; 2] {
    [REQUEST_KEY_FILE, REQUEST_FILE].map(|name| directory.join(name))
}
