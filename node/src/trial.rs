//! The first load of a model, in a process of its own.
//!
//! ```text
//!   try_out ── order, one line of JSON ──> child: limits itself, opens, warms up, measures ── finding, one line ──> kept
//!   the loader's thread                    a process of the same program                                            on disk
//! ```
//!
//! A model that makes ONNX Runtime abort, that takes all memory or never ends takes only the trial with it. The trial opens
//! the model, warms it up, measures it ([`measure`](crate::measure)) and reports; what it found is kept on disk under the
//! model's hash, so that the next start need not try again. What failed is not kept: the next machine, or the next hour,
//! may have the memory.
//!
//! Limits: [`TrialConfig`], 64 KiB for an order or a finding, the last 4 KiB of what a trial says, 256 findings.

mod child;
mod kept;
mod parent;
mod words;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    measure::Measured,
    repository::Files,
    scan::Scanned,
    settings::{Settings, Source},
};

/// Longest order and longest finding, in bytes: some paths; a handful of numbers and a reason.
const LINE_BYTES_MAX: usize = 64 << 10;

/// How models are tried before they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialConfig {
    /// The program that runs [`child`]: usually this one.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Longest time for load, warm-up and measurement.
    pub time_max: Duration,
    /// Most memory of the trial that is its own, in bytes: what is read of files that are mapped does not count. Not for
    /// models that run on another device than the CPU, whose libraries map its memory too.
    pub memory_max: u64,
}

/// What a trial found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tried {
    pub(crate) measured: Measured,
    /// What the model took of memory, in bytes: one session of it, loaded and run.
    pub(crate) memory_bytes: u64,
}

/// What there is to be tried, and with what.
pub(crate) struct Subject<'a> {
    pub(crate) library: &'a Path,
    /// Name and version of the library: what was found with one says nothing about another.
    pub(crate) library_name: &'a str,
    pub(crate) repository: &'a Path,
    pub(crate) files: &'a Files,
    pub(crate) scanned: &'a Scanned,
    /// Where findings are kept; `None` keeps none.
    pub(crate) kept: Option<&'a Path>,
}

/// What the trial is told.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    library: PathBuf,
    repository: PathBuf,
    model: PathBuf,
    settings: PathBuf,
    cache: Option<PathBuf>,
    sha256: String,
    time_max: Duration,
    memory_max: u64,
}

/// What the trial tells.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Finding {
    /// The model can be loaded.
    Good(Tried),
    /// It cannot, for the person who put it there.
    Bad(String),
}

/// Tries a model in a process of its own, or gives what was found before. Takes as long as the model takes to load, at
/// most [`TrialConfig::time_max`]: never on the network's thread.
///
/// # Errors
/// Why it must not be loaded, for the person who put it there.
pub(crate) fn try_out(config: &TrialConfig, subject: &Subject<'_>) -> Result<Tried, String> {
    let (_, settings) = Source::read(subject.repository, &subject.files.settings)?;
    let place = subject.kept.and_then(|directory| kept::place(directory, subject, &settings));
    if let Some(tried) = place.as_deref().and_then(kept::read) {
        return Ok(tried);
    }
    let order = Order {
        library: subject.library.to_owned(),
        repository: subject.repository.to_owned(),
        model: subject.files.model.clone(),
        settings: subject.files.settings.clone(),
        cache: subject.kept.map(Path::to_owned),
        sha256: subject.scanned.sha256.clone(),
        time_max: config.time_max,
        memory_max: config.memory_max,
    };
    match parent::run(config, &order)? {
        Finding::Good(tried) => {
            if let Some(place) = place {
                kept::write(&place, &tried);
            }
            Ok(tried)
        }
        Finding::Bad(reason) if words::speak_of_memory(&reason) => {
            Err(format!("{reason}; {}", words::more_memory(config.memory_max)))
        }
        Finding::Bad(reason) => Err(reason),
    }
}

/// Settings that decide what a trial finds.
fn decisive(settings: &Settings) -> String {
    let Settings { instances, batching, execution, warmup, .. } = settings;
    format!("{instances:?} {batching:?} {execution:?} {warmup:?}")
}

/// The other side: reads its order from `input`, limits itself, tries the model, and writes what it found to `output`.
///
/// The limits are those of the whole process, and stay: it has nothing else to do.
///
/// # Errors
/// The order cannot be read or the finding not be written. A model that is no good is a finding.
pub fn child(input: impl io::Read, output: impl io::Write) -> io::Result<()> {
    child::run(input, output)
}
