//! A model repository looked at without a node: what would serve from it, with what, and why the rest would not.
//!
//! Settings and files are looked at in any case; with a [`Trial`] each version is opened as a node would open it, and
//! measured. Nothing is served, and nothing is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use lineside_wire::{EngineInfo, ModelName, ModelVersion, TensorSpec};
use serde::Serialize;

use crate::{
    engine::{Engine, OnnxRuntime},
    opening::Bench,
    policy,
    repository::{self, Files, Refused},
    scan,
    settings::{Settings, Source, effective, sample},
    trial::TrialConfig,
};

/// How models are opened, to see whether they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// How they are tried first; `None` opens them in this process alone, which a model may end.
    pub trial: Option<TrialConfig>,
}

/// A repository as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// By name.
    pub models: Vec<Examined>,
    /// What is no model, and why.
    pub refused: Vec<NoModel>,
}

impl Examination {
    /// Whether everything that lies there can be used.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let is_bad = |version: &ExaminedVersion| version.outlook == Outlook::Unavailable;
        self.refused.is_empty() && !self.models.iter().any(|model| model.versions.iter().any(is_bad))
    }
}

/// Something that is no model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NoModel {
    /// Its path within the repository.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub reason: String,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// Its name.
    pub name: ModelName,
    /// Its settings' file within the repository; `None` where it has none.
    pub source: Option<String>,
    /// What it would be run with, as TOML: every key, those without a value as a comment. Empty where they are wrong.
    pub settings: String,
    /// What the person who wrote them should know.
    pub warnings: Vec<String>,
    /// By number.
    pub versions: Vec<ExaminedVersion>,
}

/// A version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExaminedVersion {
    /// Its number.
    pub version: ModelVersion,
    /// What a node would make of it.
    pub outlook: Outlook,
    /// Why it would not serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What its file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFacts>,
    /// How a node would run it, where it was opened. Its warnings hold those of the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineInfo>,
    /// Its inputs, where it was opened.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs, likewise.
    pub outputs: Vec<TensorSpec>,
}

/// What a node would make of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outlook {
    /// It serves, as far as was looked.
    Ready,
    /// The settings do not choose it.
    NotChosen,
    /// It does not serve.
    Unavailable,
}

impl Outlook {
    /// As it is listed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::NotChosen => "NOT CHOSEN",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// What a model's file says before it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileFacts {
    /// SHA-256 of the model's files.
    pub sha256: String,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Files with weights, beside the model.
    pub external: Vec<PathBuf>,
    /// Operator domains and their versions; ONNX's own is `ai.onnx`.
    pub opsets: Vec<(String, i64)>,
    /// Who made it, as it says itself.
    pub producer: String,
}

/// Why a repository cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// The directory cannot be read.
    #[error("the model repository {} cannot be read: {error}", path.display())]
    Repository {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is no ONNX Runtime that can be used.
    #[error("{} is no usable ONNX Runtime: {reason}", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
}

/// Looks at the repository in `models`; with `opening` also opens and measures what would serve.
///
/// Takes as long as all its files take to read, and with `opening` to load and to run, one after the other.
///
/// # Errors
/// The repository or the library cannot be used. A model that cannot be used is a finding.
pub fn examine(models: &Path, opening: Option<&Opening>) -> Result<Examination, ExamineError> {
    let bench = opening.map(|opening| bench(models, opening)).transpose()?;
    look(models, bench.as_ref())
}

/// A settings file of a model with every key, its default and what it means.
#[must_use]
pub fn sample_settings() -> String {
    sample()
}

fn bench(models: &Path, opening: &Opening) -> Result<Bench, ExamineError> {
    let Opening { library, trial } = opening.clone();
    let engine = OnnxRuntime::load(&library)
        .map_err(|error| ExamineError::Library { path: library.clone(), reason: error.to_string() })?;
    // One session is enough to see, and nothing of it is kept.
    let sessions = NonZeroUsize::MIN;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    Ok(Bench { engine, repository: models.to_owned(), library, sessions, trial, cache: None })
}

