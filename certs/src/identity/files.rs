//! The files of an identity, and how two of them are changed at once.
//!
//! ```text
//!  DATA/identity/   cert.pem      the certificate; behind it those that lead to the authorities
//!                   key.pem       its key
//!                   ca.pem        the authorities
//!                   trust.bin     whom the cluster trusts, signed; rules over ca.pem, and can be fetched
//!   anew                 key.next.pem  only while a renewal is being written                 seed.key
//!   what the secrets of the first key came from; since the first renewal
//! ```
//!
//! A renewal replaces certificate and key, and no file system replaces two files at once. So the new key is
//! written beside the old one; then the certificate is replaced, and that decides; then the new key takes the
//! old one's place. Whoever reads the files after a power cut in between finds the key that fits, and
//! finishes or clears up. A lock on the directory keeps those who read and clear up away from one who is
//! writing.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use lineside_wire::SignedTrust;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::Deserialize as _;
use zeroize::Zeroizing;

use super::Identity;
use crate::{
    IdentityError, Issued, Trust,
    disk::{self, PUBLIC_MODE, SECRET_MODE},
    pem, provider,
};

pub(super) const CERTIFICATE: &str = "cert.pem";
pub(super) const KEY: &str = "key.pem";
pub(super) const NEXT_KEY: &str = "key.next.pem";
pub(super) const AUTHORITY: &str = "ca.pem";
pub(super) const TRUST: &str = "trust.bin";
pub(super) const SEED: &str = "seed.key";

/// Longest file that is read, in bytes: a trust list with all the revocations that there can be has less than
/// 1 MiB, and a third more as text.
pub(crate) const FILE_BYTES_MAX: u64 = 2 << 20;

/// Deepest nesting of a trust list with its signatures; it needs three levels.
const DEPTH_MAX: usize = 8;

/// How long to wait for another process that holds the files: none does for longer than some writes take.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often to look whether it is done.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Whether there is an identity in `directory`, whole or not.
pub(super) fn are_there(directory: &Path) -> Result<bool, IdentityError> {
    for name in [KEY, NEXT_KEY, AUTHORITY, CERTIFICATE, TRUST, SEED] {
        let path = directory.join(name);
        if disk::is_there(&path).map_err(file(&path))? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File { path, source }
}

/// The bytes of a file that has to be there.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    read_if_there(path)?.ok_or_else(|| IdentityError::Incomplete(path.to_owned()))
}

/// The bytes of a file that may be there.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let opened = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(file(path))?,
    };
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(file(path))?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
        true => Ok(Some(bytes)),
        false => Err(IdentityError::Damaged {
            path: path.to_owned(),
            reason: format!("it is longer than {FILE_BYTES_MAX} bytes"),
            fix: IdentityError::RESTORE,
        }),
    }
}

/// As [`read`], of a file that only its owner may read.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let bytes = Zeroizing::new(read(path)?);
    disk::check_secret(path)?;
    Ok(bytes)
}

/// Writes a trust list as it lies on disk and in answers.
pub(crate) fn trust_to_bytes(signed: &SignedTrust) -> Vec<u8> {
    rmp_serde::to_vec_named(signed).expect("a trust list can be written")
}

/// Reads a trust list, all of it and nothing behind it.
pub(crate) fn trust_from_bytes(mut bytes: &[u8]) -> Result<SignedTrust, String> {
    let mut decoder = rmp_serde::Deserializer::new(&mut bytes);
    decoder.set_max_depth(DEPTH_MAX);
    let signed = SignedTrust::deserialize(&mut decoder).map_err(|error| error.to_string())?;
    match bytes.len() {
        0 => Ok(signed),
        more => Err(format!("{more} bytes follow it")),
    }
}

