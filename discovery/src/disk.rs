//! Files that are written whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Makes a directory, and its parents, that only the owner can enter. One that exists is left as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads a file of at most `bytes_max` bytes; `None` when there is none.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes_max < u64::try_from(bytes.len()).unwrap_or(u64::MAX) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is longer than it can be"));
    }
    Ok(Some(bytes))
}

/// Writes a file: also after a power cut there is the old content or the new.
///
/// One process owns the directory, so one name for the unfinished file is enough; what a power cut left there is
/// written over.
pub(crate) fn write_whole(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.tmp"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, directory.join(name))) {
        drop(fs::remove_file(&temporary)); // Nothing better to do; the next write begins anew.
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(read(&path, 10).unwrap(), None);
        for content in [&b"one"[..], b"two"] {
            write_whole(directory.path(), "file", content).unwrap();
            assert_eq!(read(&path, 10).unwrap().as_deref(), Some(content));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let directory = tempfile::tempdir().unwrap();
        // A directory cannot be replaced by a file: the rename fails after the writing.
        fs::create_dir(directory.path().join("file")).unwrap();
        assert!(write_whole(directory.path(), "file", b"one").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        write_whole(directory.path(), "file", &[0; 11]).unwrap();
        assert!(read(&directory.path().join("file"), 10).is_err());
    }
}
