//! The answer of a node, into the body that the client asked for.

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use bytes::Bytes;
use lineside_client::InferReply;
use lineside_wire::{
    Datatype, Executed, Fault, FaultCode, ModelVersion, NodeId, Parameters, Tensor, TensorHeader,
    bytes_elements, split_tensors,
};
use serde::{Serialize, Serializer, ser::Error as _};

use super::{Form, Wants, excerpt};
use crate::errors::broken_answer;

/// A body: JSON, and the binary tensors behind it, in the order of the outputs.
#[derive(Debug)]
pub(crate) struct InferAnswer {
    pub(crate) json: Vec<u8>,
    pub(crate) binary: Vec<Bytes>,
    /// Whether an output is binary, even an empty one: the body then needs its header.
    pub(crate) is_binary: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    model_version: ModelVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Parameters::is_empty")]
    parameters: &'a Parameters,
    outputs: Vec<Output<'a>>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: Datatype,
    shape: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

impl<'a> Output<'a> {
    fn new(tensor: &'a Tensor, form: Form) -> Self {
        let (parameters, encoding, data) = match form {
            Form::Json => (None, None, Some(Data::Elements(tensor))),
            Form::Base64 => (None, Some("base64"), Some(Data::Base64(&tensor.bytes))),
            Form::Binary => (Some(BinarySize { binary_data_size: tensor.bytes.len() }), None, None),
        };
        let (name, datatype, shape) = (&tensor.name[..], tensor.datatype, tensor.shape.dims());
        Self { name, datatype, shape, parameters, encoding, data }
    }
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// Writes the answer to a request with this id and these wishes.
///
/// # Errors
/// The node's answer is broken, or holds what JSON cannot and the client did not ask for binary.
pub(crate) fn write(reply: InferReply, id: Option<&str>, wants: &Wants) -> Result<InferAnswer, Fault> {
    let InferReply { result, payload, report } = reply;
    let tensors = tensors(result.outputs, &payload, report.node)?;
    let mut room = 256 + 128 * tensors.len();
    for tensor in &tensors {
        room += match wants.form(&tensor.name) {
            Form::Json => {
                check(tensor, IN_BINARY)?;
                3 * tensor.bytes.len()
            }
            Form::Base64 => tensor.bytes.len() / 3 * 4 + 4,
            Form::Binary => 0,
        };
    }
    let body = Body {
        model_name: result.model.as_str(),
        model_version: result.version,
        id,
        parameters: &result.parameters,
        outputs: tensors.iter().map(|tensor| Output::new(tensor, wants.form(&tensor.name))).collect(),
    };
    let json = to_json(&body, room)?;
    let is_binary = |tensor: &&Tensor| wants.form(&tensor.name) == Form::Binary;
    let binary: Vec<Bytes> = tensors.iter().filter(is_binary).map(|tensor| tensor.bytes.clone()).collect();
    let is_binary = !binary.is_empty();
    Ok(InferAnswer { json, binary, is_binary })
}

/// The tensors of an answer.
pub(super) fn tensors(
    outputs: Vec<TensorHeader>,
    payload: &Bytes,
    node: NodeId,
) -> Result<Vec<Tensor>, Fault> {
    split_tensors(outputs, payload).map_err(|fault| broken_answer(node, &fault.message))
}

pub(super) fn to_json<T: Serialize>(body: &T, room: usize) -> Result<Vec<u8>, Fault> {
    let mut json = Vec::with_capacity(room);
    serde_json::to_writer(&mut json, body)
        .map_err(|error| Fault::new(FaultCode::Internal, format!("the answer does not fit JSON: {error}")))?;
    Ok(json)
}

/// How an output is got that JSON cannot hold.
const IN_BINARY: &str = "ask for binary output (parameters.binary_data of the output, or parameters.binary_data_output \
                         of the request), or for \"encoding\":\"base64\"";

/// Checks that JSON can hold a tensor; `remedy` says what to do where it cannot.
pub(super) fn check(tensor: &Tensor, remedy: &str) -> Result<(), Fault> {
    let problem = match tensor.datatype {
        Datatype::Fp16 | Datatype::Bf16 => Some("has a type without a form in JSON"),
        Datatype::Fp32 => floats(&tensor.bytes).any(|value| !value.is_finite()).then_some(NOT_FINITE),
        Datatype::Fp64 => doubles(&tensor.bytes).any(|value| !value.is_finite()).then_some(NOT_FINITE),
        Datatype::Bytes => {
            let elements = bytes_elements(&tensor.bytes, tensor.shape.elements()).unwrap_or_default();
            elements
                .iter()
                .any(|element| std::str::from_utf8(element).is_err())
                .then_some("holds bytes that are no text")
        }
        _ => None,
    };
    let Some(problem) = problem else { return Ok(()) };
    let text = format!("the output {:?} {problem}: {remedy}", excerpt(&tensor.name));
    // The client's form of request is at fault, not the model, which ran.
    Err(Fault { executed: Executed::Yes, retryable: false, ..Fault::new(FaultCode::InvalidParams, text) })
}

const NOT_FINITE: &str = "holds NaN or infinity, which JSON does not have";

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

fn doubles(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes))
}