/// A key and what leads to it, ready for TLS; `None` when they do not belong together.
pub(super) fn certify(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Option<Arc<CertifiedKey>>, String> {
    let signing = provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    let certified = CertifiedKey::new(chain, signing);
    Ok(certified.keys_match().is_ok().then(|| Arc::new(certified)))
}

fn fits(key: &[u8], certificate: &[u8]) -> bool {
    let Ok(chain) = pem::read_certificates(certificate) else { return false };
    let Ok(key) = PrivateKeyDer::from_pem_slice(key) else { return false };
    matches!(certify(chain, key), Ok(Some(_)))
}

/// Of `key.pem` and what a renewal may have left behind, the key that fits the certificate; `key.pem` if none
/// does.
pub(super) fn fitting_key(directory: &Path, certificate: &[u8]) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let (key, next) = (directory.join(KEY), directory.join(NEXT_KEY));
    if disk::is_there(&next).map_err(file(&next))? && !fits(&read(&key)?, certificate) {
        let next = read_secret(&next)?;
        if fits(&next, certificate) {
            return Ok(next);
        }
    }
    read_secret(&key)
}

/// Keeps everybody else away from the files in a directory, or those who would change them.
pub(super) struct Lock {
    _directory: Option<File>,
}

impl Lock {
    /// To read.
    pub(super) fn shared(directory: &Path) -> Result<Self, IdentityError> {
        Self::take(directory, File::try_lock_shared)
    }

    /// To write.
    pub(super) fn exclusive(directory: &Path) -> Result<Self, IdentityError> {
        Self::take(directory, File::try_lock)
    }

    fn take(directory: &Path, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Self, IdentityError> {
        let opened = File::open(directory).map_err(file(directory))?;
        let mut waited = Duration::ZERO;
        loop {
            match lock(&opened) {
                Ok(()) => return Ok(Self { _directory: Some(opened) }),
                // A file system without locks: there is then only the order of the writes.
                Err(TryLockError::Error(_)) => return Ok(Self { _directory: None }),
                Err(TryLockError::WouldBlock) if waited < LOCK_WAIT => {
                    std::thread::sleep(LOCK_POLL);
                    waited += LOCK_POLL;
                }
                Err(TryLockError::WouldBlock) => {
                    let why =
                        "another process has been changing this identity for a while: end it, or try again";
                    return Err(file(directory)(io::Error::new(io::ErrorKind::TimedOut, why)));
                }
            }
        }
    }
}

/// Finishes or clears up a renewal that was cut off, if there is one.
///
/// A disk that cannot be written is no reason to fail: [`fitting_key`] finds the right key all the same.
pub(super) fn settle(directory: &Path) -> Result<(), IdentityError> {
    let next = directory.join(NEXT_KEY);
    if !disk::is_there(&next).map_err(file(&next))? {
        return Ok(());
    }
    let _lock = Lock::exclusive(directory)?;
    // Whoever had the lock was perhaps the one that wrote it.
    if let Err(error) = settle_locked(directory) {
        tracing::warn!(directory = %directory.display(), %error, "a renewal that was cut off cannot be cleared up");
    }
    Ok(())
}

fn settle_locked(directory: &Path) -> io::Result<()> {
    let (key, next) = (directory.join(KEY), directory.join(NEXT_KEY));
    if !disk::is_there(&next)? {
        return Ok(());
    }
    let (present, renewed) = (Zeroizing::new(fs::read(&key)?), Zeroizing::new(fs::read(&next)?));
    let certificate = fs::read(directory.join(CERTIFICATE))?;
    if fits(&present, &certificate) {
        fs::remove_file(&next)?;
    } else if fits(&renewed, &certificate) {
        fs::rename(&next, &key)?;
    }
    // When neither fits, nothing is cleared up: a person may want both.
    disk::sync_directory(directory)
}

/// Writes the files of an identity into a directory that has none of them.
pub(super) fn fill(directory: &Path, issued: &Issued) -> Result<(), IdentityError> {
    // The key first: of two that write here at once, whoever writes it wins.
    write_new(directory, KEY, issued.key.as_bytes(), SECRET_MODE)?;
    let rest = issued
        .trust
        .as_ref()
        .map_or(Ok(()), |trust| write_new(directory, TRUST, &trust_to_bytes(trust), PUBLIC_MODE))
        .and_then(|()| write_new(directory, AUTHORITY, issued.authority.as_bytes(), PUBLIC_MODE))
        .and_then(|()| write_new(directory, CERTIFICATE, issued.certificate.as_bytes(), PUBLIC_MODE));
    if rest.is_err() {
        // On a full disk, say: half an identity would refuse the next try, too.
        for name in [KEY, TRUST, AUTHORITY, CERTIFICATE] {
            let _not_there = fs::remove_file(directory.join(name));
        }
    }
    rest
}

fn write_new(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let path = directory.join(name);
    match disk::write_new(&path, bytes, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(IdentityError::Exists(directory.to_owned()))
        }
        result => result.map_err(file(&path)),
    }
}

