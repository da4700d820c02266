//! Finding the ONNX Runtime library, and getting it where there is none.
//!
//! The library is loaded at run time, so that one binary runs on every board and a machine can bring its own build.
//!
//! ```text
//! named path -> ORT_DYLIB_PATH -> beside the binary -> the cache -> Python's onnxruntime -> the system
//!                                                         ^
//!                             install: pip, by name, version and hash, then one file of the wheel
//! ```
//!
//! A path that somebody named is used or refused, never replaced by another one: a silent fallback would run models
//! with a library that nobody chose. Everywhere else, a file that cannot be the library is passed over, and the
//! search remembers why.
//!
//! Everything here blocks its thread, within stated limits; call it before the network's runtime starts.

mod cache;
mod error;
mod header;
mod install;
mod pin;
mod process;
mod python;
mod search;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use cache::CACHE_VARIABLE;
pub use error::{EnsureError, InstallError, NotFound, Searched};
pub use header::Unusable;
pub use pin::VERSION;
pub use search::{LIBRARY_VARIABLE, Places};

/// A library that this machine can load, as far as its header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file, absolute.
    pub path: PathBuf,
    /// How it was found.
    pub origin: Origin,
    /// The version in the file's name, or in the name of the file that a link leads to.
    pub version: Option<String>,
    /// The places that were searched before it and had none.
    pub searched: Vec<Searched>,
}

/// How a library was found. The order is the order of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Named on the command line or in the settings.
    Named,
    /// Named by the variable [`LIBRARY_VARIABLE`].
    Variable,
    /// In the directory of the running binary.
    BesideBinary,
    /// In the cache of Lineside, where [`install`] puts it.
    Cache,
    /// In the package `onnxruntime` of the machine's Python.
    Python,
    /// In a library directory of the system.
    System,
}

impl Origin {
    /// One word, for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Variable => "variable",
            Self::BesideBinary => "binary",
            Self::Cache => "cache",
            Self::Python => "python",
            Self::System => "system",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "the path in --onnxruntime or node.onnxruntime",
            Self::Variable => LIBRARY_VARIABLE,
            Self::BesideBinary => "beside the binary",
            Self::Cache => "the cache",
            Self::Python => "Python's onnxruntime",
            Self::System => "the system",
        })
    }
}

/// Looks for the library in the places of this process; `explicit` is the path from the flag or the setting.
///
/// # Errors
/// The named path is not usable, or no place has a library. The error says where was looked.
pub fn find(explicit: Option<&Path>) -> Result<Found, NotFound> {
    Places::of_process(explicit).find()
}

/// Puts the pinned library into the cache of this user, unless it is there, and gives its path.
///
/// Several processes may do so at once: one works, the others wait and use its result.
///
/// # Errors
/// Nothing was changed: the library is in the cache whole or not at all.
pub fn install(progress: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
    Places::of_process(None).install(progress)
}

/// Finds the library, else installs it.
///
/// # Errors
/// A named path is not usable (then nothing is installed), or nothing was found and installing failed.
pub fn ensure(explicit: Option<&Path>, progress: &mut dyn FnMut(&str)) -> Result<Found, EnsureError> {
    Places::of_process(explicit).ensure(progress)
}
