//! The body of an inference request, into what the cluster is asked.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use lineside_wire::{
    Fault, InferParams, ModelName, ModelVersion, Parameter, Parameters, PayloadBuilder, TENSORS_MAX,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    NAME_BYTES_MAX, check_name,
    cursor::Cursor,
    excerpt,
    input::{Inputs, is_base64},
    invalid,
};
use crate::{
    bounded::{List, Named, Object},
    head::AFFINITY_BYTES_MAX,
};

/// Most parameters of a request: a document of 64 KiB must hold them on their way to the node.
pub(super) const PARAMETERS_MAX: usize = 64;

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
    /// Texts are not counted: the JSON they come from is longer, and is dropped unless binary tensors lie behind it.
    pub(crate) made: usize,
    /// In which form each output comes back.
    pub(crate) wants: Wants,
    /// The client's own limit of time, if it named one.
    pub(crate) timeout: Option<Duration>,
    /// 1 is the highest; 0 is the model's default.
    pub(crate) priority: u8,
    /// Calls of one session belong to one node.
    pub(crate) session: Option<String>,
    /// Calls with the same key go to one node while that has room.
    pub(crate) affinity: Option<String>,
}

/// How an output comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its elements as JSON.
    #[default]
    Json,
    /// Its bytes behind the JSON.
    Binary,
    /// Its bytes as base64 within the JSON.
    Base64,
}

/// In which form each output comes back. An output's own wish counts more than the request's.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    pub(crate) form: Form,
    pub(crate) by_name: Vec<(String, Form)>,
}

impl Wants {
    pub(crate) fn form(&self, output: &str) -> Form {
        self.by_name.iter().find(|(name, _)| name == output).map_or(self.form, |(_, form)| *form)
    }

    /// Whether anything is to come back as binary tensor data.
    pub(crate) fn any_binary(&self) -> bool {
        self.form == Form::Binary || self.by_name.iter().any(|(_, form)| *form == Form::Binary)
    }
}

/// The members of a request.
#[derive(Default)]
struct Envelope<'a> {
    /// Read only where no path names the model.
    model: Option<&'a RawValue>,
    /// The same.
    version: Option<&'a RawValue>,
    id: Option<String>,
    encoding: Option<String>,
    parameters: Option<Object<'a, PARAMETERS_MAX>>,
    has_inputs: bool,
    outputs: Option<List<Named<Output>, TENSORS_MAX>>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    encoding: Option<String>,
    #[serde(default)]
    parameters: Option<Named<OutputParameters>>,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    classification: Option<u32>,
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
    let (envelope, inputs) = envelope(Cursor::new(params.as_bytes(), "params"), Bytes::new())?;
    let model = envelope.model.ok_or_else(|| invalid("params: missing field `model`"))?;
    let model = named("model", model)?;
    let version = envelope.version.map(|version| named("version", version)).transpose()?;
    understand(envelope, inputs, model, version)
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
    let (envelope, inputs) = envelope(Cursor::new(json, "the body is no inference request"), binary)?;
    understand(envelope, inputs, model, version)
}

fn envelope(mut cursor: Cursor<'_>, binary: Bytes) -> Result<(Envelope<'_>, Inputs), Fault> {
    let (mut envelope, mut inputs) = (Envelope::default(), Inputs::new(binary));
    cursor.object(|cursor, member| {
        let twice = match member {
            "model" => set(&mut envelope.model, cursor.value()?),
            "version" => set(&mut envelope.version, cursor.value()?),
            "id" => set(&mut envelope.id, cursor.value()?),
            "encoding" => set(&mut envelope.encoding, cursor.value()?),
            "parameters" => set(&mut envelope.parameters, cursor.value()?),
            "outputs" => set(&mut envelope.outputs, cursor.value()?),
            "inputs" if envelope.has_inputs => true,
            "inputs" => {
                envelope.has_inputs = true;
                cursor.array(|cursor| inputs.read(cursor))?;
                false
            }
            _ => {
                cursor.value::<serde::de::IgnoredAny>()?;
                false
            }
        };
        match twice {
            true => Err(cursor.wrong(&format!("duplicate field `{member}`"))),
            false => Ok(()),
        }
    })?;
    cursor.end()?;
    match envelope.has_inputs {
        true => Ok((envelope, inputs)),
        false => Err(cursor.wrong("missing field `inputs`")),
    }
}

/// Puts a value into its place; null is as good as nothing. Says whether there was one already.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let twice = place.is_some();
    *place = value;
    twice
}