/// One change on disk, which happens whole or not at all.
pub(super) enum Step {
    Write { name: &'static str, bytes: Zeroizing<Vec<u8>>, mode: u32 },
    Rename { from: &'static str, to: &'static str },
}

impl Step {
    fn secret(name: &'static str, bytes: &[u8]) -> Self {
        Self::Write { name, bytes: Zeroizing::new(bytes.to_vec()), mode: SECRET_MODE }
    }

    fn public(name: &'static str, bytes: &[u8]) -> Self {
        Self::Write { name, bytes: Zeroizing::new(bytes.to_vec()), mode: PUBLIC_MODE }
    }

    pub(super) fn take(&self, directory: &Path) -> Result<(), IdentityError> {
        match self {
            Self::Write { name, bytes, mode } => {
                let path = directory.join(name);
                disk::write_whole(&path, bytes, *mode).map_err(file(&path))
            }
            Self::Rename { from, to } => {
                let path = directory.join(to);
                disk::rename(&directory.join(from), &path).map_err(file(&path))
            }
        }
    }
}

/// What has to happen, in this order, to put a renewed certificate in the present one's place. After each
/// step the directory holds one whole identity.
pub(super) fn renewal(
    directory: &Path,
    seed_of_present: &[u8; 32],
    issued: &Issued,
    renewed: &Identity,
) -> Result<Vec<Step>, IdentityError> {
    let mut steps = Vec::new();
    let seed = directory.join(SEED);
    if !disk::is_there(&seed).map_err(file(&seed))? {
        steps.push(Step::secret(SEED, seed_of_present));
    }
    steps.push(Step::secret(NEXT_KEY, issued.key.as_bytes()));
    steps.push(Step::public(CERTIFICATE, issued.certificate.as_bytes()));
    steps.push(Step::Rename { from: NEXT_KEY, to: KEY });
    // Last: a list that came with the certificate may no longer trust the authority of the one before.
    steps.extend(new_trust(directory, renewed.trust()));
    Ok(steps)
}

/// What has to happen to put a trust list in the place of an older one; nothing when the one on disk is as
/// new.
pub(super) fn new_trust(directory: &Path, trust: &Trust) -> Vec<Step> {
    let Some(signed) = trust.signed() else { return Vec::new() };
    // One that is damaged is as good as none: this mends it.
    let on_disk = fs::read(directory.join(TRUST)).ok();
    let on_disk = on_disk.and_then(|bytes| Trust::own(&trust_from_bytes(&bytes).ok()?).ok());
    if on_disk.is_some_and(|on_disk| trust.stamp().number <= on_disk.stamp().number) {
        return Vec::new();
    }
    // `trust.bin` first: it rules, so between the two nothing is forgotten.
    vec![
        Step::public(TRUST, &trust_to_bytes(signed)),
        Step::public(AUTHORITY, trust.authorities_pem().as_bytes()),
    ]
}

/// Takes steps, and after one that failed clears up.
pub(super) fn take(directory: &Path, steps: &[Step]) -> Result<(), IdentityError> {
    let taken = steps.iter().try_for_each(|step| step.take(directory));
    if taken.is_err() {
        // On a full disk, say. What cannot be cleared up now is at the next start.
        let _later = settle_locked(directory);
    }
    taken
}