/// What stands in `data`, and in the fields of a generated answer.
pub(super) enum Data<'a> {
    /// The elements as a flat array.
    Elements(&'a Tensor),
    /// The only element, without an array around it.
    Element(&'a Tensor),
    /// The bytes as text.
    Base64(&'a [u8]),
}

/// Writes the elements of one width as an array, or the first of them alone.
macro_rules! numbers {
    ($serializer:expr, $bytes:expr, $only:expr, $type:ty) => {{
        let mut values = $bytes.as_chunks().0.iter().map(|bytes| <$type>::from_le_bytes(*bytes));
        match $only {
            true => values.next().serialize($serializer),
            false => $serializer.collect_seq(values),
        }
    }};
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (tensor, only) = match self {
            Self::Elements(tensor) => (tensor, false),
            Self::Element(tensor) => (tensor, true),
            Self::Base64(bytes) => return serializer.collect_str(&Base64Display::new(bytes, &STANDARD)),
        };
        let bytes: &[u8] = &tensor.bytes;
        match tensor.datatype {
            Datatype::Bool if only => bytes.first().map(|byte| *byte != 0).serialize(serializer),
            Datatype::Bool => serializer.collect_seq(bytes.iter().map(|byte| *byte != 0)),
            Datatype::Uint8 => numbers!(serializer, bytes, only, u8),
            Datatype::Uint16 => numbers!(serializer, bytes, only, u16),
            Datatype::Uint32 => numbers!(serializer, bytes, only, u32),
            Datatype::Uint64 => numbers!(serializer, bytes, only, u64),
            Datatype::Int8 => numbers!(serializer, bytes, only, i8),
            Datatype::Int16 => numbers!(serializer, bytes, only, i16),
            Datatype::Int32 => numbers!(serializer, bytes, only, i32),
            Datatype::Int64 => numbers!(serializer, bytes, only, i64),
            Datatype::Fp32 => numbers!(serializer, bytes, only, f32),
            Datatype::Fp64 => numbers!(serializer, bytes, only, f64),
            Datatype::Fp16 | Datatype::Bf16 => Err(S::Error::custom("no form in JSON")),
            Datatype::Bytes => {
                let elements = bytes_elements(bytes, tensor.shape.elements()).map_err(S::Error::custom)?;
                let texts: Result<Vec<_>, _> = elements.into_iter().map(std::str::from_utf8).collect();
                let texts = texts.map_err(S::Error::custom)?;
                match only {
                    true => texts.first().serialize(serializer),
                    false => serializer.collect_seq(texts),
                }
            }
        }
    }
}
