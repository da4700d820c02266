//! A `ModelInferRequest` into what the cluster is asked. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use lineside_client::{InferCall, InferReply};
use lineside_wire::{
    CallContext, Datatype, Fault, InferParams, ModelName, ModelVersion, Parameter, Parameters,
    PayloadBuilder, Shape, TENSORS_MAX, TensorHeader, bytes_tensor, split_tensors,
};
use tokio::time::Instant;

use super::generated::inference::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    model_infer_response::InferOutputTensor,
};
use crate::{
    errors::{broken_answer, unknown_model},
    oip::{Settings, check_name, dims_of, excerpt, invalid},
};

/// Longest id of a request, in bytes: it is repeated in the answer, also in one that holds no room for it.
const ID_BYTES_MAX: usize = 1 << 10;

/// A request that is understood, but for whether the model likes it.
#[derive(Debug)]
pub(super) struct Understood {
    /// Comes back in the answer.
    pub(super) id: String,
    params: InferParams,
    payload: PayloadBuilder,
    settings: Settings,
    /// Bytes of the payload that were made out of `contents`, beside the message.
    pub(super) made: usize,
    /// Bytes of the payload that are slices of the message.
    pub(super) sliced: usize,
}

impl Understood {
    pub(super) fn model(&self) -> &str {
        self.params.model.as_str()
    }

    /// The limit of time that the request itself names.
    pub(super) const fn timeout(&self) -> Option<Duration> {
        self.settings.timeout
    }

    pub(super) fn call(self, deadline: Instant, traceparent: Option<String>) -> InferCall {
        let Self { params, payload, settings, .. } = self;
        let context = CallContext {
            traceparent,
            priority: settings.priority,
            session: settings.session,
            affinity: settings.affinity,
            ..CallContext::default()
        };
        InferCall { params, payload, deadline, context }
    }
}

/// A model as a request names it; an empty version leaves it to the nodes.
///
/// # Errors
/// What cannot be a name or a version names nothing that exists.
pub(super) fn target(name: &str, version: &str) -> Result<(ModelName, Option<ModelVersion>), Fault> {
    let asked = (!version.is_empty()).then_some(version);
    let unknown = || unknown_model(name, asked);
    let model = name.parse().map_err(|_| unknown())?;
    Ok((model, asked.map(str::parse).transpose().map_err(|_| unknown())?))
}

/// The id of a request, where it is one.
pub(super) fn id(id: &str) -> Option<&str> {
    (id.len() <= ID_BYTES_MAX).then_some(id)
}

/// Reads a request. Raw contents stay where they lie.
///
/// # Errors
/// Says in words which part is wrong, and what it should be.
pub(super) fn read(request: ModelInferRequest) -> Result<Understood, Fault> {
    let id = id(&request.id).ok_or_else(|| invalid(format!("the id is longer than {ID_BYTES_MAX} bytes")))?;
    let id = id.to_owned();
    let (model, version) = target(&request.model_name, &request.model_version)?;
    let mut parameters = parameters(request.parameters)?;
    let settings = Settings::take(&mut parameters)?;
    let Tensors { headers, payload, made, sliced } = tensors(request.inputs, request.raw_input_contents)?;
    let (outputs, classification) = outputs(request.outputs)?;
    let params =
        InferParams { model, version, inputs: headers, outputs, parameters, task: None, classification };
    Ok(Understood { id, params, payload, settings, made, sliced })
}

fn parameters(parameters: HashMap<String, InferParameter>) -> Result<Parameters, Fault> {
    let parameter = |(name, value): (String, InferParameter)| {
        let value = match value.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(value),
            Some(ParameterChoice::Int64Param(value)) => Parameter::Integer(value),
            Some(ParameterChoice::Uint64Param(value)) => match i64::try_from(value) {
                Ok(value) => Parameter::Integer(value),
                Err(_) => Parameter::Unsigned(value),
            },
            Some(ParameterChoice::DoubleParam(value)) => Parameter::Number(value),
            Some(ParameterChoice::StringParam(value)) => Parameter::Text(value),
            None => return Err(invalid(format!("the parameter {:?} has no value", excerpt(&name)))),
        };
        Ok((name, value))
    };
    parameters.into_iter().map(parameter).collect()
}

#[derive(Default)]
struct Tensors {
    headers: Vec<TensorHeader>,
    payload: PayloadBuilder,
    made: usize,
    sliced: usize,
}

