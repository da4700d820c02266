//! Files that are written whole or not at all, and kept from other users' eyes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// For keys and other secrets.
pub const SECRET_MODE: u32 = 0o600;
/// For certificates and what everybody may read.
pub const PUBLIC_MODE: u32 = 0o644;

/// Writes a file whole or not at all: also after a power cut there is the old content or the new.
///
/// The file has `mode` from its first byte on.
///
/// # Errors
/// The directory cannot be written, or the disk is full. Nothing is left behind but, at worst, a file whose name
/// ends in `.tmp`.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written
}

/// Makes a directory, and its parents, that only the owner can enter. One that exists is left as it is.
///
/// # Errors
/// It cannot be made.
pub fn make_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Why a file or directory is not safe to use.
#[derive(Debug, thiserror::Error)]
pub enum Unsafe {
    /// Others can read a secret.
    #[error("{path} can be read by others (mode {mode:03o}); run: chmod 600 {path}", path = .path.display())]
    SecretReadable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others can replace what is in a directory of secrets.
    #[error("{path} can be changed by others (mode {mode:03o}); run: chmod 700 {path}", path = .path.display())]
    DirectoryWritable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

/// Checks that only the owner can read a secret.
///
/// # Errors
/// The file is not there, or not private; the latter as an `io::Error` that holds [`Unsafe`].
pub fn check_secret(path: &Path) -> io::Result<()> {
    match mode(path)? {
        mode if mode & 0o077 != 0 => {
            Err(io::Error::other(Unsafe::SecretReadable { path: path.to_owned(), mode }))
        }
        _ => Ok(()),
    }
}

/// Checks that only the owner can change what is in a directory.
///
/// # Errors
/// As [`check_secret`].
pub fn check_directory(path: &Path) -> io::Result<()> {
    match mode(path)? {
        mode if mode & 0o022 != 0 => {
            Err(io::Error::other(Unsafe::DirectoryWritable { path: path.to_owned(), mode }))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_private_from_its_first_byte_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_whole(&path, b"one", SECRET_MODE).unwrap();
        assert_eq!(mode(&path).unwrap(), SECRET_MODE);
        write_whole(&path, b"two", SECRET_MODE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left behind");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("there").join("key");
        assert!(write_whole(&path, b"one", SECRET_MODE).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn a_readable_secret_names_itself_and_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_whole(&path, b"one", PUBLIC_MODE).unwrap();
        let text = check_secret(&path).unwrap_err().to_string();
        assert!(text.contains("chmod 600") && text.contains("key"), "{text}");
    }
}
