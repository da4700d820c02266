//! Whether the files of a version are still the ones they were.
//!
//! By time, length and inode of each, which costs a system call a file where a hash would read gigabytes. A file that is
//! written anew with the same length and within the clock's step is the one change that goes unseen.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Most files of a version that are looked at, and how deep below its directory. Models with external data have some
/// hundred files.
const FILES_MAX: usize = 4096;
const DEPTH_MAX: usize = 4;

/// The files of a version, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamps(BTreeMap<PathBuf, Stamp>);

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified_ns: u128,
    bytes: u64,
    inode: u64,
}

/// Of the version at `place` within the repository: `<name>/<version>`, or `<name>.onnx`.
///
/// A directory's own: everything in it, and the files beside it (settings, labels, a tokenizer). Of a single file: all
/// whose names begin with the model's name and a dot, and `named`, what the settings name.
pub(crate) fn stamps(root: &Path, place: &Path, named: &[String]) -> Stamps {
    let mut stamps = Stamps::default();
    match place.parent().filter(|name| *name != Path::new("")) {
        Some(name) => {
            stamps.add_directory(root, &root.join(name), 0, &|_| true);
            stamps.add_directory(root, &root.join(place), DEPTH_MAX, &|_| true);
        }
        None => {
            let stem = place.with_extension("");
            let prefix = format!("{}.", stem.display());
            let is_own = |file: &str| file.starts_with(&prefix) || named.iter().any(|name| name == file);
            stamps.add_directory(root, root, 0, &is_own);
        }
    }
    stamps
}

impl Stamps {
    /// Of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().map(|stamp| stamp.bytes).fold(0, u64::saturating_add)
    }

    /// Whether one of the files was written so short a time before `now`. One of the future says nothing.
    pub(crate) fn were_written_within(&self, time: Duration, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let ages = self.0.values().filter_map(|stamp| now.checked_sub(stamp.modified_ns));
        ages.into_iter().any(|age| age < time.as_nanos())
    }

    /// Adds the files of a directory that are the model's, and those of the directories in it, so deep.
    fn add_directory(&mut self, root: &Path, directory: &Path, depth: usize, is_own: &dyn Fn(&str) -> bool) {
        // What cannot be read has no stamp; the load says why.
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten().take(FILES_MAX) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            // Copying programs write hidden files first, and rename them when they are whole.
            if name.starts_with('.') || !is_own(&name) || FILES_MAX <= self.0.len() {
                continue;
            }
            // Of a link out of the repository only the link itself is looked at.
            let is_inside = fs::canonicalize(&path).is_ok_and(|real| real.starts_with(root));
            let metadata = if is_inside { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
            let Ok(metadata) = metadata else { continue };
            if metadata.is_dir() {
                if 0 < depth {
                    self.add_directory(root, &path, depth - 1, is_own);
                }
            } else {
                self.0.insert(path, Stamp::of(&metadata));
            }
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            modified_ns: modified.unwrap_or_default().as_nanos(),
            bytes: metadata.len(),
            inode: inode(metadata),
        }
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn of(&self, place: &str) -> Stamps {
            let root = fs::canonicalize(self.0.path()).unwrap();
            stamps(&root, Path::new(place), &["labels.txt".to_owned()])
        }
    }

    #[test]
    fn what_is_being_written_is_known_by_its_time() {
        let home = Home(tempfile::tempdir().unwrap());
        home.put("weld/1/model.onnx", "x");
        let stamps = home.of("weld/1");
        let (now, second) = (SystemTime::now(), Duration::from_secs(1));
        assert!(stamps.were_written_within(600 * second, now));
        assert!(!stamps.were_written_within(second, now + 600 * second));
        assert!(!stamps.were_written_within(second, now - 600 * second), "a clock that was set back");
    }

    #[test]
    fn a_version_is_its_directory_and_what_lies_beside_it() {
        let home = Home(tempfile::tempdir().unwrap());
        home.put("weld/1/model.onnx", "x");
        home.put("weld/2/model.onnx", "x");
        let first = home.of("weld/1");
        assert_eq!(first, home.of("weld/1"));
        for (path, text) in [
            ("weld/1/model.onnx", "longer"),
            ("weld/1/data/weights.bin", "w"),
            ("weld/model.toml", "# new"),
            ("weld/config.pbtxt", "# new"),
        ] {
            let before = (home.of("weld/1"), home.of("weld/2"));
            home.put(path, text);
            assert_ne!(home.of("weld/1"), before.0, "{path}");
            assert_eq!(home.of("weld/2") == before.1, path.starts_with("weld/1/"), "{path}");
        }
        let before = home.of("weld/1");
        home.put("weld/1/.model.onnx.part", "half");
        home.put("press.onnx", "x");
        assert_eq!(home.of("weld/1"), before, "of no concern to it");
    }

    #[test]
    fn a_single_file_is_its_name_and_what_its_settings_name() {
        let home = Home(tempfile::tempdir().unwrap());
        home.put("press.onnx", "x");
        home.put("press2.onnx", "x");
        home.put("README.md", "x");
        let before = home.of("press.onnx");
        home.put("press2.onnx", "other");
        home.put("README.md", "other");
        assert_eq!(home.of("press.onnx"), before);
        for path in ["press.toml", "press.onnx.data", "labels.txt"] {
            let before = home.of("press.onnx");
            home.put(path, "new");
            assert_ne!(home.of("press.onnx"), before, "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn no_link_out_of_the_repository_is_followed() {
        let (home, outside) = (Home(tempfile::tempdir().unwrap()), tempfile::tempdir().unwrap());
        home.put("weld/1/model.onnx", "x");
        fs::write(outside.path().join("secret"), "x").unwrap();
        let at = home.0.path().join("weld/1");
        std::os::unix::fs::symlink(outside.path().join("secret"), at.join("file")).unwrap();
        std::os::unix::fs::symlink(outside.path(), at.join("directory")).unwrap();
        let before = home.of("weld/1");
        assert_eq!(before.0.len(), 3, "the model and the two links themselves");
        fs::write(outside.path().join("secret"), "longer").unwrap();
        assert_eq!(home.of("weld/1"), before);
    }
}
