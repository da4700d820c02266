//! The body of an inference request, into what the cluster is asked.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use lineside_wire::{
    Datatype, Fault, FaultCode, InferParams, Limits, ModelName, ModelVersion, Parameter, Parameters,
    PayloadBuilder, RANK_MAX, Shape, TENSORS_MAX, TensorHeader,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{NAME_BYTES_MAX, excerpt, invalid, json_data};
use crate::bounded::{List, Object};

/// Most parameters of a request: a document of 64 KiB must hold them on their way to the node.
const PARAMETERS_MAX: usize = 64;

/// A request that is understood, but for whether the model likes it.
#[derive(Debug)]
pub(crate) struct InferRequest {
    /// Echoed in the answer.
    pub(crate) id: Option<String>,
    /// What the node is told.
    pub(crate) params: InferParams,
    /// The inputs' bytes.
    pub(crate) payload: PayloadBuilder,
    /// Bytes of the payload that were made out of JSON, beside the body: memory that the body's room does not cover.
    pub(crate) made: usize,
    /// Which outputs come back binary.
    pub(crate) wants: Wants,
    /// The client's own limit of time, if it named one.
    pub(crate) timeout: Option<Duration>,
    /// 1 is the highest; 0 is the model's default.
    pub(crate) priority: u8,
    /// Calls of one session belong to one node.
    pub(crate) session: Option<String>,
}

/// Which outputs come back as binary tensor data. An output's own wish counts more than the request's.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    pub(crate) binary: bool,
    pub(crate) by_name: Vec<(String, bool)>,
}

