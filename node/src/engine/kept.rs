//! Optimised models on disk: what ONNX Runtime made of a model, so that it need not be made again.
//!
//! Beside the graph lies a file with all weights, in the form that the kernels want. Every session maps that file into its
//! memory, so a version's sessions hold the weights once, and all but the first open at once: four sessions of resnet50 take
//! 142 MB and not 627. ONNX Runtime's own sharing of prepared weights reaches only weights that the program hands to it. So a
//! version with several sessions goes through such a file also where nothing is to be kept: it passes through a temporary
//! directory then, whose files are gone from disk as soon as all sessions have them.
//!
//! ONNX Runtime fits a model to the processor that it is optimised on, so the name of what is kept holds the model's hash,
//! the library, the settings and the processor; and the hash of its own bytes, so that a damaged file is found, thrown away
//! and made again. A directory is written beside its place and moved there whole.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::digest::{Context, SHA256, digest};
use ort::session::Session;
use tempfile::TempDir;
use tracing::{debug, warn};

use super::{
    Options,
    open::{How, Opener},
    providers::CPU,
    signature::signature,
    trim::trimmed,
};

/// Most optimised models that are kept; the oldest go. As many as a node has versions of models.
const KEPT_MAX: usize = 64;

/// Hexadecimal digits of a hash in a name: 128 bits, against damage and not against an enemy, who would write the name as
/// well.
const DIGITS: usize = 32;

/// The graph.
pub(super) const GRAPH: &str = "model.onnx";

/// The weights, beside it.
pub(super) const WEIGHTS: &str = "weights.bin";

/// How directories begin that are not finished.
const UNFINISHED: &str = ".optimising-";

/// Names a model as it is optimised here; `None` for a model whose hash nobody knows.
pub(super) fn key(options: &Options, library: &str) -> Option<String> {
    let known = 16 <= options.sha256.len() && options.sha256.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !known {
        return None;
    }
    let settings = format!("{library}\n{:?}\n{}", options.execution.optimization, processor());
    let settings = hex(digest(&SHA256, settings.as_bytes()).as_ref());
    let readable = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let library: String = library.chars().take(32).map(readable).collect();
    Some(format!("{}-{CPU}-{library}-{}", options.sha256, &settings[..16]))
}

/// What the processor can, as far as the system tells.
fn processor() -> String {
    let told = ["vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features"];
    let arm = ["CPU implementer", "CPU architecture", "CPU variant", "CPU part"];
    let all = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = all.split("\n\n").next().unwrap_or_default();
    let is_told = |line: &&str| {
        let key = line.split(':').next().unwrap_or_default().trim();
        told.contains(&key) || arm.contains(&key)
    };
    let lines: Vec<&str> = first.lines().filter(is_told).collect();
    format!("{}\n{}", std::env::consts::ARCH, lines.join("\n"))
}

/// Where an optimised model lies.
pub(super) enum Place<'a> {
    /// In a directory of this name in `home`, for the next start too.
    Kept { home: &'a Path, key: &'a str },
    /// In a temporary directory, for the sessions of one version.
    Passing,
}

/// A version's optimised model, and its first session.
pub(super) struct Optimised {
    pub(super) graph: PathBuf,
    pub(super) first: Session,
    /// Removed when this is dropped: the sessions hold what they have mapped.
    pub(super) passing: Option<TempDir>,
}

