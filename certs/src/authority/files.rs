//! Where the authority lies on the disk, and the lock that makes its changes one after the other.
//!
//! ```text
//! lock             whoever changes something holds it
//! registry.json    the index: what it does not name is not there
//! ca-g<N>.pem      a generation's certificate        ca-g<N>.key   its key, sealed when there is a passphrase
//! cross-g<N>.pem   generation N as N-1 signed it, while a rotation runs
//! audit.jsonl      the diary
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use super::{AuthorityError, registry::Registry};
use crate::{
    audit::{self, Line},
    disk::{self, PUBLIC_MODE, SECRET_MODE},
};

const REGISTRY: &str = "registry.json";
const LOCK: &str = "lock";
/// Times that a held lock is tried, and the wait between two: together longer than any change takes on a slow card, and
/// within the time that a joiner waits.
const LOCK_TRIES: u32 = if cfg!(test) { 50 } else { 500 };
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// The directory of an authority.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    /// Lets a test see what a full disk does.
    #[cfg(test)]
    pub(super) full: std::sync::atomic::AtomicBool,
}

impl Files {
    pub(super) fn at(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            #[cfg(test)]
            full: false.into(),
        }
    }

    pub(super) fn registry_path(&self) -> PathBuf {
        self.directory.join(REGISTRY)
    }

    pub(super) fn certificate_path(&self, generation: u32) -> PathBuf {
        self.directory.join(format!("ca-g{generation}.pem"))
    }

    pub(super) fn key_path(&self, generation: u32) -> PathBuf {
        self.directory.join(format!("ca-g{generation}.key"))
    }

    /// A key file that is to take the place of another: see [`super::keys::replace`].
    pub(super) fn next_key_path(&self, generation: u32) -> PathBuf {
        self.directory.join(format!("ca-g{generation}.key.next"))
    }

    pub(super) fn cross_path(&self, generation: u32) -> PathBuf {
        self.directory.join(format!("cross-g{generation}.pem"))
    }

    /// Whether there is an authority, whole or not.
    pub(super) fn is_there(&self) -> Result<bool, AuthorityError> {
        let names = match fs::read_dir(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(AuthorityError::file(&self.directory)(error)),
        };
        for name in names {
            let name = name.map_err(AuthorityError::file(&self.directory))?.file_name();
            let name = name.to_string_lossy();
            let of_a_generation =
                name.starts_with("ca-g") && (name.ends_with(".pem") || name.ends_with(".key"));
            if name == REGISTRY || of_a_generation {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the registry of an authority that should be here; says when there is none, or half of one.
    pub(super) fn existing_registry(&self) -> Result<Registry, AuthorityError> {
        if !self.is_there()? {
            return Err(AuthorityError::Missing(self.directory.clone()));
        }
        self.check()?;
        self.registry()
    }

    /// Checks that the directory is only ours.
    pub(super) fn check(&self) -> Result<(), AuthorityError> {
        Ok(disk::check_directory(&self.directory)?)
    }

    /// Waits for the lock. It is held until the file is dropped, or this process ends.
    pub(super) fn lock(&self) -> Result<File, AuthorityError> {
        let path = self.directory.join(LOCK);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(SECRET_MODE).open(&path);
        let file = file.map_err(AuthorityError::file(&path))?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_WAIT),
                Err(TryLockError::Error(error)) => return Err(AuthorityError::file(&path)(error)),
            }
        }
        Err(AuthorityError::Busy(path))
    }

    /// Reads the registry as it is on the disk now.
    pub(super) fn registry(&self) -> Result<Registry, AuthorityError> {
        let path = self.registry_path();
        let text = self.read(&path)?;
        disk::check_secret(&path)?;
        Registry::from_json(&text).map_err(|reason| AuthorityError::damaged(&path, reason))
    }

    pub(super) fn write_registry(&self, registry: &Registry) -> Result<(), AuthorityError> {
        self.write(&self.registry_path(), registry.to_json().as_bytes(), SECRET_MODE)
    }

    pub(super) fn write_secret(&self, path: &Path, text: &str) -> Result<(), AuthorityError> {
        self.write(path, text.as_bytes(), SECRET_MODE)
    }

    pub(super) fn write_public(&self, path: &Path, text: &str) -> Result<(), AuthorityError> {
        self.write(path, text.as_bytes(), PUBLIC_MODE)
    }

    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(AuthorityError::file(path)(io::ErrorKind::StorageFull.into()));
        }
        disk::write_whole(path, bytes, mode).map_err(AuthorityError::file(path))
    }

    /// Reads a file that has to be there.
    pub(super) fn read(&self, path: &Path) -> Result<String, AuthorityError> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(AuthorityError::Incomplete(path.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(AuthorityError::damaged(path, "it is no text"))
            }
            Err(source) => Err(AuthorityError::File { path: path.to_owned(), source }),
        }
    }

    /// Removes a file, whether it is there or not.
    pub(super) fn remove(&self, path: &Path) -> Result<(), AuthorityError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AuthorityError::file(path)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), AuthorityError> {
        fs::rename(from, to).map_err(AuthorityError::file(to))
    }

    /// Makes sure that the names in the directory outlive a power cut.
    pub(super) fn sync(&self) -> Result<(), AuthorityError> {
        disk::sync_directory(&self.directory).map_err(AuthorityError::file(&self.directory))
    }

    pub(super) fn audit(&self, lines: &[Line], now: SystemTime) -> Result<(), AuthorityError> {
        audit::append(&self.directory, lines, now)
            .map_err(AuthorityError::file(&self.directory.join("audit.jsonl")))
    }

    /// As [`Files::audit`], for refusals.
    pub(super) fn note(&self, lines: &[Line], now: SystemTime) -> Result<(), AuthorityError> {
        audit::note(&self.directory, lines, now)
            .map_err(AuthorityError::file(&self.directory.join("audit.jsonl")))
    }

    /// Another number for another registry file; 0 when there is none.
    pub(super) fn version(&self) -> u64 {
        let Ok(metadata) = fs::metadata(self.registry_path()) else { return 0 };
        let mut hasher = DefaultHasher::new();
        (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
        hasher.finish()
    }
}