impl Wants {
    pub(crate) fn binary(&self, output: &str) -> bool {
        self.by_name.iter().find(|(name, _)| name == output).map_or(self.binary, |(_, binary)| *binary)
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    /// Read only where no path names the model.
    #[serde(default, borrow)]
    model: Option<&'a RawValue>,
    /// The same.
    #[serde(default, borrow)]
    version: Option<&'a RawValue>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, borrow)]
    parameters: Option<Object<'a, PARAMETERS_MAX>>,
    #[serde(borrow)]
    inputs: List<Input<'a>, TENSORS_MAX>,
    #[serde(default)]
    outputs: Option<List<Output, TENSORS_MAX>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    shape: List<i64, RANK_MAX>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: Option<InputParameters>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<u64>,
    #[serde(default)]
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: Option<OutputParameters>,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    classification: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

/// Reads the params of a request that names its model itself, and has no binary tensors.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_named(params: &str) -> Result<InferRequest, Fault> {
    fn named<T: DeserializeOwned>(name: &str, value: &RawValue) -> Result<T, Fault> {
        serde_json::from_str(value.get()).map_err(|error| invalid(format!("params: {name}: {error}")))
    }
    let envelope: Envelope<'_> =
        serde_json::from_str(params).map_err(|error| invalid(format!("params: {error}")))?;
    let model = envelope.model.ok_or_else(|| invalid("params: missing field `model`"))?;
    let model = named("model", model)?;
    let version = envelope.version.map(|version| named("version", version)).transpose()?;
    understand(envelope, Bytes::new(), model, version)
}

/// Reads the JSON of a request, and takes its binary tensors from `binary`, in the order of the inputs.
///
/// # Errors
/// Says in words which part of the body is wrong, and what it should be.
pub(crate) fn parse(
    json: &[u8],
    binary: Bytes,
    model: ModelName,
    version: Option<ModelVersion>,
) -> Result<InferRequest, Fault> {
    let envelope: Envelope<'_> = serde_json::from_slice(json)
        .map_err(|error| invalid(format!("the body is no inference request: {error}")))?;
    understand(envelope, binary, model, version)
}

fn understand(
    envelope: Envelope<'_>,
    binary: Bytes,
    model: ModelName,
    version: Option<ModelVersion>,
) -> Result<InferRequest, Fault> {
    let sliced = binary.len();
    let (inputs, payload) = tensors(envelope.inputs.0, binary)?;
    let made = payload.length().saturating_sub(sliced);
    let mut wants = Wants::default();
    let outputs = outputs(envelope.outputs.unwrap_or_default().0, &mut wants)?;
    let mut parameters = parameters(envelope.parameters.unwrap_or_default())?;
    wants.binary = flag(&mut parameters, "binary_data_output")?;
    let timeout = whole(&mut parameters, "timeout")?.filter(|us| *us != 0).map(Duration::from_micros);
    let priority = whole(&mut parameters, "priority")?.unwrap_or(0);
    let session = session(&parameters)?;
    Ok(InferRequest {
        id: envelope.id,
        params: InferParams { model, version, inputs, outputs, parameters },
        payload,
        made,
        wants,
        timeout,
        priority: u8::try_from(priority).unwrap_or(u8::MAX),
        session,
    })
}

fn tensors(inputs: Vec<Input<'_>>, mut binary: Bytes) -> Result<(Vec<TensorHeader>, PayloadBuilder), Fault> {
    if TENSORS_MAX < inputs.len() {
        return Err(invalid(format!("there are more than {TENSORS_MAX} inputs")));
    }
    let mut headers: Vec<TensorHeader> = Vec::with_capacity(inputs.len());
    let mut payload = PayloadBuilder::new();
    for input in inputs {
        check_name(&input.name)?;
        if headers.iter().any(|header| header.name == input.name) {
            return Err(invalid(format!("the input {:?} is there twice", excerpt(&input.name))));
        }
        let (header, bytes) = tensor(input, &mut binary, payload.length())?;
        headers.push(header);
        payload.push(bytes);
    }
    if !binary.is_empty() {
        return Err(invalid(format!(
            "{} bytes follow the last binary tensor: the sizes in binary_data_size must add up to the body's length \
             without its JSON",
            binary.len()
        )));
    }
    Ok((headers, payload))
}

fn tensor(input: Input<'_>, binary: &mut Bytes, before: usize) -> Result<(TensorHeader, Bytes), Fault> {
    let about = |text: String| invalid(format!("input {:?}: {text}", excerpt(&input.name)));
    let datatype: Datatype = input.datatype.parse().map_err(|error| about(format!("{error}")))?;
    let shape = dims(&input.shape.0).map_err(about)?;
    let shape = Shape::new(shape).map_err(|error| about(error.to_string()))?;
    let parameters = input.parameters.unwrap_or_default();
    if parameters.shared_memory_region.is_some() {
        return Err(about("shared memory is not supported: send the tensor in the body".to_owned()));
    }
    let bytes = match (parameters.binary_data_size, input.data) {
        (Some(_), Some(_)) => {
            return Err(about("it has both data and binary_data_size: send one".to_owned()));
        }
        (None, None) => return Err(about("it has neither data nor binary_data_size".to_owned())),
        (Some(size), None) => {
            let size = usize::try_from(size).ok().filter(|size| *size <= binary.len()).ok_or_else(|| {
                about(format!(
                    "binary_data_size is {size}, but {} bytes are left behind the JSON (their start is said by \
                     Inference-Header-Content-Length)",
                    binary.len()
                ))
            })?;
            binary.split_to(size)
        }
        (None, Some(data)) => {
            // A number in JSON can be four times shorter than its bytes, so the body's limit is not enough.
            let needed = shape.byte_length(datatype).map_err(|error| about(error.to_string()))?.unwrap_or(0);
            let max = u64::from(Limits::default().payload_bytes_max);
            if max < needed.saturating_add(before as u64) {
                let text = format!("the inputs take more than {max} bytes together");
                return Err(Fault::new(FaultCode::LimitExceeded, text));
            }
            json_data::parse(data.get(), datatype, shape.elements()).map_err(about)?.into()
        }
    };
    shape.check(datatype, &bytes).map_err(|error| about(error.to_string()))?;
    let (shape, byte_length) = (shape.dims().to_vec(), bytes.len() as u64);
    Ok((TensorHeader { name: input.name, datatype, shape, byte_length }, bytes))
}

fn dims(shape: &[i64]) -> Result<Vec<u64>, String> {
    if RANK_MAX < shape.len() {
        return Err(format!("a shape of more than {RANK_MAX} dimensions"));
    }
    let dim = |dim: &i64| {
        u64::try_from(*dim)
            .map_err(|_| format!("the shape {shape:?} has a negative dimension: a request's shape is exact"))
    };
    shape.iter().map(dim).collect()
}

fn check_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() || NAME_BYTES_MAX < name.len() {
        let text =
            format!("the name {:?} has {} bytes: use 1 to {NAME_BYTES_MAX}", excerpt(name), name.len());
        return Err(invalid(text));
    }
    Ok(())
}