fn tensors(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Tensors, Fault> {
    if TENSORS_MAX < inputs.len() {
        return Err(invalid(format!("there are more than {TENSORS_MAX} inputs")));
    }
    let is_raw = !raw.is_empty();
    if is_raw && raw.len() != inputs.len() {
        let text = format!(
            "there are {} inputs, but raw_input_contents has {}: give the bytes of every input, in their order",
            inputs.len(),
            raw.len()
        );
        return Err(invalid(text));
    }
    let mut raw = raw.into_iter();
    let mut tensors = Tensors::default();
    for input in inputs {
        check_name(&input.name)?;
        if tensors.headers.iter().any(|header| header.name == input.name) {
            return Err(invalid(format!("the input {:?} is there twice", excerpt(&input.name))));
        }
        let (header, bytes) = tensor(input, raw.next())?;
        *if is_raw { &mut tensors.sliced } else { &mut tensors.made } += bytes.len();
        tensors.headers.push(header);
        tensors.payload.push(bytes);
    }
    Ok(tensors)
}

fn tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<(TensorHeader, Bytes), Fault> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let about = |text: String| invalid(format!("input {:?}: {text}", excerpt(&name)));
    let datatype: Datatype = datatype.parse().map_err(|error| about(format!("{error}")))?;
    let shape = dims_of(&shape).map_err(about)?;
    let shape = Shape::new(shape).map_err(|error| about(error.to_string()))?;
    if parameters.contains_key("shared_memory_region") {
        return Err(about("shared memory is not supported: send the tensor in the message".to_owned()));
    }
    let contents = contents.filter(|contents| fields(contents).into_iter().any(|(_, count)| 0 < count));
    let bytes = match (raw, contents) {
        (Some(_), Some(_)) => {
            let text = "it has contents although there are raw_input_contents: use one form for all inputs";
            return Err(about(text.to_owned()));
        }
        (Some(bytes), None) => bytes,
        // An empty tensor has no elements to send.
        (None, contents) => {
            typed(datatype, shape.elements(), &contents.unwrap_or_default()).map_err(about)?
        }
    };
    shape.check(datatype, &bytes).map_err(|error| about(error.to_string()))?;
    let (shape, byte_length) = (shape.dims().to_vec(), bytes.len() as u64);
    Ok((TensorHeader { name, datatype, shape, byte_length }, bytes))
}

/// The fields of typed contents, each with its number of elements.
fn fields(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

/// The field for a datatype; `None` for those that only come raw.
const fn field_of(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => return None,
    })
}

/// The bytes of typed elements, or what is wrong in words.
fn typed(datatype: Datatype, elements: u64, contents: &InferTensorContents) -> Result<Bytes, String> {
    let field = field_of(datatype)
        .ok_or_else(|| format!("{datatype} has no field in contents: send it as raw_input_contents"))?;
    let (mut count, mut wrong) = (0, None);
    for (name, filled) in fields(contents) {
        match name == field {
            true => count = filled,
            false if 0 < filled => wrong = Some(name),
            false => {}
        }
    }
    if let Some(wrong) = wrong {
        return Err(format!("{datatype} goes into {field}, and {wrong} is filled"));
    }
    if count as u64 != elements {
        return Err(format!("the shape needs {elements} elements, but {field} has {count}"));
    }
    let c = contents;
    let bytes = match datatype {
        Datatype::Bool => c.bool_contents.iter().map(|value| u8::from(*value)).collect(),
        Datatype::Int8 => narrowed::<_, i8, 1>(&c.int_contents, datatype, i8::to_le_bytes)?,
        Datatype::Int16 => narrowed(&c.int_contents, datatype, i16::to_le_bytes)?,
        Datatype::Int32 => narrowed(&c.int_contents, datatype, i32::to_le_bytes)?,
        Datatype::Int64 => narrowed(&c.int64_contents, datatype, i64::to_le_bytes)?,
        Datatype::Uint8 => narrowed::<_, u8, 1>(&c.uint_contents, datatype, u8::to_le_bytes)?,
        Datatype::Uint16 => narrowed(&c.uint_contents, datatype, u16::to_le_bytes)?,
        Datatype::Uint32 => narrowed(&c.uint_contents, datatype, u32::to_le_bytes)?,
        Datatype::Uint64 => narrowed(&c.uint64_contents, datatype, u64::to_le_bytes)?,
        Datatype::Fp32 => narrowed(&c.fp32_contents, datatype, f32::to_le_bytes)?,
        Datatype::Fp64 => narrowed(&c.fp64_contents, datatype, f64::to_le_bytes)?,
        Datatype::Bytes => {
            bytes_tensor(c.bytes_contents.iter().map(AsRef::as_ref)).map_err(|error| error.to_string())?
        }
        // They have no field, and were refused above.
        Datatype::Fp16 | Datatype::Bf16 => Vec::new(),
    };
    Ok(bytes.into())
}

