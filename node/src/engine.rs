//! Runs models: a small trait, and ONNX Runtime behind it.
//!
//! The only file that names `ort`. Another backend stands beside [`OnnxRuntime`] by implementing [`Engine`].
//!
//! A session is one thread's: ONNX Runtime's own `Run` is not to be called from two threads at once, and one
//! session per core with one thread each gives more than one session with many threads.

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytemuck::{AnyBitPattern, NoUninit};
use bytes::Bytes;
use half::{bf16, f16};
use lineside_wire::{
    Datatype, InvalidTensor, Limits, RANK_MAX, Shape, TENSORS_MAX, Tensor, TensorSpec, bytes_elements,
    bytes_tensor,
};
use ort::{
    ErrorCode,
    environment::Environment,
    logging::LogLevel,
    session::{SessionInputValue, builder::GraphOptimizationLevel},
    value::{DynValue, Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType},
};
use tracing::{debug, info, warn};

/// Longest message of the engine that is passed on, in characters: an answer's document ends at 64 KiB.
pub(crate) const MESSAGE_CHARS_MAX: usize = 2000;

// Tensors travel little-endian and are handed to the engine as they lie.
const _: () = assert!(cfg!(target_endian = "little"));

/// Opens models.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Reads a model and makes it ready to run. Takes as long as the model is large.
    fn open(&self, model: &Path) -> Result<Box<dyn Session>, OpenError>;
}

/// A model that is ready to run, one call at a time.
pub(crate) trait Session: Send {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// Runs the model. The inputs fit the signature; `wanted` are indices into its outputs.
    fn run(&mut self, inputs: &[Tensor], wanted: &[usize]) -> Result<Vec<Tensor>, RunError>;
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
    /// The model ran, and gave more than one answer may hold.
    #[error("the outputs have {bytes} bytes: at most {max} are sent")]
    TooLarge { bytes: u64, max: u32 },
}

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
    environment: Environment,
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
        info!(library = %library.display(), "ONNX Runtime loaded");
        let runtime = Self { environment };
        *loaded = Some((library, runtime.clone()));
        Ok(runtime)
    }

    fn session(&self, model: &Path) -> ort::Result<ort::session::Session> {
        ort::session::Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            // A spinning pool burns whole cores between two calls.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .commit_from_file(model)
    }
}

impl Engine for OnnxRuntime {
    fn open(&self, model: &Path) -> Result<Box<dyn Session>, OpenError> {
        guarded(|| {
            let session = self.session(model).map_err(|error| explain(error.code(), error.message()))?;
            let signature = Signature {
                inputs: specs("input", session.inputs())?,
                outputs: specs("output", session.outputs())?,
            };
            Ok(Box::new(OnnxSession { session, signature }) as Box<dyn Session>)
        })
        .unwrap_or_else(|panic| Err(OpenError::Panicked(panic)))
    }
}

struct OnnxSession {
    session: ort::session::Session,
    signature: Signature,
}

impl Session for OnnxSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[Tensor], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        let values = inputs.iter().map(|input| Ok((input.name.as_str(), value(input)?)));
        let values = values.collect::<Result<Vec<_>, RunError>>()?;
        let outputs = self.session.run(values)?;
        let wanted = wanted.iter().filter_map(|index| self.signature.outputs.get(*index)).map(|spec| {
            let value = outputs.get(&spec.name);
            Ok((spec, value.ok_or_else(|| RunError::Failed(format!("no {:?} came", spec.name)))?))
        });
        let wanted = wanted.collect::<Result<Vec<_>, RunError>>()?;
        // Looked at before the first is copied: what is too much is not held twice.
        let bytes = wanted.iter().map(|(spec, value)| length(spec, value)).fold(0, u64::saturating_add);
        let max = Limits::default().payload_bytes_max;
        if u64::from(max) < bytes {
            return Err(RunError::TooLarge { bytes, max });
        }
        wanted.into_iter().map(|(spec, value)| tensor(spec, value)).collect()
    }
}