fn outputs(outputs: Vec<Output>, wants: &mut Wants) -> Result<Vec<String>, Fault> {
    if TENSORS_MAX < outputs.len() {
        return Err(invalid(format!("there are more than {TENSORS_MAX} outputs")));
    }
    let mut names: Vec<String> = Vec::with_capacity(outputs.len());
    for Output { name, parameters } in outputs {
        check_name(&name)?;
        if names.contains(&name) {
            return Err(invalid(format!("the output {:?} is asked for twice", excerpt(&name))));
        }
        let parameters = parameters.unwrap_or_default();
        let unsupported = [
            ("classification", parameters.classification.is_some()),
            ("shared_memory_region", parameters.shared_memory_region.is_some()),
        ];
        if let Some((parameter, _)) = unsupported.iter().find(|(_, is_set)| *is_set) {
            let name = excerpt(&name);
            return Err(invalid(format!("output {name:?}: the parameter {parameter} is not supported")));
        }
        if let Some(binary) = parameters.binary_data {
            wants.by_name.push((name.clone(), binary));
        }
        names.push(name);
    }
    Ok(names)
}

fn parameters(Object(raw): Object<'_, PARAMETERS_MAX>) -> Result<Parameters, Fault> {
    if PARAMETERS_MAX < raw.len() {
        return Err(invalid(format!("there are more than {PARAMETERS_MAX} parameters")));
    }
    let parameter = |(name, value): (String, &RawValue)| match serde_json::from_str::<Parameter>(value.get())
    {
        Ok(value) => Ok((name, value)),
        Err(_) => {
            let (name, value) = (excerpt(&name), excerpt(value.get()));
            Err(invalid(format!("the parameter {name:?} is {value}: use text, a number, true or false")))
        }
    };
    raw.into_iter().map(parameter).collect()
}

/// Takes a parameter that is for the door and not for the node.
fn flag(parameters: &mut Parameters, name: &str) -> Result<bool, Fault> {
    match parameters.remove(name) {
        None => Ok(false),
        Some(Parameter::Bool(value)) => Ok(value),
        Some(_) => Err(invalid(format!("the parameter {name:?} must be true or false"))),
    }
}

fn whole(parameters: &mut Parameters, name: &str) -> Result<Option<u64>, Fault> {
    match parameters.remove(name) {
        None => Ok(None),
        Some(Parameter::Integer(value)) if 0 <= value => Ok(Some(value.unsigned_abs())),
        Some(Parameter::Unsigned(value)) => Ok(Some(value)),
        Some(_) => Err(invalid(format!("the parameter {name:?} must be a whole number, 0 or more"))),
    }
}

