//! Runs models: a small trait, and ONNX Runtime behind it.
//!
//! ```text
//!   library ─> providers ─> open ──────────> session ──> inputs ─> run ─> outputs
//!   one file   what         kept, explain    signature   borrowed         shared
//!              computes
//! ```
//!
//! Only this file's folder names `ort`. Another backend stands beside [`OnnxRuntime`] by implementing [`Engine`].
//!
//! A session is one thread's: ONNX Runtime's own `Run` is not to be called from two threads at once, and one session per
//! core with one thread each gives more than one session with many threads. With one thread a session has no pool, so a
//! node's threads are its sessions', however many models it has.

mod explain;
mod inputs;
mod kept;
mod library;
mod open;
mod outputs;
mod providers;
mod session;
mod signature;
mod trim;

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use lineside_wire::{InvalidTensor, Tensor, TensorSpec};

pub(crate) use library::{LibraryError, OnnxRuntime};

use crate::{
    scan::{Rejected, Scanned, scan},
    settings::{Execution, ModelLimits},
};

/// Longest message of the engine that is passed on, in characters: an answer's document ends at 64 KiB.
pub(crate) const MESSAGE_CHARS_MAX: usize = 2000;

/// Stack of a thread on which ONNX Runtime opens or runs models, which it walks by recursion: a tree of some thousand levels
/// takes a mebibyte. A trial has less than the threads of the node, so that what it survives they survive too.
pub(crate) const STACK_BYTES: usize = 2 << 20;

// Tensors travel little-endian and are handed to the engine as they lie.
const _: () = assert!(cfg!(target_endian = "little"));

/// Opens models.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Looks into the file before it is opened.
    ///
    /// # Errors
    /// See [`Rejected`].
    fn scan(&self, model: &Path, limits: &ModelLimits) -> Result<Scanned, Rejected> {
        scan(model, limits)
    }

    /// Reads a model and makes it ready to run. Takes as long as the model is large.
    fn open(&self, model: &Path, options: &Options) -> Result<Opened, OpenError>;

    /// Name and version of the library: what was found or compiled with one holds for that one alone.
    fn library(&self) -> String;

    /// Whether its models are run before their first request.
    fn warms_up(&self) -> bool {
        true
    }
}

/// How a model is opened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// How many sessions; they share what can be shared.
    pub(crate) sessions: usize,
    /// Threads of each.
    pub(crate) threads: u32,
    /// Whether their idle threads spin.
    pub(crate) spinning: bool,
    /// What computes.
    pub(crate) execution: Execution,
    /// Where optimised models and compiled engines are kept; `None` keeps none.
    pub(crate) cache: Option<PathBuf>,
    /// The model's hash, which names what is kept.
    pub(crate) sha256: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sessions: 1,
            threads: 1,
            spinning: false,
            execution: Execution::default(),
            cache: None,
            sha256: String::new(),
        }
    }
}

/// A model that was opened.
pub(crate) struct Opened {
    pub(crate) sessions: Vec<Box<dyn Session>>,
    /// The execution provider that runs it.
    pub(crate) provider: String,
    /// What the person who put the model there should know.
    pub(crate) warnings: Vec<String>,
}

/// A model that is ready to run, one call at a time.
pub(crate) trait Session: Send {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// What stops a run of this session, from another thread.
    fn stopper(&self) -> Arc<dyn Stopper>;

    /// Runs the model. The inputs fit the signature; `wanted` are indices into its outputs.
    fn run(&mut self, inputs: &[Tensor], wanted: &[usize]) -> Result<Vec<Tensor>, RunError>;
}

/// Stops a run.
pub(crate) trait Stopper: Send + Sync {
    /// Stops the run that is on its way, at the next operator. Without one, the next run.
    fn stop(&self);

    /// Makes the session usable after a stop.
    fn reset(&self);
}

/// What a model takes and gives, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
}

/// Why a model does not load; the text is for the person who put it there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The bytes are no ONNX model.
    #[error("not an ONNX model: export the network to ONNX, or copy the file again if it is one ({0})")]
    NotAModel(String),
    /// An operator compares texts by the rules of a language that the machine does not have.
    #[error(
        "the model needs the locale {locale}, which this machine lacks: run `localedef -i {} -f UTF-8 {locale}` \
         (Debian: package `locales`) and load it again",
        locale.split('.').next().unwrap_or(locale)
    )]
    LocaleMissing { locale: String },
    /// A correct model of a kind that cannot be served.
    #[error("{0}")]
    Unsupported(String),
    /// The file that holds the weights is not there.
    #[error(
        "the model's weights are in a file of their own, which is not there: copy {file} beside the model"
    )]
    WeightsMissing {
        /// Its name.
        file: String,
    },
    /// The file that holds the weights is too short.
    #[error("the file with the model's weights is cut: copy it beside the model again ({0})")]
    WeightsCut(String),
    /// A newer form of ONNX than the library knows.
    #[error(
        "the model is of {what}, and {library} reads up to {newest}: export it with {newest}, or use a newer ONNX \
         Runtime (`lineside runtime install`)"
    )]
    TooNew {
        /// What the model has.
        what: String,
        /// What the library has.
        newest: String,
        /// The library.
        library: String,
    },
    /// An operator that the library does not have.
    #[error(
        "{library} has no operator {operator} of {domain}: export the model with operators of ONNX alone, or use a \
         newer ONNX Runtime (`lineside runtime install`) where it is an operator of a newer one"
    )]
    OperatorMissing {
        /// Its name.
        operator: String,
        /// Whose it is.
        domain: String,
        /// The library.
        library: String,
    },
    /// An operator that the library has, and not for the element types of the model.
    #[error(
        "{library} does not compute {operator} for the model's element types: cast its inputs to FP32 in the model, or \
         use an execution provider that does"
    )]
    NotImplemented {
        /// The operator.
        operator: String,
        /// The library.
        library: String,
    },
    /// The model needs more memory than there is.
    #[error("not enough memory for the model: free some, or export it smaller ({0})")]
    MemoryMissing(String),
    /// What computes it is not there, or is named wrongly.
    #[error("{0}")]
    Provider(String),
    /// Anything else the engine found.
    #[error("the engine refused the model: {0}")]
    Refused(String),
    /// A defect in the engine or in our use of it.
    #[error("the engine failed on the model: {0}; please report this")]
    Panicked(String),
}

/// Why a run gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RunError {
    /// The model failed, in the engine's words.
    #[error("{0}")]
    Failed(String),
    /// It was stopped on the way.
    #[error("the run was stopped")]
    Stopped,
    /// The model ran, and gave more than one answer may hold.
    #[error("the outputs have {bytes} bytes: at most {max} are sent")]
    TooLarge { bytes: u64, max: u32 },
}

impl From<InvalidTensor> for RunError {
    fn from(error: InvalidTensor) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The beginning of a text.
pub(crate) fn clipped(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

/// Runs what may panic inside the engine, and gives the panic's words.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "a panic without words".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_given_in_its_own_words() {
        assert_eq!(guarded(|| panic!("no {}", "oil")), Err::<(), _>("no oil".to_owned()));
        assert_eq!(guarded(|| panic!("no oil")), Err::<(), _>("no oil".to_owned()));
        assert_eq!(guarded(|| 7), Ok(7));
    }
}
