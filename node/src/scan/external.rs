//! Files that a model names for its weights: in its own directory, and nowhere else.
//!
//! A model's file is a stranger's word, and a path in it could make the node read any file that it can read, and give
//! its bytes away as outputs. So every rule is looked at by name and by what the system says about the name, and only
//! when all files keep all rules is the first one opened, to be hashed.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{Rejected, tensor::shown};
use crate::digest::Sha256;

/// Most files of a model: some exporters write one for each tensor.
pub(super) const FILES_MAX: usize = 16_384;

/// Most bytes of them together: more than the memory of any machine that stands beside a line.
const BYTES_MAX: u64 = 256 << 30;

/// What ONNX Runtime itself writes as the location of weights that lie in memory. In a file it would be an address to
/// read from.
const MEMORY_MARKER: &str = "_ORT_MEM_ADDR_";

/// What is read at once for a hash.
const CHUNK_BYTES: usize = 256 << 10;

/// A tensor's weights in another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct External {
    /// The tensor, as a message shows it.
    pub(super) tensor: String,
    pub(super) location: String,
    pub(super) offset: u64,
    /// As many as the tensor needs, or the file says that it takes.
    pub(super) bytes: u64,
}

impl External {
    /// Where in the file it ends.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// A file that keeps the rules.
#[derive(Debug)]
pub(super) struct Weights {
    /// Within the model's directory.
    pub(super) path: PathBuf,
    metadata: Metadata,
}

impl Weights {
    pub(super) fn bytes(&self) -> u64 {
        self.metadata.len()
    }

    /// Reads the file for its hash.
    pub(super) fn hash(&self, directory: &Path) -> Result<String, Rejected> {
        let path = directory.join(&self.path);
        let read = || -> io::Result<String> {
            let mut file = self.open(&path)?;
            let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
            loop {
                match file.read(&mut chunk) {
                    Ok(0) => return Ok(hash.finish()),
                    Ok(read) => hash.update(&chunk[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        };
        read().map_err(|error| Rejected::Unreadable { path: path.clone(), error })
    }

    /// Opens the file that was looked at, or none: whatever took its place meanwhile was not.
    fn open(&self, path: &Path) -> io::Result<io::Take<File>> {
        // A pipe that took its place is not waited for.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let (before, now) = (&self.metadata, file.metadata()?);
        let is_same = (before.dev(), before.ino(), before.len()) == (now.dev(), now.ino(), now.len());
        match is_same && now.is_file() && now.nlink() == 1 {
            true => Ok(file.take(self.bytes())),
            false => Err(io::Error::other("it was replaced while it was looked at; load the model again")),
        }
    }
}

/// Looks at the files that a model wants, without opening one.
///
/// # Errors
/// A rule is broken, in words for the person who put the model there.
pub(super) fn look<'a>(
    directory: &Path,
    wanted: impl Iterator<Item = &'a External>,
) -> Result<Vec<Weights>, Rejected> {
    let (mut found, mut total) = (Vec::new(), 0_u64);
    for external in wanted {
        let weights = look_at(directory, external)?;
        let holds = weights.bytes();
        if holds < external.end() {
            return Err(Rejected::Rule(format!(
                "the tensor {} wants {} bytes from byte {} of {}, which has {holds}: copy the file again",
                external.tensor,
                external.bytes,
                external.offset,
                shown(&external.location)
            )));
        }
        total = total.saturating_add(holds);
        if BYTES_MAX < total {
            let text = format!("the files of the model's weights have more than {BYTES_MAX} bytes");
            return Err(Rejected::Rule(text));
        }
        found.push(weights);
    }
    Ok(found)
}

fn look_at(directory: &Path, external: &External) -> Result<Weights, Rejected> {
    let wants =
        || format!("the tensor {} wants its weights from {}", external.tensor, shown(&external.location));
    let refused = |why: &str| Rejected::Rule(format!("{}, {why}", wants()));
    let path = inside(&external.location).map_err(|why| refused(&why))?;
    let unseen = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Rejected::Rule(format!(
            "{}, and there is no such file in {}: copy it there too",
            wants(),
            directory.display()
        )),
        _ => refused(&format!("which cannot be looked at: {error}")),
    };
    let mut at = directory.to_owned();
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        // Says what is at a name without opening it, and without following a link.
        let metadata = fs::symlink_metadata(&at).map_err(|error| unseen(&error))?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            return Err(refused(
                "which is or lies behind a symbolic link: copy the file itself beside the model",
            ));
        }
        if parts.peek().is_some() {
            continue;
        }
        if !kind.is_file() {
            return Err(refused("which is no file"));
        }
        if metadata.nlink() != 1 {
            return Err(refused(
                "which is a hard link, and so may be a file of somebody else: copy the file itself beside the model",
            ));
        }
        return Ok(Weights { path, metadata });
    }
    Err(refused("which names no file"))
}

/// The path that a location means within the model's directory.
fn inside(location: &str) -> Result<PathBuf, String> {
    const BESIDE: &str = "weights lie in the model's own directory and nowhere else; put the file there and export the \
                          model with its plain name";
    if location.contains(MEMORY_MARKER) {
        return Err(
            "which is an address in memory and no file: the model was made to read what is not its own"
                .to_owned(),
        );
    }
    if location.is_empty() {
        return Err("which names no file".to_owned());
    }
    if location.chars().any(|c| c == '\\' || c.is_control()) {
        return Err(format!("whose name has characters that are not taken: {BESIDE}"));
    }
    let path = Path::new(location);
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    // `components` passes over what changes nothing, such as `./` in the middle; here a name has one spelling.
    let has_one_spelling = location.split('/').all(|part| !matches!(part, "" | "." | ".."));
    match path.components().all(is_plain) && has_one_spelling {
        true => Ok(path.to_owned()),
        false => Err(format!("which leads elsewhere: {BESIDE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_inside() {
        for location in ["weights.bin", "a/b.data", "model.onnx.data", "..weights", "weights..bin", "Läger 7"]
        {
            assert_eq!(inside(location).unwrap(), Path::new(location));
        }
        for location in [
            "",
            "/etc/passwd",
            "..",
            "../w",
            "a/../w",
            "a/..",
            "./w",
            "a//w",
            "a/",
            "//w",
            "a\\..\\w",
            "..\\w",
            "a\0b",
            "C:\\w",
            "a/_ORT_MEM_ADDR_/b",
            "*/_ORT_MEM_ADDR_/*",
            ".",
        ] {
            assert!(inside(location).is_err(), "{location:?}");
        }
    }
}
