//! Files that are written whole or not at all, and kept from other users' eyes.
//!
//! A directory of secrets is its owner's alone: not even who is a member, and since when, is for others to
//! list.
//!
//! Directories above the one that is asked about are not looked at: who can rename those is root's business.

pub(crate) mod cut;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use cut::Step;

/// How old an unfinished file is that nobody works on any more: a write takes well under a second.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(3600);

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
/// behind but, after a power cut at worst, a file whose name ends in `.tmp`, which a later write removes.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, mode)?;
    rename(&temporary.0, path)?;
    drop(temporary);
    clear_up_beside(path);
    Ok(())
}

/// Gives a file its name, in the place of whatever has it, and waits until that is on the disk.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    cut::after(Step::Renamed);
    sync_directory(parent(to))
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
    cut::after(Step::Renamed);
    drop(temporary);
    sync_directory(parent(path))?;
    clear_up_beside(path);
    Ok(())
}

/// Fills a new directory beside `directory`, and gives it that name when it is whole: after a power cut there is nothing
/// or all. `false`: something is in the way, such as a directory that is not empty or a mount; nothing was changed.
///
/// # Errors
/// It cannot be made or filled.
pub(crate) fn make_whole<E: From<io::Error>>(
    directory: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<bool, E> {
    let staged = Staged(unfinished(directory)?);
    make_private_directory(&staged.0)?;
    cut::after(Step::Made);
    fill(&staged.0)?;
    sync_directory(&staged.0)?;
    // Only a directory that is empty is replaced.
    if fs::rename(&staged.0, directory).is_err() {
        return Ok(false);
    }
    cut::after(Step::Renamed);
    std::mem::forget(staged);
    sync_directory(parent(directory))?;
    clear_up_beside(directory);
    Ok(true)
}

/// Removes what writes of `path` that were cut off long ago have left behind: it may have secrets in it. What cannot be
/// removed is left to the next time.
fn clear_up_beside(path: &Path) {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
    let Ok(entries) = fs::read_dir(parent(path)) else { return };
    for entry in entries.flatten() {
        let other = entry.file_name();
        let other = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('.'));
        let is_unfinished = other.and_then(|rest| rest.strip_suffix(".tmp")).is_some_and(is_mark);
        let old = |metadata: &fs::Metadata| {
            let since = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            since.is_some_and(|since| LEFT_BEHIND_AFTER <= since)
        };
        let Some(metadata) = entry.metadata().ok().filter(|metadata| is_unfinished && old(metadata)) else {
            continue;
        };
        let removed = match metadata.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        if let Err(error) = removed {
            tracing::debug!(path = %entry.path().display(), %error, "an unfinished file cannot be removed");
        }
    }
}

fn is_mark(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
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

/// A name beside `path` that nobody else uses.
fn unfinished(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{:016x}.tmp", rand::random::<u64>()));
    Ok(parent(path).join(name))
}

/// A directory that is not whole yet; gone when this is.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        if !cut::is_dead() {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

/// A finished file under another name; the name is gone when this is.
struct Temporary(PathBuf);

impl Temporary {
    /// Writes it beside `path`, under a name that nobody else uses.
    fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let temporary = unfinished(path)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        let temporary = Self(temporary);
        cut::after(Step::Made);
        // Before the first byte: the mode at creation is the umask's to narrow.
        file.set_permissions(Permissions::from_mode(mode))?;
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        file.write_all(half)?;
        cut::after(Step::HalfWritten);
        file.write_all(rest)?;
        cut::after(Step::Written);
        file.sync_all()?;
        cut::after(Step::Synced);
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and after a failure nothing better to do.
        if !cut::is_dead() {
            drop(fs::remove_file(&self.0));
        }
    }
}