fn understand(
    envelope: Envelope<'_>,
    inputs: Inputs,
    model: ModelName,
    version: Option<ModelVersion>,
) -> Result<InferRequest, Fault> {
    let inputs = inputs.finish()?;
    let (mut wants, mut classification) = (Wants::default(), BTreeMap::new());
    let outputs = outputs(envelope.outputs.unwrap_or_default().0, &mut wants, &mut classification)?;
    let mut parameters = parameters(envelope.parameters.unwrap_or_default())?;
    let binary = flag(&mut parameters, "binary_data_output")?;
    wants.form = form(Some(binary), envelope.encoding.as_deref()).map_err(invalid)?.unwrap_or_default();
    let Settings { timeout, priority, session, affinity } = Settings::take(&mut parameters)?;
    Ok(InferRequest {
        id: envelope.id,
        params: InferParams {
            model,
            version,
            inputs: inputs.headers,
            outputs,
            parameters,
            task: None,
            classification,
        },
        payload: inputs.payload,
        made: inputs.made,
        wants,
        timeout,
        priority,
        session,
        affinity,
    })
}

/// The form that is asked for, if any is.
fn form(binary: Option<bool>, encoding: Option<&str>) -> Result<Option<Form>, String> {
    match (binary, is_base64(encoding)?) {
        (Some(true), true) => {
            Err("binary data and the encoding base64 are both asked for: ask for one".to_owned())
        }
        (Some(true), false) => Ok(Some(Form::Binary)),
        (_, true) => Ok(Some(Form::Base64)),
        (Some(false), false) => Ok(Some(Form::Json)),
        (None, false) => Ok(None),
    }
}

fn outputs(
    outputs: Vec<Named<Output>>,
    wants: &mut Wants,
    classification: &mut BTreeMap<String, u32>,
) -> Result<Vec<String>, Fault> {
    if TENSORS_MAX < outputs.len() {
        return Err(invalid(format!("there are more than {TENSORS_MAX} outputs")));
    }
    let mut names: Vec<String> = Vec::with_capacity(outputs.len());
    for Named(Output { name, encoding, parameters }) in outputs {
        check_name(&name)?;
        if names.contains(&name) {
            return Err(invalid(format!("the output {:?} is asked for twice", excerpt(&name))));
        }
        let about = |problem: String| invalid(format!("output {:?}: {problem}", excerpt(&name)));
        let parameters = parameters.unwrap_or_default().0;
        if parameters.shared_memory_region.is_some() {
            return Err(about("shared memory is not supported: the tensor comes in the body".to_owned()));
        }
        if let Some(form) = form(parameters.binary_data, encoding.as_deref()).map_err(about)? {
            wants.by_name.push((name.clone(), form));
        }
        // As with Triton, none of the elements means all of them.
        if let Some(elements) = parameters.classification.filter(|elements| *elements != 0) {
            classification.insert(name.clone(), elements);
        }
        names.push(name);
    }
    Ok(names)
}

pub(super) fn parameters(Object(raw): Object<'_, PARAMETERS_MAX>) -> Result<Parameters, Fault> {
    if PARAMETERS_MAX < raw.len() {
        return Err(invalid(format!("there are more than {PARAMETERS_MAX} parameters")));
    }
    raw.into_iter().map(|(name, value)| parameter(&name, value).map(|parameter| (name, parameter))).collect()
}

pub(super) fn parameter(name: &str, value: &RawValue) -> Result<Parameter, Fault> {
    serde_json::from_str(value.get()).map_err(|_| {
        let (name, value) = (excerpt(name), excerpt(value.get()));
        invalid(format!("the parameter {name:?} is {value}: use text, a number, true or false"))
    })
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

/// What parameters say of the call itself.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: u8,
    pub(crate) session: Option<String>,
    pub(crate) affinity: Option<String>,
}

impl Settings {
    /// Reads them; those that only the door needs are taken out.
    pub(crate) fn take(parameters: &mut Parameters) -> Result<Self, Fault> {
        let timeout = whole(parameters, "timeout")?.filter(|us| *us != 0).map(Duration::from_micros);
        let priority = whole(parameters, "priority")?.unwrap_or(0);
        for name in ["sequence_start", "sequence_end", "sequence_state"] {
            if parameters.get(name).is_some_and(|value| !matches!(value, Parameter::Bool(_))) {
                return Err(invalid(format!("the parameter {name:?} must be true or false")));
            }
        }
        let (session, affinity) = (session(parameters)?, affinity(parameters)?);
        Ok(Self { timeout, priority: u8::try_from(priority).unwrap_or(u8::MAX), session, affinity })
    }
}

/// The key that draws requests to one node. For the door alone, so it is taken out.
fn affinity(parameters: &mut Parameters) -> Result<Option<String>, Fault> {
    match parameters.remove("affinity") {
        None => Ok(None),
        Some(Parameter::Text(key)) if key.len() <= AFFINITY_BYTES_MAX => {
            Ok(Some(key).filter(|key| !key.is_empty()))
        }
        Some(_) => {
            let most = AFFINITY_BYTES_MAX;
            Err(invalid(format!("the parameter \"affinity\" must be a text of at most {most} bytes")))
        }
    }
}

/// The sequence of a stateful model: its calls go to one node, and are not sent again once they may have run. A call
/// that brings its state names none, and is as free as any other. It also stays a parameter, for the node.
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
mod tests;
