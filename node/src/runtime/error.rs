//! What can go wrong, each with what happened, why, and what to do.

use std::{io, path::PathBuf, time::Duration};

use super::{Origin, cache, pin};

/// Why there is no cache directory.
pub(super) const NO_CACHE: &str = "neither LINESIDE_CACHE nor XDG_CACHE_HOME nor HOME is set";

/// A place that had no usable library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Searched {
    /// What kind of place.
    pub origin: Origin,
    /// The file or directory; several directories of the system are one place.
    pub place: String,
    /// Why nothing came from there.
    pub why: String,
}

/// No library was found. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.what())]
pub struct NotFound {
    /// Where was looked, in this order; a path that somebody named stands alone.
    pub searched: Vec<Searched>,
}

impl NotFound {
    /// Whether a path that somebody named was refused, so that nothing else was tried.
    pub fn is_named(&self) -> bool {
        self.named().is_some()
    }

    fn named(&self) -> Option<&Searched> {
        self.searched.first().filter(|first| matches!(first.origin, Origin::Named | Origin::Variable))
    }

    fn what(&self) -> String {
        match self.named() {
            Some(named) => format!("{} is not a usable ONNX Runtime library", named.place),
            None => "ONNX Runtime is not found".to_owned(),
        }
    }

    /// The reason: of the named path, or of each place in one line.
    pub fn why(&self) -> String {
        match self.named() {
            Some(named) => named.why.clone(),
            None => {
                let line = |searched: &Searched| match searched.place.is_empty() {
                    true => format!("\n{}: {}", searched.origin, searched.why),
                    false => format!("\n{}: {}: {}", searched.origin, searched.place, searched.why),
                };
                format!("searched, in this order:{}", self.searched.iter().map(line).collect::<String>())
            }
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self.named().map(|named| named.origin) {
            Some(Origin::Variable) => {
                "correct or unset ORT_DYLIB_PATH; without it the library is searched for".to_owned()
            }
            Some(_) => {
                "name the file libonnxruntime.so, or leave the path out: then it is searched for".to_owned()
            }
            None => format!("`lineside runtime install` gets version {}; or {}", pin::VERSION, manual()),
        }
    }
}

/// The library could not be installed. The cache is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// This user has no cache directory. Nothing was tried.
    #[error("there is no directory to install ONNX Runtime in")]
    NoCache,
    /// No wheel fits this binary. Nothing was tried.
    #[error("there is no ONNX Runtime to install for {0}")]
    NoPlatform(String),
    /// The machine has no Python. Nothing was tried.
    #[error("ONNX Runtime cannot be installed without Python")]
    NoPython,
    /// Python has no pip. Nothing was tried.
    #[error("ONNX Runtime cannot be installed without pip")]
    NoPip {
        /// What Python said.
        said: String,
    },
    /// The cache cannot be written. Another directory can help.
    #[error("ONNX Runtime cannot be stored in {path}", path = .path.display())]
    Cache {
        /// What could not be made or written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is full. Another try can help when there is room.
    #[error("there is no room for ONNX Runtime in {path}", path = .path.display())]
    DiskFull {
        /// The directory that has no room.
        path: PathBuf,
    },
    /// Another process has been installing for too long. It may still succeed.
    #[error("another process is still installing ONNX Runtime")]
    Busy {
        /// How long was waited.
        waited: Duration,
    },
    /// No package index was reached. Another try can help.
    #[error("ONNX Runtime cannot be downloaded: no package index can be reached")]
    Offline {
        /// What pip said.
        said: String,
    },
    /// The package index does not have the version. Another index would.
    #[error("the package index does not have onnxruntime {}", pin::VERSION)]
    NoVersion {
        /// What pip said.
        said: String,
    },
    /// What came is not what was expected; it was deleted.
    #[error("the downloaded ONNX Runtime is not the expected one and was thrown away")]
    WrongFile {
        /// Which hash differs.
        said: String,
    },
    /// A step took too long and was stopped. Another try can help.
    #[error("installing ONNX Runtime took too long")]
    Late {
        /// Which step, and how long it had.
        said: String,
    },
    /// pip failed for another reason.
    #[error("pip cannot download ONNX Runtime")]
    Pip {
        /// What pip said.
        said: String,
    },
    /// The wheel could not be unpacked.
    #[error("the downloaded ONNX Runtime cannot be unpacked")]
    Unpack {
        /// What Python said.
        said: String,
    },
}

impl InstallError {
    /// The reason, as far as it is not said already.
    pub fn why(&self) -> String {
        match self {
            Self::NoCache => NO_CACHE.to_owned(),
            Self::NoPlatform(_) => "it is made for Linux with glibc on x86_64 and aarch64".to_owned(),
            Self::NoPython => "there is no python3 in PATH; its pip downloads the library".to_owned(),
            Self::Cache { source, .. } => source.to_string(),
            Self::DiskFull { .. } => {
                "the disk is full; about 70 MB are needed while it is installed".to_owned()
            }
            Self::Busy { waited } => format!("it did not end within {} s", waited.as_secs()),
            Self::NoPip { said }
            | Self::Offline { said }
            | Self::NoVersion { said }
            | Self::WrongFile { said }
            | Self::Late { said }
            | Self::Pip { said }
            | Self::Unpack { said } => said.clone(),
        }
    }

