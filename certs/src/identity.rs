//! Who this process is: certificate, key and whom it trusts, from a directory.

#[cfg(test)]
mod cuts;
pub(crate) mod files;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::hkdf;
use lineside_wire::{ClusterId, NodeId, Role, SignedTrust};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use self::files::{AUTHORITY, CERTIFICATE, KEY, Lock, SEED, TRUST, file, read, read_if_there, read_secret};
use crate::{
    Authority, IdentityError, Issued, Lifetimes, PeerIdentity, Renewal, Subject, Trust, Verdict,
    chain::{CHAIN_MAX, leads_to},
    disk,
    peer::holder,
    pem,
    x509::{Facts, since_1970},
};

/// The directory of the authority, below a data directory.
pub const AUTHORITY_DIRECTORY: &str = "ca";
/// The directory of the own identity, below a data directory.
pub const IDENTITY_DIRECTORY: &str = "identity";

/// A certificate, its key, and whom it trusts.
#[derive(Clone)]
pub struct Identity {
    holder: PeerIdentity,
    not_before: SystemTime,
    certified: Arc<CertifiedKey>,
    trust: Trust,
    /// What [`Identity::derive_secret`] derives from: of the first key, also when it was renewed since.
    seed: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("holder", &self.holder).finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads the identity in `directory`. A renewal that was cut off there is finished or cleared up.
    ///
    /// An expired one is loaded too, so that it can be shown and renewed; ask [`Identity::check_validity`]
    /// before using it.
    ///
    /// # Errors
    /// A file is missing, not private, damaged, or does not belong to the others.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        if !files::are_there(directory)? {
            return Err(IdentityError::Missing(directory.to_owned()));
        }
        disk::check_directory(directory)?;
        files::settle(directory)?;
        let _lock = Lock::shared(directory)?;
        Self::load_locked(directory)
    }

    fn load_locked(directory: &Path) -> Result<Self, IdentityError> {
        let places = Places::below(directory);
        // The key first: one that others can read is the worst that can be wrong.
        read_secret(&places.key)?;
        let certificates = read(&places.certificate)?;
        let parts = Parts {
            key: files::fitting_key(directory, &certificates)?,
            authorities: Places::certificates(&places.authority, &read(&places.authority)?)?,
            chain: Places::certificates(&places.certificate, &certificates)?,
            trust: read_if_there(&places.trust)?.map(|bytes| files::trust_from_bytes(&bytes)),
            seed: read_seed(directory)?,
        };
        Self::assemble(&places, parts)
    }

    /// An identity that is on no disk.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn of(issued: &Issued) -> Result<Self, IdentityError> {
        let places = Places::below(Path::new(""));
        let parts = Parts {
            key: Zeroizing::new(issued.key.as_bytes().to_vec()),
            authorities: Places::certificates(&places.authority, issued.authority.as_bytes())?,
            chain: Places::certificates(&places.certificate, issued.certificate.as_bytes())?,
            trust: issued.trust.clone().map(Ok),
            seed: None,
        };
        Self::assemble(&places, parts)
    }

    /// Loads an identity from a pair of files: the certificate, with the authorities' behind it, and the key.
    ///
    /// In the authorities' place there can be a trust list, as in the answer that `lineside certs sign`
    /// writes.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn load_pair(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let places = Places {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            authority: certificate.to_owned(),
            trust: certificate.to_owned(),
        };
        let key = read_secret(key)?;
        let blocks = pem::read(&read(certificate)?).map_err(|error| damaged(certificate, error))?;
        let (mut chain, mut authorities, mut trust) = (Vec::new(), Vec::new(), None);
        for block in blocks {
            match &block.label[..] {
                pem::CERTIFICATE => {
                    let one = CertificateDer::from(block.bytes);
                    let facts = Facts::of(&one).map_err(|error| damaged(certificate, error))?;
                    let group = if facts.is_authority && facts.is_self_issued {
                        &mut authorities
                    } else {
                        &mut chain
                    };
                    group.push(one);
                }
                pem::TRUST => trust = Some(files::trust_from_bytes(&block.bytes)),
                _ => {}
            }
        }
        Self::assemble(&places, Parts { key, chain, authorities, trust, seed: None })
    }

    fn assemble(places: &Places, parts: Parts) -> Result<Self, IdentityError> {
        let at = &places.certificate;
        let leaf = parts.chain.first().ok_or_else(|| damaged(at, "it holds no certificate of a member"))?;
        if CHAIN_MAX < parts.chain.len() {
            return Err(damaged(at, format!("it holds more than {CHAIN_MAX} certificates")));
        }
        let facts = Facts::of(leaf).map_err(|error| damaged(at, error))?;
        let holder = holder(&facts).map_err(|error| IdentityError::NoMember { path: at.clone(), error })?;
        let trust = places.trust(holder.cluster, parts.authorities, parts.trust)?;
        if !leads_to(&trust, &parts.chain) {
            let (path, generation) = (at.clone(), holder.generation);
            return match trust.judge(&holder) {
                Verdict::UnknownAuthority => Err(IdentityError::Retired { path, generation }),
                Verdict::Trusted | Verdict::Revoked => Err(IdentityError::ForeignAuthority(path)),
            };
        }
        let key = PrivateKeyDer::from_pem_slice(&parts.key).map_err(|error| damaged(&places.key, error))?;
        let seed = parts.seed.unwrap_or_else(|| seed_of(&key));
        let certified = files::certify(parts.chain, key).map_err(|error| damaged(&places.key, error))?;
        let certified = certified.ok_or_else(|| IdentityError::KeyMismatch(at.clone()))?;
        Ok(Self { holder, not_before: since_1970(facts.not_before), certified, trust, seed })
    }

    /// Writes an issued certificate as an identity directory. An identity that is there is never replaced, and after a
    /// power cut there is none or a whole one.
    ///
    /// # Errors
    /// There is one already, even a part of one, or the files cannot be written.
    pub fn store(directory: &Path, issued: &Issued) -> Result<(), IdentityError> {
        if files::are_there(directory)? {
            return Err(IdentityError::Exists(directory.to_owned()));
        }
        if disk::is_there(directory).map_err(file(directory))? {
            disk::check_directory(directory)?;
        }
        let mut failed = None;
        let filled = disk::make_whole(directory, |inside| {
            files::fill(inside, issued).map_err(|error| {
                failed = Some(error);
                io::Error::other("it could not be filled")
            })
        });
        match (filled, failed) {
            (_, Some(error)) => return Err(error),
            (Err(error), None) => return Err(file(directory)(error)),
            (Ok(true), None) => return Ok(()),
            // The directory has something in it, or cannot be replaced, as where a disk is mounted: file by file then.
            (Ok(false), None) => {}
        }
        disk::make_private_directory(directory).map_err(file(directory))?;
        disk::check_directory(directory)?;
        files::fill(directory, issued)
    }

    /// Writes a renewed certificate over the identity in `directory`, which must be of the same cluster, role
    /// and node: also after a power cut at any moment the directory holds the old identity or the new one,
    /// whole.
    ///
    /// # Errors
    /// It is another member's, or the files cannot be written.
    pub fn store_renewed(directory: &Path, issued: &Issued) -> Result<(), IdentityError> {
        disk::check_directory(directory)?;
        files::settle(directory)?;
        let renewed = Self::of(issued)?;
        let _lock = Lock::exclusive(directory)?;
        let (present, seed) = Self::present(directory)?;
        if present != renewed.member() {
            return Err(IdentityError::OtherMember(directory.to_owned()));
        }
        files::take(directory, &files::renewal(directory, &seed, issued, &renewed)?)
    }

    /// Whose identity lies in `directory`, and its seed. Whom it trusts is not looked at: that may have
    /// changed since, and a renewal mends it.
    fn present(directory: &Path) -> Result<(Member, Zeroizing<[u8; 32]>), IdentityError> {
        let places = Places::below(directory);
        let (path, certificates) = (&places.certificate, read(&places.certificate)?);
        let chain = Places::certificates(path, &certificates)?;
        let facts = Facts::of(&chain[0]).map_err(|error| damaged(path, error))?;
        let holder = holder(&facts).map_err(|error| IdentityError::NoMember { path: path.clone(), error })?;
        let key = files::fitting_key(directory, &certificates)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| damaged(&places.key, error))?;
        let seed = read_seed(directory)?.unwrap_or_else(|| seed_of(&key));
        Ok(((holder.cluster, holder.role, holder.node), seed))
    }

    /// Writes a newer trust list beside the identity in `directory`. One that is not newer than what is there
    /// changes nothing, and neither does [`Trust::bare`], which is no list.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn store_trust(directory: &Path, trust: &Trust) -> Result<(), IdentityError> {
        let _lock = Lock::exclusive(directory)?;
        files::take(directory, &files::new_trust(directory, trust))
    }

    /// Loads the identity below a data directory; in an empty one, makes a cluster with this as its first
    /// member.
    ///
    /// The second value says whether a cluster was made. With `may_create` false nothing is ever made. As
    /// with [`Identity::load`], an expired identity is loaded.
    ///
    /// # Errors
    /// As [`Identity::load`] and [`Authority::create`]: what is there but damaged or not whole is an error,
    /// never replaced by a new identity. The data directory has to be private, too; an empty one of our own
    /// is made so.
    pub fn ensure(
        data: &Path,
        name: &str,
        role: Role,
        may_create: bool,
        now: SystemTime,
    ) -> Result<(Self, bool), IdentityError> {
        Self::ensure_with(data, name, role, may_create, Lifetimes::default(), now)
    }

    /// As [`Identity::ensure`], with these lifetimes from the first certificate on.
    ///
    /// # Errors
    /// As [`Identity::ensure`].
    pub fn ensure_with(
        data: &Path,
        name: &str,
        role: Role,
        may_create: bool,
        lifetimes: Lifetimes,
        now: SystemTime,
    ) -> Result<(Self, bool), IdentityError> {
        if disk::is_there(data).map_err(file(data))? {
            disk::tighten_if_empty(data).map_err(file(data))?;
            disk::check_directory(data)?;
        }
        let (identity, authority) = (data.join(IDENTITY_DIRECTORY), data.join(AUTHORITY_DIRECTORY));
        match Self::load(&identity) {
            Err(IdentityError::Missing(_)) if may_create => {}
            result => return result.map(|identity| (identity, false)),
        }
        if Authority::is_there(&authority)? {
            return Err(IdentityError::AuthorityOnly { authority, identity });
        }
        let authority = Authority::create(&authority, name, now)?.with_lifetimes(lifetimes);
        let issued = authority.issue(&Subject::new(role, name), now)?;
        Self::store(&identity, &issued)?;
        Self::load(&identity).map(|identity| (identity, true))
    }

    /// Says whether the certificate is valid now: peers refuse it otherwise.
    ///
    /// # Errors
    /// It has ended, has not begun or was revoked, or this machine's clock is wrong.
    pub fn check_validity(&self, now: SystemTime) -> Result<(), IdentityError> {
        let name = || self.holder.name.clone();
        if self.trust.judge(&self.holder) == Verdict::Revoked {
            return Err(IdentityError::Revoked { name: name() });
        }
        if now < self.not_before {
            return Err(IdentityError::NotYetValid { name: name(), from: self.not_before, now });
        }
        match self.expires_in(now) {
            Some(_) => Ok(()),
            None => Err(IdentityError::Expired { name: name(), since: self.not_after(), now }),
        }
    }

    /// The same identity going by another trust list.
    #[must_use]
    pub fn with_trust(&self, trust: Trust) -> Self {
        Self { trust, ..self.clone() }
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

    /// Who the certificate says this is, with its serial number and generation.
    #[must_use]
    pub const fn holder(&self) -> &PeerIdentity {
        &self.holder
    }

    /// Whom this identity trusts.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Start of validity.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
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

    /// When to renew the certificate.
    #[must_use]
    pub const fn renewal(&self) -> Renewal {
        Renewal { not_before: self.not_before, not_after: self.holder.not_after }
    }

    /// 32 secret bytes for one purpose: the same at every start of the same identity, and after its renewals
    /// where it lies in a directory.
    #[must_use]
    pub fn derive_secret(&self, purpose: &str) -> [u8; 32] {
        derive(&self.seed[..], purpose.as_bytes())
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// What a renewal does not change.
    pub(crate) const fn member(&self) -> Member {
        (self.holder.cluster, self.holder.role, self.holder.node)
    }
}

/// Whose an identity is, whichever certificate it has at the time.
pub(crate) type Member = (ClusterId, Role, NodeId);

/// What an identity is made of.
struct Parts {
    key: Zeroizing<Vec<u8>>,
    chain: Vec<CertificateDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
    /// The list, if there is one, or why it cannot be read.
    trust: Option<Result<SignedTrust, String>>,
    seed: Option<Zeroizing<[u8; 32]>>,
}

/// Where the parts came from, to name the one that is wrong.
struct Places {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
    trust: PathBuf,
}

impl Places {
    fn below(directory: &Path) -> Self {
        let [certificate, key, authority, trust] =
            [CERTIFICATE, KEY, AUTHORITY, TRUST].map(|name| directory.join(name));
        Self { certificate, key, authority, trust }
    }

    fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        pem::read_certificates(text).map_err(|error| damaged(path, error))
    }

    /// Whom the identity of this cluster's member trusts: the list rules where there is one.
    fn trust(
        &self,
        cluster: ClusterId,
        authorities: Vec<CertificateDer<'static>>,
        list: Option<Result<SignedTrust, String>>,
    ) -> Result<Trust, IdentityError> {
        // A pair of files with a list needs none beside it.
        let bare = match authorities.is_empty() && list.is_some() {
            true => None,
            false => Some(Trust::bare(authorities).map_err(|error| damaged(&self.authority, error))?),
        };
        if bare.as_ref().is_some_and(|bare| bare.cluster() != cluster) {
            return Err(IdentityError::ForeignAuthority(self.certificate.clone()));
        }
        let unusable = |reason: String| {
            let (path, fix) = (self.trust.clone(), IdentityError::FETCHED_ANEW);
            IdentityError::Damaged { path, reason, fix }
        };
        match (list, bare) {
            (Some(list), _) => {
                let trust = list.and_then(|list| Trust::own(&list).map_err(|error| error.to_string()));
                let trust = trust.map_err(unusable)?;
                match trust.cluster() == cluster {
                    true => Ok(trust),
                    false => Err(unusable(format!("it is of the cluster {}", trust.cluster()))),
                }
            }
            (None, Some(bare)) => Ok(bare),
            (None, None) => Err(damaged(&self.authority, "it holds no authority")),
        }
    }
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> IdentityError {
    IdentityError::Damaged { path: path.to_owned(), reason: reason.to_string(), fix: IdentityError::RESTORE }
}

/// The seed that a renewal kept, if there was one.
fn read_seed(directory: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, IdentityError> {
    let path = directory.join(SEED);
    if !disk::is_there(&path).map_err(file(&path))? {
        return Ok(None);
    }
    let seed = read_secret(&path)?;
    seed[..].try_into().map(|seed| Some(Zeroizing::new(seed))).map_err(|_| IdentityError::Damaged {
        path,
        reason: format!("it has {} bytes, not 32", seed.len()),
        fix: "restore it, or remove it: after the next start peers once take some seconds longer to find this member",
    })
}

fn seed_of(key: &PrivateKeyDer<'_>) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(derive(key.secret_der(), b"lineside seed"))
}

fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut derived = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"lineside identity")
        .extract(secret)
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut derived))
        .expect("32 bytes are what one block of HKDF-SHA256 gives");
    derived
}
