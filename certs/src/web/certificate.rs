//! One certificate for HTTPS with its key: from the authority's answer, and on the disk.
//!
//! ```text
//!  DATA/web/   cert.pem   the certificate, and during a rotation what leads to the old authority
//!              key.pem    its key
//! ```
//!
//! The two are written one after the other. A power cut in between leaves a pair that does not fit; it is not used, and
//! another certificate is asked for.

use std::path::Path;

use lineside_wire::Enrolled;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use super::WebName;
use crate::{
    CertificateRequest, EnrolError, Identity, IdentityError, Renewal, Trust, TrustError,
    chain::{CHAIN_MAX, serves_under},
    csr,
    disk::{self, PUBLIC_MODE, SECRET_MODE},
    identity::files,
    names::generation_of,
    pem, provider,
    x509::{Facts, since_1970, web_names},
};

const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// A certificate for HTTPS that the cluster's authority issued, with its key.
pub struct WebCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<String>,
    names: Vec<WebName>,
    life: Renewal,
    generation: u32,
}

impl std::fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl WebCertificate {
    /// What came back for a request: for its key, for a server, and signed by an authority that `present` trusts, or that
    /// the list which came along does.
    ///
    /// # Errors
    /// The answer is not that.
    pub fn of(
        request: &CertificateRequest,
        present: &Identity,
        answer: &Enrolled,
    ) -> Result<Self, EnrolError> {
        if CHAIN_MAX < answer.certificates.len() {
            return Err(EnrolError::TooManyCertificates(answer.certificates.len()));
        }
        let chain: Vec<_> =
            answer.certificates.iter().map(|one| CertificateDer::from(one.to_vec())).collect();
        let facts = Facts::of(chain.first().ok_or(EnrolError::NoCertificate)?)?;
        let own = csr::read(&request.csr).expect("it was made or read before").key;
        if rcgen::PublicKeyData::der_bytes(&own) != facts.public_key {
            return Err(EnrolError::OtherKey);
        }
        let trust = match present.trust().succeed(&answer.trust) {
            Ok(newer) => newer,
            Err(TrustError::Older { .. } | TrustError::SameNumber(_)) => present.trust().clone(),
            Err(error) => return Err(error.into()),
        };
        if facts.is_authority || !facts.uris.is_empty() || !serves_under(&trust, &chain) {
            return Err(EnrolError::NotSigned);
        }
        Ok(Self::read(chain, request.key.clone())?)
    }

    fn read(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<String>,
    ) -> Result<Self, crate::PeerIdentityError> {
        let leaf = chain.first().ok_or(crate::PeerIdentityError::NoCertificate)?;
        let (facts, names) = (Facts::of(leaf)?, web_names(leaf)?);
        let life =
            Renewal { not_before: since_1970(facts.not_before), not_after: since_1970(facts.not_after) };
        let generation = generation_of(&facts.issuer).unwrap_or(0);
        Ok(Self { chain, key, names, life, generation })
    }

    /// Keeps it in a directory of its own, private.
    ///
    /// # Errors
    /// The disk fails.
    pub fn store(&self, directory: &Path) -> Result<(), IdentityError> {
        disk::make_private_directory(directory).map_err(files::file(directory))?;
        let [key, certificate] = [KEY, CERTIFICATE].map(|name| directory.join(name));
        disk::write_whole(&key, self.key.as_bytes(), SECRET_MODE).map_err(files::file(&key))?;
        let text = pem::certificates(&self.chain);
        disk::write_whole(&certificate, text.as_bytes(), PUBLIC_MODE).map_err(files::file(&certificate))
    }

    /// What [`WebCertificate::store`] kept; `None` when there is nothing that can be used: another one is asked for then.
    ///
    /// # Errors
    /// The files are there and cannot be read, or others can read the key.
    pub fn load(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let [key, certificate] = [KEY, CERTIFICATE].map(|name| directory.join(name));
        if !disk::is_there(&key).map_err(files::file(&key))? {
            return Ok(None);
        }
        let key = files::read_secret(&key)?;
        let Some(certificate) = files::read_if_there(&certificate)? else { return Ok(None) };
        let Ok(chain) = pem::read_certificates(&certificate) else { return Ok(None) };
        let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
        let Ok(read) = Self::read(chain, key) else { return Ok(None) };
        Ok(Some(read).filter(Self::fits))
    }

    /// Whether the key is that of the certificate.
    fn fits(&self) -> bool {
        let Ok(key) = PrivateKeyDer::from_pem_slice(self.key.as_bytes()) else { return false };
        let Ok(key) = provider().key_provider.load_private_key(key) else { return false };
        rustls::sign::CertifiedKey::new(self.chain.clone(), key).keys_match().is_ok()
    }

    /// The certificate, and behind it what leads to the authorities.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// Its key.
    ///
    /// # Panics
    /// Never: the key was read before.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it was made or read before")
    }

    /// What it is good for.
    #[must_use]
    pub fn names(&self) -> &[WebName] {
        &self.names
    }

    /// From when to when.
    #[must_use]
    pub const fn life(&self) -> Renewal {
        self.life
    }

    /// Whether it leads to an authority that is trusted, of the generation that signs now.
    #[must_use]
    pub fn is_of(&self, trust: &Trust) -> bool {
        trust.issuing() <= self.generation && serves_under(trust, &self.chain)
    }
}