impl Place<'_> {
    /// Opens the optimised model; makes it before, where it is not there or damaged. Also the first time it is that file
    /// that is opened, so that the first start computes with the same bits as the second.
    ///
    /// # Errors
    /// Why it cannot be had. Whether the model itself is any good, only opening it tells.
    pub(super) fn open(&self, model: &Path, opener: &Opener<'_>) -> Result<Optimised, String> {
        let open = |directory: &Path| {
            let graph = directory.join(GRAPH);
            let first = opener.open(&graph, How::Optimised).map_err(|error| error.message().to_owned())?;
            Ok(Optimised { graph, first, passing: None })
        };
        match self {
            Self::Passing => {
                let passing = TempDir::with_prefix("lineside-").map_err(|error| error.to_string())?;
                make(model, opener, passing.path())?;
                let optimised = open(passing.path())?;
                Ok(Optimised { passing: Some(passing), ..optimised })
            }
            Self::Kept { home, key } => {
                for directory in found(home, key).map_err(|error| error.to_string())? {
                    let is_whole =
                        hash(&directory).is_ok_and(|digits| named(key, &digits) == file_name(&directory));
                    match is_whole.then(|| open(&directory)) {
                        Some(Ok(optimised)) => return Ok(optimised),
                        Some(Err(reason)) => debug!(reason, ?directory, "an optimised model does not open"),
                        None => warn!(?directory, "an optimised model is damaged, and is made again"),
                    }
                    drop(fs::remove_dir_all(&directory));
                }
                let directory = keep(model, opener, home, key)?;
                open(&directory).inspect_err(|_| drop(fs::remove_dir_all(&directory)))
            }
        }
    }
}

/// Writes the optimised model, which takes and gives what the model does.
fn make(model: &Path, opener: &Opener<'_>, directory: &Path) -> Result<(), String> {
    let open = |file: &Path, how| opener.open(file, how).map_err(|error| error.message().to_owned());
    let session = |file: &Path, how| signature(&open(file, how)?).map_err(|error| error.to_string());
    let graph = directory.join(GRAPH);
    let wanted = session(model, How::Writing(directory))?;
    if wanted == session(&graph, How::Optimised)? {
        return Ok(());
    }
    let names: Vec<&str> = wanted.inputs.iter().map(|spec| spec.name.as_str()).collect();
    let written = fs::read(&graph).map_err(|error| error.to_string())?;
    let trimmed = trimmed(&written, &names).ok_or("what was written is no model")?;
    fs::write(&graph, trimmed).map_err(|error| error.to_string())?;
    match wanted == session(&graph, How::Optimised)? {
        true => Ok(()),
        false => Err("the optimised model takes or gives something else".to_owned()),
    }
}

fn keep(model: &Path, opener: &Opener<'_>, home: &Path, key: &str) -> Result<PathBuf, String> {
    let told = |error: io::Error| format!("{}: {error}", home.display());
    fs::create_dir_all(home).map_err(told)?;
    let written = TempDir::with_prefix_in(UNFINISHED, home).map_err(told)?;
    make(model, opener, written.path())?;
    let digits = hash(written.path()).map_err(told)?;
    for file in files(written.path()).map_err(told)? {
        File::open(file).and_then(|file| file.sync_all()).map_err(told)?;
    }
    let directory = home.join(named(key, &digits));
    // Another process may have been faster with the same bytes: then its directory is as good.
    if let Err(error) = fs::rename(written.path(), &directory)
        && !directory.is_dir()
    {
        return Err(told(error));
    }
    if let Err(error) = discard_the_oldest(home) {
        debug!(%error, "old optimised models stay");
    }
    Ok(directory)
}

fn named(key: &str, digits: &str) -> String {
    format!("{key}.{digits}")
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The directories of a key: one, as a rule.
fn found(home: &Path, key: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    let is_of_key =
        |path: &PathBuf| file_name(path).strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    Ok(paths.into_iter().filter(is_of_key).collect())
}

fn discard_the_oldest(home: &Path) -> io::Result<()> {
    let mut directories: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let path = entry.path();
        let is_ours = path.join(GRAPH).is_file() || file_name(&path).starts_with(UNFINISHED);
        if is_ours {
            directories.push((entry.metadata()?.modified()?, path));
        }
    }
    directories.sort();
    let surplus = directories.len().saturating_sub(KEPT_MAX);
    directories.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_dir_all(path))
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    Ok(files)
}

/// Of the names and bytes of all files in a directory.
fn hash(directory: &Path) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut block = vec![0; 1 << 16];
    for path in files(directory)? {
        context.update(file_name(&path).as_bytes());
        context.update(&path.metadata()?.len().to_le_bytes());
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut block)? {
                0 => break,
                read => context.update(&block[..read]),
            }
        }
    }
    Ok(hex(context.finish().as_ref())[..DIGITS].to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