impl From<ort::Error> for RunError {
    fn from(error: ort::Error) -> Self {
        Self::Failed(clipped(error.message(), MESSAGE_CHARS_MAX))
    }
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

/// ONNX Runtime's own log lines. What went wrong also comes back as an error, so a line is a detail of that.
fn log(level: LogLevel, category: &str, _id: &str, at: &str, message: &str) {
    match level {
        LogLevel::Fatal => warn!(category, at, message, "ONNX Runtime"),
        LogLevel::Error | LogLevel::Warning | LogLevel::Info | LogLevel::Verbose => {
            debug!(category, at, message, "ONNX Runtime");
        }
    }
}

/// What an error at load means for the person who put the model there.
fn explain(code: ErrorCode, text: &str) -> OpenError {
    let lower = text.to_ascii_lowercase();
    let no_model = matches!(code, ErrorCode::InvalidProtobuf | ErrorCode::NoModel)
        || lower.contains("protobuf parsing failed");
    if no_model {
        return OpenError::NotAModel(text.to_owned());
    }
    match missing_locale(text) {
        Some(locale) => OpenError::LocaleMissing { locale },
        None => OpenError::Refused(text.to_owned()),
    }
}

/// The locale's name in `Failed to construct locale with name:en_US.UTF-8:locale::facet::...`.
fn missing_locale(text: &str) -> Option<String> {
    let (_, named) = text.split_once("construct locale with name:")?;
    let is_of_name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    Some(named.chars().take_while(is_of_name).take(64).collect())
}

fn specs(side: &str, outlets: &[Outlet]) -> Result<Vec<TensorSpec>, OpenError> {
    let unsupported = OpenError::Unsupported;
    if TENSORS_MAX < outlets.len() {
        let text = format!("the model has {} {side}s: at most {TENSORS_MAX} fit", outlets.len());
        return Err(unsupported(text));
    }
    let specs = outlets.iter().map(|outlet| {
        let name = outlet.name().to_owned();
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return Err(unsupported(format!(
                "the {side} {name:?} is {}: only tensors are served (from scikit-learn, export with zipmap off)",
                outlet.dtype()
            )));
        };
        let Some(datatype) = datatype(*ty) else {
            let text = format!("the {side} {name:?} is of {ty}, which the protocol has no name for");
            return Err(unsupported(text));
        };
        if RANK_MAX < shape.len() {
            let text = format!("the {side} {name:?} has {} dimensions: at most {RANK_MAX} fit", shape.len());
            return Err(unsupported(text));
        }
        let shape = shape.iter().map(|dim| (*dim).max(-1)).collect();
        Ok(TensorSpec { name, datatype, shape })
    });
    specs.collect()
}

fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

/// An input as the engine takes it: borrowed where the bytes lie aligned, which a received payload's do.
fn value(input: &Tensor) -> Result<SessionInputValue<'_>, RunError> {
    match input.datatype {
        Datatype::Bool => {
            let elements = bytemuck::checked::try_cast_slice::<u8, bool>(&input.bytes).map_err(|_| {
                RunError::Failed(format!("the input {:?} holds bytes beyond 0 and 1", input.name))
            })?;
            Ok(TensorRef::from_array_view((dims(&input.shape)?, elements))?.into())
        }
        Datatype::Uint8 => view::<u8>(input),
        Datatype::Uint16 => view::<u16>(input),
        Datatype::Uint32 => view::<u32>(input),
        Datatype::Uint64 => view::<u64>(input),
        Datatype::Int8 => view::<i8>(input),
        Datatype::Int16 => view::<i16>(input),
        Datatype::Int32 => view::<i32>(input),
        Datatype::Int64 => view::<i64>(input),
        Datatype::Fp16 => view::<f16>(input),
        Datatype::Bf16 => view::<bf16>(input),
        Datatype::Fp32 => view::<f32>(input),
        Datatype::Fp64 => view::<f64>(input),
        Datatype::Bytes => {
            let elements = bytes_elements(&input.bytes, input.shape.elements())?;
            let texts = elements.into_iter().map(|text| std::str::from_utf8(text).map(str::to_owned));
            let texts = texts.collect::<Result<Vec<_>, _>>();
            let texts =
                texts.map_err(|_| RunError::Failed(format!("the input {:?} is not UTF-8", input.name)))?;
            let shape = dims(&input.shape)?;
            Ok(ort::value::Tensor::from_string_array((shape, texts.as_slice()))?.into())
        }
    }
}

