//! ONNX Runtime, loaded into this process: once, from one file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ort::{environment::Environment, logging::LogLevel};
use tracing::{debug, info, warn};

use super::guarded;

/// Why ONNX Runtime cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LibraryError {
    /// The file is no ONNX Runtime, or one that is too old.
    #[error("{0}")]
    Unusable(String),
    /// One process holds one library.
    #[error("this process already uses {}", .0.display())]
    AnotherInUse(PathBuf),
}

/// ONNX Runtime, loaded into this process.
#[derive(Clone)]
pub(crate) struct OnnxRuntime {
    pub(super) environment: Environment,
    /// Name, version and commit.
    pub(super) name: Arc<str>,
}

/// ONNX Runtime allows one environment per process and cannot be unloaded.
static LOADED: Mutex<Option<(PathBuf, OnnxRuntime)>> = Mutex::new(None);

impl OnnxRuntime {
    /// Loads the library, or gives the one that this process has loaded from there before.
    pub(crate) fn load(library: &Path) -> Result<Self, LibraryError> {
        let unusable = |text: String| LibraryError::Unusable(text);
        let library = std::path::absolute(library).map_err(|error| unusable(error.to_string()))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, runtime)) = &*loaded {
            return match *from == library {
                true => Ok(runtime.clone()),
                false => Err(LibraryError::AnotherInUse(from.clone())),
            };
        }
        let environment = guarded(|| {
            let builder = ort::init_from(&library).map_err(|error| error.to_string())?;
            let builder = builder.with_name("lineside").with_telemetry(false).with_logger(Arc::new(log));
            builder.build().map_err(|error| error.message().to_owned())
        })
        .unwrap_or_else(Err)
        .map_err(unusable)?;
        environment.set_log_level(LogLevel::Warning);
        let file = std::fs::canonicalize(&library).unwrap_or_else(|_| library.clone());
        let name: Arc<str> = named(&file, guarded(ort::info).unwrap_or_default()).into();
        info!(library = %library.display(), version = %name, "ONNX Runtime loaded");
        let runtime = Self { environment, name };
        *loaded = Some((library, runtime.clone()));
        Ok(runtime)
    }
}

/// What the library is called: `onnxruntime 1.32.0 (2b3b5ea4)`.
///
/// The version is the one in the file's name, else the branch that it was built from; the commit tells apart two
/// libraries of one version, for which not the same was found and compiled.
fn named(file: &Path, build: &str) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let in_name = name.split_once(".so.").map(|(_, version)| version);
    let branch = field(build, "git-branch=").and_then(|branch| branch.strip_prefix("rel-"));
    let version = in_name.filter(|version| version.contains('.')).or(branch).unwrap_or("of unknown version");
    match field(build, "git-commit-id=") {
        Some(commit) => format!("onnxruntime {version} ({commit})"),
        None => format!("onnxruntime {version}"),
    }
}

/// A field of `ORT Build Info: git-branch=rel-1.32.0, git-commit-id=2b3b5ea4, build type=Release, ...`.
fn field<'a>(build: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = build.split_once(key)?;
    let value = rest.split([',', ' ']).next().unwrap_or(rest);
    Some(value).filter(|value| !value.is_empty() && value.len() < 64)
}

/// ONNX Runtime's own log lines. What went wrong also comes back as an error, so a line is a detail of that.
fn log(level: LogLevel, category: &str, _id: &str, at: &str, message: &str) {
    match level {
        LogLevel::Fatal => warn!(category, at, message, "ONNX Runtime"),
        LogLevel::Error | LogLevel::Warning | LogLevel::Info | LogLevel::Verbose => {
            debug!(category, at, message, "ONNX Runtime");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_called_by_its_version_and_commit() {
        let build = "ORT Build Info: git-branch=rel-1.19.0, git-commit-id=26250ae, build type=Release, cmake cxx flags: /W";
        let name = |file: &str, build| named(Path::new(file), build);
        assert_eq!(name("/lib/libonnxruntime.so.1.19.2", build), "onnxruntime 1.19.2 (26250ae)");
        assert_eq!(name("/lib/onnxruntime.dll", build), "onnxruntime 1.19.0 (26250ae)");
        let head = "ORT Build Info: git-branch=HEAD, git-commit-id=, build type=Release";
        assert_eq!(name("/lib/libonnxruntime.so.1", head), "onnxruntime of unknown version");
    }
}
