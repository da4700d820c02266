//! The answer of a node, into the body that the client asked for.

use bytes::Bytes;
use lineside_client::InferReply;
use lineside_wire::{
    Datatype, Executed, Fault, FaultCode, ModelVersion, Parameters, Tensor, bytes_elements, split_tensors,
};
use serde::{Serialize, Serializer, ser::Error as _};

use super::{Wants, excerpt};

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
    data: Option<Data<'a>>,
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
    let tensors = split_tensors(result.outputs, &payload).map_err(|fault| {
        let text = format!("the answer of node {} is broken: {}", report.node, fault.message);
        Fault::new(FaultCode::Internal, text)
    })?;
    let is_binary = |tensor: &Tensor| wants.binary(&tensor.name);
    let as_json = tensors.iter().filter(|tensor| !is_binary(tensor));
    let mut room = 256 + 128 * tensors.len();
    for tensor in as_json {
        check(tensor)?;
        room += 3 * tensor.bytes.len();
    }
    let outputs = tensors.iter().map(|tensor| Output {
        name: &tensor.name,
        datatype: tensor.datatype,
        shape: tensor.shape.dims(),
        parameters: is_binary(tensor).then(|| BinarySize { binary_data_size: tensor.bytes.len() }),
        data: (!is_binary(tensor)).then_some(Data(tensor)),
    });
    let body = Body {
        model_name: result.model.as_str(),
        model_version: result.version,
        id,
        parameters: &result.parameters,
        outputs: outputs.collect(),
    };
    let mut json = Vec::with_capacity(room);
    serde_json::to_writer(&mut json, &body)
        .map_err(|error| Fault::new(FaultCode::Internal, format!("the answer does not fit JSON: {error}")))?;
    let binary: Vec<Bytes> = tensors.iter().filter(|t| is_binary(t)).map(|t| t.bytes.clone()).collect();
    let is_binary = tensors.iter().any(is_binary);
    Ok(InferAnswer { json, binary, is_binary })
}

/// Checks that JSON can hold a tensor.
fn check(tensor: &Tensor) -> Result<(), Fault> {
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
    let text = format!(
        "the output {:?} {problem}: ask for binary output (parameters.binary_data of the output, or \
         parameters.binary_data_output of the request)",
        excerpt(&tensor.name)
    );
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

/// The elements of a tensor as a flat JSON array.
struct Data<'a>(&'a Tensor);

/// Writes the elements of one width as an array.
macro_rules! array {
    ($serializer:expr, $bytes:expr, $type:ty) => {
        $serializer.collect_seq($bytes.as_chunks().0.iter().map(|bytes| <$type>::from_le_bytes(*bytes)))
    };
}

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: &[u8] = &self.0.bytes;
        match self.0.datatype {
            Datatype::Bool => serializer.collect_seq(bytes.iter().map(|byte| *byte != 0)),
            Datatype::Uint8 => serializer.collect_seq(bytes),
            Datatype::Uint16 => array!(serializer, bytes, u16),
            Datatype::Uint32 => array!(serializer, bytes, u32),
            Datatype::Uint64 => array!(serializer, bytes, u64),
            Datatype::Int8 => array!(serializer, bytes, i8),
            Datatype::Int16 => array!(serializer, bytes, i16),
            Datatype::Int32 => array!(serializer, bytes, i32),
            Datatype::Int64 => array!(serializer, bytes, i64),
            Datatype::Fp32 => serializer.collect_seq(floats(bytes)),
            Datatype::Fp64 => serializer.collect_seq(doubles(bytes)),
            Datatype::Fp16 | Datatype::Bf16 => Err(S::Error::custom("no form in JSON")),
            Datatype::Bytes => {
                let elements = bytes_elements(bytes, self.0.shape.elements()).map_err(S::Error::custom)?;
                let texts: Result<Vec<_>, _> = elements.into_iter().map(std::str::from_utf8).collect();
                serializer.collect_seq(texts.map_err(S::Error::custom)?)
            }
        }
    }
}