fn view<T>(input: &Tensor) -> Result<SessionInputValue<'_>, RunError>
where
    T: PrimitiveTensorElementType + AnyBitPattern + NoUninit + Debug,
{
    let shape = dims(&input.shape)?;
    match bytemuck::try_cast_slice::<u8, T>(&input.bytes) {
        Ok(elements) => Ok(TensorRef::from_array_view((shape, elements))?.into()),
        Err(_) => {
            let elements: Vec<T> = bytemuck::pod_collect_to_vec(&input.bytes);
            Ok(ort::value::Tensor::from_array((shape, elements))?.into())
        }
    }
}

fn dims(shape: &Shape) -> Result<Vec<i64>, RunError> {
    let dims = shape.dims().iter().map(|dim| i64::try_from(*dim));
    dims.collect::<Result<_, _>>()
        .map_err(|_| RunError::Failed("a dimension is larger than ONNX counts".to_owned()))
}

/// Bytes of an output. Texts count as their lengths alone: what they are is known when they are read.
fn length(spec: &TensorSpec, value: &DynValue) -> u64 {
    let width = spec.datatype.width().unwrap_or(4) as u64;
    let dims = value.dtype().tensor_shape().map_or(&[][..], |shape| shape);
    dims.iter().fold(width, |bytes, dim| bytes.saturating_mul(u64::try_from(*dim).unwrap_or(0)))
}

fn tensor(spec: &TensorSpec, value: &DynValue) -> Result<Tensor, RunError> {
    let shape = value.dtype().tensor_shape();
    let shape = shape.ok_or_else(|| RunError::Failed(format!("the output {:?} is no tensor", spec.name)))?;
    let shape = shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(0)).collect();
    let bytes = match spec.datatype {
        Datatype::Bool => copied::<bool>(value)?,
        Datatype::Uint8 => copied::<u8>(value)?,
        Datatype::Uint16 => copied::<u16>(value)?,
        Datatype::Uint32 => copied::<u32>(value)?,
        Datatype::Uint64 => copied::<u64>(value)?,
        Datatype::Int8 => copied::<i8>(value)?,
        Datatype::Int16 => copied::<i16>(value)?,
        Datatype::Int32 => copied::<i32>(value)?,
        Datatype::Int64 => copied::<i64>(value)?,
        Datatype::Fp16 => copied::<f16>(value)?,
        Datatype::Bf16 => copied::<bf16>(value)?,
        Datatype::Fp32 => copied::<f32>(value)?,
        Datatype::Fp64 => copied::<f64>(value)?,
        Datatype::Bytes => {
            let (_, texts) = value.try_extract_strings()?;
            bytes_tensor(texts.iter().map(String::as_bytes))?.into()
        }
    };
    Ok(Tensor::new(spec.name.clone(), spec.datatype, shape, bytes)?)
}

/// Copies an output out of the engine's memory, which the next run uses again.
fn copied<T: PrimitiveTensorElementType + NoUninit>(value: &DynValue) -> Result<Bytes, RunError> {
    let (_, elements) = value.try_extract_tensor::<T>()?;
    Ok(Bytes::copy_from_slice(bytemuck::cast_slice(elements)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_at_load_says_what_to_do() {
        let parse = "Load model from x.onnx failed:Protobuf parsing failed.";
        assert!(matches!(explain(ErrorCode::InvalidProtobuf, parse), OpenError::NotAModel(_)));
        assert!(matches!(explain(ErrorCode::GenericFailure, parse), OpenError::NotAModel(_)));
        let locale = "Failed to construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid";
        let told = explain(ErrorCode::GenericFailure, locale).to_string();
        assert!(told.contains("localedef -i en_US -f UTF-8 en_US.UTF-8"), "{told}");
        let other = "Could not find an implementation for locale_tagger(1)";
        assert!(matches!(explain(ErrorCode::NotImplemented, other), OpenError::Refused(_)));
    }

    #[test]
    fn a_panic_is_given_in_its_own_words() {
        assert_eq!(guarded(|| panic!("no {}", "oil")), Err::<(), _>("no oil".to_owned()));
        assert_eq!(guarded(|| panic!("no oil")), Err::<(), _>("no oil".to_owned()));
        assert_eq!(guarded(|| 7), Ok(7));
    }
}