/// The bytes of numbers that come in a wider type than their own.
fn narrowed<W: Copy + std::fmt::Display, T: TryFrom<W>, const N: usize>(
    values: &[W],
    datatype: Datatype,
    bytes: fn(T) -> [u8; N],
) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(values.len() * N);
    for (at, value) in values.iter().enumerate() {
        let narrow = T::try_from(*value)
            .map_err(|_| format!("element {at} is {value}, which {datatype} cannot hold"))?;
        out.extend_from_slice(&bytes(narrow));
    }
    Ok(out)
}

/// The names of the outputs that are wanted, and of how many elements only the largest.
type Wanted = (Vec<String>, BTreeMap<String, u32>);

fn outputs(outputs: Vec<InferRequestedOutputTensor>) -> Result<Wanted, Fault> {
    if TENSORS_MAX < outputs.len() {
        return Err(invalid(format!("there are more than {TENSORS_MAX} outputs")));
    }
    let (mut names, mut classification) = (Vec::with_capacity(outputs.len()), BTreeMap::new());
    for InferRequestedOutputTensor { name, mut parameters } in outputs {
        check_name(&name)?;
        if names.contains(&name) {
            return Err(invalid(format!("the output {:?} is asked for twice", excerpt(&name))));
        }
        if parameters.contains_key("shared_memory_region") {
            let text = "shared memory is not supported: the tensor comes in the message";
            return Err(invalid(format!("output {:?}: {text}", excerpt(&name))));
        }
        let wanted = parameters.remove("classification").map(|wanted| match wanted.parameter_choice {
            Some(ParameterChoice::Int64Param(count)) => u32::try_from(count).ok(),
            Some(ParameterChoice::Uint64Param(count)) => u32::try_from(count).ok(),
            _ => None,
        });
        match wanted {
            // As with Triton, none of the elements means all of them.
            None | Some(Some(0)) => {}
            Some(Some(count)) => drop(classification.insert(name.clone(), count)),
            Some(None) => {
                let text = "the parameter classification must be a whole number, 0 or more";
                return Err(invalid(format!("output {:?}: {text}", excerpt(&name))));
            }
        }
        names.push(name);
    }
    Ok((names, classification))
}

/// The answer of a node in the protocol's form. Its tensors stay where they lie.
///
/// # Errors
/// The node's answer is broken.
pub(super) fn write(reply: InferReply, id: String) -> Result<ModelInferResponse, Fault> {
    let InferReply { result, payload, report } = reply;
    let tensors = split_tensors(result.outputs, &payload)
        .map_err(|fault| broken_answer(report.node, &fault.message))?;
    let mut response = ModelInferResponse {
        model_name: result.model.as_str().to_owned(),
        model_version: result.version.to_string(),
        id,
        parameters: result.parameters.into_iter().map(|(name, value)| (name, parameter(value))).collect(),
        outputs: Vec::with_capacity(tensors.len()),
        raw_output_contents: Vec::with_capacity(tensors.len()),
    };
    for tensor in tensors {
        response.outputs.push(InferOutputTensor {
            name: tensor.name,
            datatype: tensor.datatype.as_str().to_owned(),
            // No dimension of a shape is larger than an `i64`: so few elements it has.
            shape: tensor.shape.dims().iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect(),
            parameters: HashMap::new(),
            contents: None,
        });
        response.raw_output_contents.push(tensor.bytes);
    }
    Ok(response)
}

/// A parameter on its way out.
pub(super) fn parameter(value: Parameter) -> InferParameter {
    let choice = match value {
        Parameter::Bool(value) => ParameterChoice::BoolParam(value),
        Parameter::Integer(value) => ParameterChoice::Int64Param(value),
        Parameter::Unsigned(value) => ParameterChoice::Uint64Param(value),
        Parameter::Number(value) => ParameterChoice::DoubleParam(value),
        Parameter::Text(value) => ParameterChoice::StringParam(value),
    };
    InferParameter { parameter_choice: Some(choice) }
}

#[cfg(test)]
mod tests;
