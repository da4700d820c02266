//! Files that are written whole or not at all, and kept from other users' eyes.
//!
//! A directory of secrets is its owner's alone: not even who is a member, and since when, is for others to
//! list.
//!
//! Directories above the one that is asked about are not looked at: who can rename those is root's business.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// For keys and other secrets.
pub const SECRET_MODE: u32 = 0o600;
/// For certificates and what everybody may read.
pub const PUBLIC_MODE: u32 = 0o644;

/// Writes a file whole or not at all: also after a power cut there is the old content or the new.
///
/// The file has `mode` (permission bits, whatever the umask) before it has content.
///
/// # Errors
/// The directory cannot be written, or the disk is full; the old content is then still there. Nothing is left
/// behind but, after a power cut at worst, a file whose name ends in `.tmp`.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, mode)?;
    fs::rename(&temporary.0, path)?;
    sync_directory(parent(path))
}

/// As [`write_whole`], for a file that is not there yet: of two that write it at once, one wins and one is
/// told.
///
/// # Errors
/// As [`write_whole`], and `AlreadyExists` when something is there; it is then untouched.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, mode)?;
    // A link, other than a rename, never replaces.
    match fs::hard_link(&temporary.0, path) {
        Ok(()) => {}
        // A file system without links, such as a USB stick's: the check and the rename are then two steps.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !is_there(path)? => {
            fs::rename(&temporary.0, path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        Err(_) => return Err(io::ErrorKind::AlreadyExists.into()),
    }
    drop(temporary);
    sync_directory(parent(path))
}

