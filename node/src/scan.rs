//! Looks into a model's file before ONNX Runtime does.
//!
//! ONNX Runtime follows what a file says about other files. So the protobuf is read here first, field by field, without
//! building anything from it: which files it wants, which operators it uses, how much memory it asks for. What breaks a
//! rule is refused before a byte of another file is read.

mod external;
mod reader;
mod rules;
mod tensor;
mod walk;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use self::{
    reader::{Reader, Stop},
    walk::Found,
};
use crate::{digest::Sha256, repository::MODEL_BYTES_MAX, settings::ModelLimits};

/// The name by which the model's own file counts in the hash of several.
const OWN_NAME: &str = "model.onnx";

/// How a file begins that stands for one which was not fetched.
const POINTER: &[u8] = b"version https://git-lfs";

/// What a model's file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scanned {
    /// SHA-256, in hexadecimal digits: of the model's file; with weights in other files, of the lines `NAME HASH` of
    /// all of them, sorted, the model's own as `model.onnx`.
    pub(crate) sha256: String,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
    /// Files with weights, beside the model.
    pub(crate) external: Vec<PathBuf>,
    /// Operator domains and their versions; ONNX's own is `ai.onnx`.
    pub(crate) domains: Vec<(String, i64)>,
    /// ONNX's version of the file's form.
    pub(crate) ir_version: i64,
    /// Who made it, as it says itself.
    pub(crate) producer: String,
    /// Bytes of the weights in the file.
    pub(crate) weight_bytes: u64,
}

/// Why a model is refused before it is opened; the text is for the person who put it there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejected {
    /// The bytes are no ONNX model.
    #[error("not an ONNX model: {0}; export the network to ONNX, or copy the file again if it is one")]
    NotAModel(String),
    /// A rule was broken.
    #[error("{0}")]
    Rule(String),
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Reads the model at `model`, whose weights may lie in its own directory and nowhere else.
///
/// # Errors
/// See [`Rejected`]. No other file was opened when a rule about files is broken.
pub(crate) fn scan(model: &Path, limits: &ModelLimits) -> Result<Scanned, Rejected> {
    let unreadable = |error| Rejected::Unreadable { path: model.to_owned(), error };
    let (mut file, bytes) = open(model).map_err(unreadable)?;
    if MODEL_BYTES_MAX < bytes {
        return Err(Rejected::Rule(format!(
            "the file has {bytes} bytes: at most {MODEL_BYTES_MAX} are read"
        )));
    }
    let (found, own) = read(&mut file, bytes, &limits.domains).map_err(|stop| match stop {
        Stop::Read(error) => unreadable(error),
        Stop::Rule(text) => Rejected::Rule(text),
        Stop::Form(_) if is_pointer(model) => Rejected::NotAModel(
            "it is what Git LFS puts into the place of a file; `git lfs pull` fetches it".to_owned(),
        ),
        Stop::Form(text) => Rejected::NotAModel(text),
    })?;
    let directory = model.parent().unwrap_or(Path::new("."));
    let weights = external::look(directory, found.external.values())?;
    // Every file keeps every rule: only now is one of them opened.
    let mut lines = vec![format!("{OWN_NAME} {own}\n")];
    for weights in &weights {
        lines.push(format!("{} {}\n", weights.path.display(), weights.hash(directory)?));
    }
    lines.sort();
    let sha256 = if weights.is_empty() { own } else { Sha256::of(lines.concat().as_bytes()) };
    Ok(Scanned {
        sha256,
        bytes: weights.iter().map(external::Weights::bytes).fold(bytes, u64::saturating_add),
        external: weights.into_iter().map(|weights| weights.path).collect(),
        domains: found.opsets.into_iter().collect(),
        ir_version: found.ir_version,
        producer: found.producer,
        weight_bytes: found.weight_bytes,
    })
}

/// Reads a model of so many bytes, and judges everything about it but other files. Also gives its hash.
fn read(from: impl Read, bytes: u64, domains: &[String]) -> Result<(Found, String), Stop> {
    let mut reader = Reader::new(from);
    let found = walk::walk(&mut reader, bytes)?;
    rules::judge(&found, domains)?;
    Ok((found, reader.hash()))
}

/// The same for bytes that are no file, for the fuzz target: what a rule or the form says against them.
pub(crate) fn refusal(bytes: &[u8]) -> Option<String> {
    match read(bytes, bytes.len() as u64, &[]) {
        Ok(_) => None,
        Err(Stop::Form(text) | Stop::Rule(text)) => Some(text),
        Err(Stop::Read(error)) => Some(error.to_string()),
    }
}

/// Opens a file, and tells how many bytes it has. A pipe that took its place is not waited for.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata.len())),
        false => Err(io::Error::other("it is no file")),
    }
}

fn is_pointer(model: &Path) -> bool {
    let mut head = [0; POINTER.len()];
    open(model).and_then(|(mut file, _)| file.read_exact(&mut head)).is_ok() && head == POINTER
}