/// The sequence of a stateful model; it also stays a parameter, for the node.
fn session(parameters: &Parameters) -> Result<Option<String>, Fault> {
    match parameters.get("sequence_id") {
        None | Some(Parameter::Integer(0)) => Ok(None),
        Some(Parameter::Text(text)) if text.is_empty() => Ok(None),
        Some(Parameter::Text(text)) if text.len() <= NAME_BYTES_MAX => Ok(Some(text.clone())),
        Some(Parameter::Integer(number)) if 0 < *number => Ok(Some(number.to_string())),
        Some(Parameter::Unsigned(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(invalid("the parameter \"sequence_id\" must be a whole number or a short text")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str, binary: &'static [u8]) -> Result<InferRequest, Fault> {
        parse(json.as_bytes(), Bytes::from_static(binary), "add".parse().expect("a name"), None)
    }

    #[test]
    fn binary_and_json_inputs_stand_side_by_side() {
        let json = r#"{"id":"7","inputs":[
            {"name":"a","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},
            {"name":"b","shape":[1,2],"datatype":"INT16","data":[[1,-1]]},
            {"name":"c","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}}],
            "outputs":[{"name":"x","parameters":{"binary_data":false}},{"name":"y"}],
            "parameters":{"binary_data_output":true,"timeout":1500,"priority":900,"sequence_id":5}}"#;
        let request = read(json, &[1, 2, 3]).unwrap();
        let flat: Vec<u8> = request.payload.into_chunks().concat();
        assert_eq!((&flat[..2], &flat[64..68], &flat[128..]), (&[1, 2][..], &[1, 0, 255, 255][..], &[3][..]));
        assert_eq!((request.wants.binary("x"), request.wants.binary("y")), (false, true));
        assert_eq!((request.priority, request.timeout), (255, Some(Duration::from_micros(1_500))));
        assert_eq!((request.id.as_deref(), request.session.as_deref()), (Some("7"), Some("5")));
        assert_eq!(request.params.outputs, ["x", "y"]);
        assert_eq!(request.params.parameters.keys().collect::<Vec<_>>(), ["sequence_id"]);
    }

    #[test]
    fn each_wrong_request_is_told_what_is_wrong() {
        let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"a",{rest}}}]}}"#);
        let many = |list: &str, entry: &str| format!(r#"{{"{list}":[{}]}}"#, vec![entry; 1_000].join(","));
        let wrong = [
            ("{".to_owned(), "EOF"),
            ("[]".to_owned(), "no inference request"),
            (r#"{"inputs":[]} x"#.to_owned(), "trailing"),
            (r#"{"outputs":[]}"#.to_owned(), "missing field `inputs`"),
            (r#"{"inputs":[],"inputs":[]}"#.to_owned(), "duplicate field"),
            (input(r#""shape":[-1],"datatype":"INT8","data":[1]"#), "negative dimension"),
            (input(r#""shape":[1.5],"datatype":"INT8","data":[1]"#), "floating point"),
            (input(r#""shape":[4611686018427387904,4],"datatype":"INT8","data":[1]"#), "more elements"),
            (input(r#""shape":[1152921504606846976],"datatype":"FP64","data":[1]"#), "more than 67108864"),
            (input(r#""shape":[1,1,1,1,1,1,1,1,1],"datatype":"INT8","data":[1]"#), "more than 8 dimensions"),
            (input(r#""shape":[1],"datatype":"FLOAT","data":[1]"#), "unknown datatype"),
            (input(r#""shape":[1],"datatype":"FP32""#), "neither data nor"),
            (
                input(r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#),
                "both",
            ),
            (
                input(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":9}"#),
                "8 bytes are left",
            ),
            (input(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}"#), "4 bytes follow"),
            (input(r#""shape":[1],"datatype":"FP64","parameters":{"binary_data_size":4}"#), "needs 8 bytes"),
            (
                input(r#""shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"x"}"#),
                "shared memory",
            ),
            (r#"{"inputs":[],"parameters":{"timeout":-1}}"#.to_owned(), "whole number"),
            (r#"{"inputs":[],"parameters":{"x":1,"x":2}}"#.to_owned(), "twice"),
            (many("inputs", r#"{"name":"a","shape":[],"datatype":"INT8"}"#), "more than 256 inputs"),
            (many("inputs\":[],\"outputs", r#"{"name":"a"}"#), "more than 256 outputs"),
            (r#"{"inputs":[],"parameters":{"x":[1]}}"#.to_owned(), "use text, a number"),
            (r#"{"inputs":[],"parameters":{"binary_data_output":1}}"#.to_owned(), "true or false"),
            (r#"{"inputs":[],"outputs":[{"name":"x"},{"name":"x"}]}"#.to_owned(), "asked for twice"),
            (
                r#"{"inputs":[],"outputs":[{"name":"x","parameters":{"classification":3}}]}"#.to_owned(),
                "classification is not supported",
            ),
        ];
        for (json, expected) in wrong {
            let binary: &[u8] = if json.contains("binary_data_size") { &[0; 8] } else { &[] };
            let fault = read(&json, binary).unwrap_err();
            assert!(fault.message.contains(expected), "{json}: {}", fault.message);
        }
    }

    proptest! {
        #[test]
        fn what_is_read_fits_its_shape_whatever_was_sent(
            shape in prop::collection::vec(-1..5_i64, 0..4),
            datatype in prop::sample::select(Datatype::ALL.map(Datatype::as_str).to_vec()),
            data in prop::collection::vec("-?[0-9]{1,4}|true|\"[a-z]{0,3}\"|\\[1,2\\]|null|1e9", 0..6),
            size in prop::option::of(0..40_usize),
            binary in prop::collection::vec(0..2_u8, 0..40),
        ) {
            let part = match size {
                Some(size) => format!(r#""parameters":{{"binary_data_size":{size}}}"#),
                None => format!(r#""data":[{}]"#, data.join(",")),
            };
            let json = format!(r#"{{"inputs":[{{"name":"a","shape":{shape:?},"datatype":"{datatype}",{part}}}]}}"#);
            let model = "add".parse().expect("a model name");
            if let Ok(request) = parse(json.as_bytes(), binary.into(), model, None) {
                let payload: Bytes = request.payload.into_chunks().concat().into();
                prop_assert!(lineside_wire::split_tensors(request.params.inputs, &payload).is_ok());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(json in prop::collection::vec(any::<u8>(), 0..200)) {
            let model = "add".parse().expect("a model name");
            let _read = parse(&json, Bytes::new(), model, None);
        }
    }

    #[test]
    fn a_hundred_thousand_brackets_are_an_error_and_no_stack_overflow() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for json in [
            format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"INT8","data":{deep}}}]}}"#),
            format!(r#"{{"inputs":{deep}}}"#),
            format!(r#"{{"inputs":[],"parameters":{{"x":{deep}}}}}"#),
            deep,
        ] {
            assert!(read(&json, &[]).is_err());
        }
    }
}