fn look(models: &Path, bench: Option<&Bench>) -> Result<Examination, ExamineError> {
    let unreadable = |error| ExamineError::Repository { path: models.to_owned(), error };
    let scan = repository::read(models).map_err(unreadable)?;
    let mut by_name: BTreeMap<ModelName, BTreeMap<ModelVersion, Result<Files, String>>> = BTreeMap::new();
    for (id, files) in scan.versions {
        by_name.entry(id.name).or_default().insert(id.version, files);
    }
    let models = by_name.into_iter().map(|(name, versions)| model(models, bench, name, &versions)).collect();
    let refused = scan.refused.into_iter().map(|Refused { path, reason }| NoModel { path, reason }).collect();
    Ok(Examination { models, refused })
}

fn model(
    root: &Path,
    bench: Option<&Bench>,
    name: ModelName,
    versions: &BTreeMap<ModelVersion, Result<Files, String>>,
) -> Examined {
    // All versions of a model have their settings in one place.
    let place = versions.values().find_map(|files| files.as_ref().ok()).map(|files| &files.settings);
    let read = place.map_or_else(|| Ok(Default::default()), |place| read(root, place));
    let (source, settings) = match read {
        Ok(read) => read,
        Err(reason) => {
            let bad = |(number, files): (&ModelVersion, &Result<Files, String>)| {
                unavailable(*number, files.as_ref().err().unwrap_or(&reason).clone())
            };
            return Examined {
                name,
                source: None,
                settings: String::new(),
                warnings: Vec::new(),
                versions: versions.iter().map(bad).collect(),
            };
        }
    };
    Examined {
        name,
        source: source.path().map(str::to_owned),
        settings: effective(&settings),
        warnings: source.warnings().to_vec(),
        versions: judged(bench, &settings, versions),
    }
}

fn read(root: &Path, place: &Path) -> Result<(Source, Settings), String> {
    let (source, settings) = Source::read(root, place)?;
    settings.check(None).map_err(|wrong| source.tell(&wrong))?;
    Ok((source, settings))
}

/// From the highest down: where one cannot serve, the next one may have to stand in.
fn judged(
    bench: Option<&Bench>,
    settings: &Settings,
    versions: &BTreeMap<ModelVersion, Result<Files, String>>,
) -> Vec<ExaminedVersion> {
    let mut there: BTreeSet<_> = versions.keys().copied().collect();
    let mut judged = Vec::new();
    for (number, files) in versions.iter().rev() {
        let is_chosen = policy::chosen(&there, &settings.versions).contains(number);
        let mut version = match files {
            Ok(files) => one(bench, settings, *number, files, is_chosen),
            Err(reason) => unavailable(*number, reason.clone()),
        };
        match version.outlook {
            Outlook::NotChosen => {
                version.reason = Some(format!("its settings choose {}", policy::words(&settings.versions)));
            }
            Outlook::Unavailable if policy::falls_back(&settings.versions) => drop(there.remove(number)),
            Outlook::Unavailable | Outlook::Ready => {}
        }
        judged.push(version);
    }
    judged.reverse();
    judged
}

fn unavailable(version: ModelVersion, reason: String) -> ExaminedVersion {
    ExaminedVersion {
        version,
        outlook: Outlook::Unavailable,
        reason: Some(reason),
        file: None,
        engine: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
    }
}

fn one(
    bench: Option<&Bench>,
    settings: &Settings,
    number: ModelVersion,
    files: &Files,
    is_chosen: bool,
) -> ExaminedVersion {
    let scanned = match bench {
        Some(bench) => bench.engine.scan(&files.model, &settings.limits),
        None => scan::scan(&files.model, &settings.limits),
    };
    let scanned = match scanned {
        Ok(scanned) => scanned,
        Err(rejected) => return unavailable(number, rejected.to_string()),
    };
    let facts = FileFacts {
        sha256: scanned.sha256,
        bytes: scanned.bytes,
        external: scanned.external,
        opsets: scanned.domains,
        producer: scanned.producer,
    };
    let mut version = ExaminedVersion {
        version: number,
        outlook: if is_chosen { Outlook::Ready } else { Outlook::NotChosen },
        reason: None,
        file: Some(facts),
        engine: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
    };
    let Some(bench) = bench.filter(|_| is_chosen) else { return version };
    match bench.open(files) {
        Ok(ready) => {
            version.inputs = ready.signature.inputs;
            version.outputs = ready.signature.outputs;
            version.engine = Some(ready.info);
        }
        Err(reason) => (version.outlook, version.reason) = (Outlook::Unavailable, Some(reason)),
    }
    version
}

#[cfg(test)]
mod tests;
