//! Files that are written whole or not at all.

pub(crate) mod cut;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use cut::Step;

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
    cut::after(Step::Made);
    let written = write(&mut file, bytes);
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, directory.join(name))) {
        drop(fs::remove_file(&temporary)); // Nothing better to do; the next write begins anew.
        return Err(error);
    }
    cut::after(Step::Renamed);
    File::open(directory)?.sync_all()
}

fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    file.write_all(half)?;
    cut::after(Step::HalfWritten);
    file.write_all(rest)?;
    cut::after(Step::Written);
    file.sync_all()?;
    cut::after(Step::Synced);
    Ok(())
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

    #[test]
    fn a_power_cut_at_any_step_leaves_the_old_content_or_the_new_and_the_next_write_clears_up() {
        for step in Step::ALL {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            write_whole(directory.path(), "file", b"the old one").unwrap();
            let cut = cut::during(0, step, || write_whole(directory.path(), "file", b"the new one"));
            assert!(cut.is_none(), "{step:?} was not reached");
            let found = read(&path, 100).unwrap().unwrap();
            let expected: &[u8] = if step == Step::Renamed { b"the new one" } else { b"the old one" };
            assert_eq!(found, expected, "{step:?}");
            write_whole(directory.path(), "file", b"the next one").unwrap();
            assert_eq!(read(&path, 100).unwrap().as_deref(), Some(&b"the next one"[..]));
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "{step:?} left something behind");
        }
    }

    #[test]
    fn a_power_cut_at_the_first_write_leaves_nothing_or_all() {
        for step in Step::ALL {
            let directory = tempfile::tempdir().unwrap();
            assert!(cut::during(0, step, || write_whole(directory.path(), "file", b"one")).is_none());
            let found = read(&directory.path().join("file"), 100).unwrap();
            assert_eq!(found.as_deref(), (step == Step::Renamed).then_some(&b"one"[..]), "{step:?}");
        }
    }
}