    /// What to do; the way by hand always works.
    pub fn remedy(&self) -> String {
        let first = match self {
            Self::NoCache => "set LINESIDE_CACHE to a directory that can be written",
            Self::NoPlatform(_) => return NO_WHEEL.to_owned(),
            Self::NoPython => "install python3 and its pip",
            Self::NoPip { .. } => "install pip (on Debian and Ubuntu: the package python3-pip)",
            Self::Cache { .. } => "make it writable, or set LINESIDE_CACHE to another directory",
            Self::DiskFull { .. } => "make room, or set LINESIDE_CACHE to a directory with more",
            Self::Busy { .. } | Self::Late { .. } | Self::Unpack { .. } => "try again",
            Self::Offline { .. } => "connect the machine, or tell its pip the proxy or mirror, and try again",
            Self::NoVersion { .. } => "tell this machine's pip an index that has it",
            Self::WrongFile { .. } => {
                "find out which index or mirror this machine's pip uses, and who changed the file"
            }
            Self::Pip { .. } => "repair pip and try again",
        };
        format!("{first}; or {}", manual())
    }
}

/// Neither found nor installed.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The named path is not usable; nothing was installed in its place.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// Nothing was found, and installing failed.
    #[error(transparent)]
    Install(#[from] InstallError),
}

impl EnsureError {
    /// The reason.
    pub fn why(&self) -> String {
        match self {
            Self::NotFound(error) => error.why(),
            Self::Install(error) => error.why(),
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotFound(error) => error.remedy(),
            Self::Install(error) => error.remedy(),
        }
    }
}

/// What to do where no wheel fits.
const NO_WHEEL: &str = "get or build libonnxruntime.so for this machine, and name it with --onnxruntime or put it beside the binary";

/// The way without us.
fn manual() -> String {
    let directory = cache::of_process().map(|cache| cache::libraries(&cache));
    pin::wheel().map_or_else(|| NO_WHEEL.to_owned(), |wheel| wheel.manual(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searched(origin: Origin, place: &str, why: &str) -> Searched {
        Searched { origin, place: place.into(), why: why.into() }
    }

    #[test]
    fn a_refused_path_is_named_with_its_reason() {
        let of = |origin| NotFound { searched: vec![searched(origin, "/x.so", "it is not a regular file")] };
        let named = of(Origin::Named);
        assert_eq!(named.to_string(), "/x.so is not a usable ONNX Runtime library");
        assert_eq!(named.why(), "it is not a regular file");
        assert!(of(Origin::Variable).remedy().contains("ORT_DYLIB_PATH"));
    }

    #[test]
    fn a_search_without_success_lists_its_places() {
        let error = NotFound {
            searched: vec![
                searched(Origin::BesideBinary, "/bin", "it has no libonnxruntime.so"),
                searched(Origin::Cache, "", NO_CACHE),
            ],
        };
        assert!(!error.is_named());
        assert_eq!(error.to_string(), "ONNX Runtime is not found");
        let why = error.why();
        let lines: Vec<_> = why.lines().collect();
        assert_eq!(lines[1], "beside the binary: /bin: it has no libonnxruntime.so");
        assert_eq!(lines[2], format!("the cache: {NO_CACHE}"));
        assert!(error.remedy().starts_with("`lineside runtime install` gets version 1.32.0; or "));
    }

    #[test]
    fn every_failure_says_why_and_what_to_do_also_by_hand() {
        let said = || "it said so".to_owned();
        let path = || PathBuf::from("/cache");
        let all = [
            InstallError::NoCache,
            InstallError::NoPlatform("macos on aarch64".into()),
            InstallError::NoPython,
            InstallError::NoPip { said: said() },
            InstallError::Cache { path: path(), source: io::ErrorKind::PermissionDenied.into() },
            InstallError::DiskFull { path: path() },
            InstallError::Busy { waited: Duration::from_secs(1) },
            InstallError::Offline { said: said() },
            InstallError::NoVersion { said: said() },
            InstallError::WrongFile { said: said() },
            InstallError::Late { said: said() },
            InstallError::Pip { said: said() },
            InstallError::Unpack { said: said() },
        ];
        for error in all {
            let (what, why, remedy) = (error.to_string(), error.why(), error.remedy());
            assert!(what.contains("ONNX Runtime") || what.contains("onnxruntime"), "{what}");
            assert!(!why.is_empty() && why != what, "{what}");
            assert!(remedy.contains("--onnxruntime"), "{remedy}");
        }
    }
}