/// Whether something has this name, a broken link included.
///
/// # Errors
/// That cannot be known, for example because the directory belongs to another user: not the same as "no".
pub fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a directory, and its parents, that only the owner can enter. One that exists is left as it is.
///
/// # Errors
/// It cannot be made.
pub fn make_private_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().filter(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().try_for_each(|made| sync_directory(parent(made)))
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
    /// Others can look into a directory of secrets, or replace what is in it.
    #[error("{path} is open to others (mode {mode:03o}); run: chmod 700 {path}", path = .path.display())]
    DirectoryOpen {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It cannot be told.
    #[error("the permissions of {} cannot be read: {source}", path.display())]
    Unknown {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Checks that only the owner can read a secret.
///
/// # Errors
/// It is not so, or it cannot be told.
pub fn check_secret(path: &Path) -> Result<(), Unsafe> {
    match mode(path)? {
        mode if mode & 0o077 != 0 => Err(Unsafe::SecretReadable { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

/// Checks that only the owner can enter a directory.
///
/// # Errors
/// As [`check_secret`].
pub fn check_directory(path: &Path) -> Result<(), Unsafe> {
    match mode(path)? {
        mode if mode & 0o077 != 0 => Err(Unsafe::DirectoryOpen { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

/// Closes a directory to others, as `mkdir` and package managers leave one open, if it is this user's and
/// there is nothing in it yet that they could have put there or read. True when it did.
///
/// # Errors
/// That cannot be told or done; a directory that is not there is no error.
pub fn tighten_if_empty(path: &Path) -> io::Result<bool> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        metadata => metadata?,
    };
    let closed = metadata.permissions().mode() & 0o077 == 0;
    if !metadata.is_dir() || closed || !is_empty(path)? {
        return Ok(false);
    }
    // The one that is open from here on: the name may lead elsewhere by now.
    let directory = File::open(path)?;
    let metadata = directory.metadata()?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    directory.set_permissions(Permissions::from_mode(0o700))?;
    if is_empty(path)? {
        return Ok(true);
    }
    // Somebody was faster: what they put there is as it was found, to be refused.
    directory.set_permissions(metadata.permissions())?;
    Ok(false)
}

fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

fn mode(path: &Path) -> Result<u32, Unsafe> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.permissions().mode() & 0o777),
        Err(source) => Err(Unsafe::Unknown { path: path.to_owned(), source }),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes sure that the names in a directory outlive a power cut.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A finished file under another name; the name is gone when this is.
struct Temporary(PathBuf);

impl Temporary {
    /// Writes it beside `path`, under a name that nobody else uses.
    fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".{:016x}.tmp", rand::random::<u64>()));
        let temporary = parent(path).join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        let temporary = Self(temporary);
        // Before the first byte: the mode at creation is the umask's to narrow.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and after a failure nothing better to do.
        drop(fs::remove_file(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_secret_is_private_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_whole(&path, b"one", SECRET_MODE).unwrap();
        assert_eq!(mode(&path).unwrap(), SECRET_MODE);
        write_whole(&path, b"two", SECRET_MODE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(directory.path()), 1, "a temporary file was left behind");
    }

    #[test]
    fn a_secret_is_private_before_it_has_content() {
        let directory = tempfile::tempdir().unwrap();
        let temporary = Temporary::write(&directory.path().join("key"), b"one", SECRET_MODE).unwrap();
        assert_eq!(mode(&temporary.0).unwrap(), SECRET_MODE);
        drop(temporary);
        assert_eq!(names(directory.path()), 0);
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let directory = tempfile::tempdir().unwrap();
        // A directory that is not empty cannot be replaced by a file: the rename fails after the writing.
        let occupied = directory.path().join("key");
        fs::create_dir(&occupied).unwrap();
        fs::write(occupied.join("inside"), b"old").unwrap();
        assert!(write_whole(&occupied, b"one", SECRET_MODE).is_err());
        assert_eq!(fs::read(occupied.join("inside")).unwrap(), b"old");
        assert_eq!(names(directory.path()), 1, "a temporary file was left behind");

        let nowhere = directory.path().join("there").join("key");
        assert!(write_whole(&nowhere, b"one", SECRET_MODE).is_err() && !nowhere.exists());
    }

    #[test]
    fn of_many_that_write_a_new_file_at_once_one_wins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let write = |who: u8| write_new(&path, &[who; 1000], SECRET_MODE);
        let results: Vec<_> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|who| scope.spawn(move || write(who))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let winner = results.iter().position(Result::is_ok).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [u8::try_from(winner).unwrap(); 1000]);
        let losers = results.iter().filter_map(|result| result.as_ref().err());
        assert!(losers.clone().all(|error| error.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!((losers.count(), names(directory.path())), (7, 1));
    }

    #[test]
    fn a_directory_is_made_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data").join("identity");
        make_private_directory(&path).unwrap();
        assert_eq!((mode(&path).unwrap(), mode(parent(&path)).unwrap()), (0o700, 0o700));
        make_private_directory(&path).unwrap();
    }

    #[test]
    fn what_is_open_to_others_names_itself_and_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for open in [0o644, 0o640, 0o604, 0o620] {
            write_whole(&path, b"one", open).unwrap();
            let text = check_secret(&path).unwrap_err().to_string();
            assert!(text.contains("chmod 600") && text.contains("key"), "{text}");
        }
        for open in [0o770, 0o702, 0o755, 0o750, 0o701, 0o710] {
            fs::set_permissions(directory.path(), Permissions::from_mode(open)).unwrap();
            let text = check_directory(directory.path()).unwrap_err().to_string();
            assert!(text.contains("chmod 700") && text.contains(&format!("{open:o}")), "{text}");
        }
        for closed in [0o700, 0o500] {
            fs::set_permissions(directory.path(), Permissions::from_mode(closed)).unwrap();
            check_directory(directory.path()).unwrap();
        }
    }

    #[test]
    fn an_empty_directory_of_our_own_is_closed_and_a_full_one_is_not_touched() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        assert!(!tighten_if_empty(&data).unwrap(), "there is none");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        assert!(tighten_if_empty(&data).unwrap());
        assert_eq!(mode(&data).unwrap(), 0o700);
        assert!(!tighten_if_empty(&data).unwrap(), "nothing was to be done");

        fs::write(data.join("put here by others"), b"").unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        assert!(!tighten_if_empty(&data).unwrap());
        assert_eq!(mode(&data).unwrap(), 0o755);
        assert!(!tighten_if_empty(&data.join("put here by others")).unwrap(), "a file");
    }
}
