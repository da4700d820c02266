//! The generate extension: fields of a JSON object to tensors, and outputs to fields.
//!
//! A field that is named like an input of the model is that input, in a batch of one; every other one is a parameter.
//! This needs the model's signature, and so does whoever reads the answer: what is one element is written without an
//! array around it.

use std::collections::BTreeMap;

use bytes::Bytes;
use lineside_client::InferReply;
use lineside_wire::{
    Fault, InferParams, ModelInfo, ModelVersion, Parameters, PayloadBuilder, RANK_MAX, Shape, Tensor,
    TensorHeader, TensorSpec,
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::value::RawValue;

use super::{
    InferRequest, Wants, excerpt, invalid, json_data,
    request::{PARAMETERS_MAX, Settings, parameter},
    response::{Data, check, tensors, to_json},
};
use crate::bounded::Object;

/// Most fields of a request: parameters, and the inputs of any model that is asked in this way.
const FIELDS_MAX: usize = 2 * PARAMETERS_MAX;

/// What to do with a tensor that has no form here.
const REMEDY: &str = "use infer with binary tensor data for it";

/// Longest list of a model's inputs in a message, in characters.
const LIST_CHARS_MAX: usize = 600;

/// Reads a request for this model. The version is left to the nodes unless the client named one.
///
/// # Errors
/// Says which inputs the model takes, where they are not all there, or what is wrong with one.
pub(crate) fn parse(
    body: &[u8],
    model: &ModelInfo,
    version: Option<ModelVersion>,
) -> Result<InferRequest, Fault> {
    let wrong = |error| invalid(format!("the body is no generate request: {}", excerpt(&format!("{error}"))));
    let mut fields: Object<'_, FIELDS_MAX> = serde_json::from_slice(body).map_err(wrong)?;
    if FIELDS_MAX < fields.0.len() {
        return Err(invalid(format!("there are more than {FIELDS_MAX} fields")));
    }
    let is_input = |name: &str| model.inputs.iter().any(|spec| spec.name == name);
    let id: Option<String> = match fields.0.remove("id") {
        Some(id) if !is_input("id") => serde_json::from_str(id.get()).map_err(wrong)?,
        Some(id) => {
            fields.0.insert("id".to_owned(), id);
            None
        }
        None => None,
    };
    if let Some(nested) = fields.0.get("parameters").copied().filter(|_| !is_input("parameters")) {
        fields.0.remove("parameters");
        let nested: Option<Object<'_, PARAMETERS_MAX>> = serde_json::from_str(nested.get()).map_err(wrong)?;
        for (name, value) in nested.unwrap_or_default().0 {
            if fields.0.insert(name, value).is_some() {
                return Err(invalid("a field is there twice: in the request and in its parameters"));
            }
        }
    }
    let (inputs, payload) = inputs(&mut fields.0, model)?;
    let mut parameters = Parameters::new();
    for (name, value) in fields.0 {
        let value = parameter(&name, value)
            .map_err(|fault| invalid(format!("{}; {}", fault.message, takes(model))))?;
        parameters.insert(name, value);
    }
    if PARAMETERS_MAX < parameters.len() {
        return Err(invalid(format!("there are more than {PARAMETERS_MAX} parameters")));
    }
    let Settings { timeout, priority, session, affinity } = Settings::take(&mut parameters)?;
    let params = InferParams {
        model: model.name.clone(),
        version,
        inputs,
        outputs: Vec::new(),
        parameters,
        task: None,
        classification: BTreeMap::new(),
    };
    let made = payload.length();
    let wants = Wants::default();
    Ok(InferRequest { id, params, payload, made, wants, timeout, priority, session, affinity })
}

/// Takes the fields that are inputs.
fn inputs(
    fields: &mut BTreeMap<String, &RawValue>,
    model: &ModelInfo,
) -> Result<(Vec<TensorHeader>, PayloadBuilder), Fault> {
    let (mut headers, mut payload) = (Vec::with_capacity(model.inputs.len()), PayloadBuilder::new());
    for spec in &model.inputs {
        let field = fields.remove(&spec.name);
        let field = field.ok_or_else(|| {
            invalid(format!("the field {:?} is missing: {}", excerpt(&spec.name), takes(model)))
        })?;
        let tensor = tensor(spec, field.get().as_bytes())
            .map_err(|problem| invalid(format!("the field {:?}: {problem}", excerpt(&spec.name))))?;
        headers.push(tensor.header());
        payload.push(tensor.bytes);
    }
    Ok((headers, payload))
}

fn tensor(spec: &TensorSpec, text: &[u8]) -> Result<Tensor, String> {
    if text.starts_with(b"{") {
        return Err("it is an object: use an element, or an array of them".to_owned());
    }
    let dims = shape(&spec.shape, &outline(text)?)?;
    let elements = Shape::new(dims.clone()).map_err(|error| error.to_string())?.elements();
    let (bytes, _) = json_data::parse(text, spec.datatype, elements)?;
    Tensor::new(spec.name.as_str(), spec.datatype, dims, Bytes::from(bytes))
        .map_err(|error| error.to_string())
}

/// What a model takes, in words.
fn takes(model: &ModelInfo) -> String {
    let mut list = String::new();
    for (i, spec) in model.inputs.iter().enumerate() {
        if LIST_CHARS_MAX < list.len() {
            list.push_str(&format!(" and {} more", model.inputs.len() - i));
            break;
        }
        let comma = if i == 0 { "" } else { ", " };
        list.push_str(&format!("{comma}{} {} {:?}", excerpt(&spec.name), spec.datatype, spec.shape));
    }
    format!("{} takes the inputs {list}", model.name)
}

/// The dimensions of nested arrays, outermost first; none for an element alone. The text is JSON.
fn outline(text: &[u8]) -> Result<Vec<u64>, String> {
    let (mut dims, mut counts) = ([None; RANK_MAX], [0_u64; RANK_MAX]);
    let (mut depth, mut rank, mut at) = (0, None, 0);
    while let Some(byte) = text.get(at) {
        let is_element = !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'[' | b']');
        if (is_element || *byte == b'[') && 0 < depth {
            counts[depth - 1] += 1;
        }
        match byte {
            b'[' if depth == RANK_MAX => return Err(format!("it is nested deeper than {RANK_MAX} levels")),
            b'[' => {
                counts[depth] = 0;
                depth += 1;
            }
            b']' => {
                depth = depth.saturating_sub(1);
                if *dims[depth].get_or_insert(counts[depth]) != counts[depth] {
                    return Err("its arrays are not all of one length".to_owned());
                }
            }
            _ if is_element && *rank.get_or_insert(depth) != depth => {
                return Err("its arrays are not all of one depth".to_owned());
            }
            _ => {}
        }
        at += if is_element { json_data::token_length(&text[at..]).max(1) } else { 1 };
    }
    Ok(dims.into_iter().map_while(|dim| dim).collect())
}

/// The shape of a tensor, from what the model takes and what was sent.
///
/// What was sent may leave out the batch, or be flat: then the last dimension that varies follows from the count, and
/// the others are one.
fn shape(takes: &[i64], sent: &[u64]) -> Result<Vec<u64>, String> {
    let agrees = |takes: &[i64], sent: &[u64]| {
        let mut pairs = takes.iter().zip(sent);
        takes.len() == sent.len()
            && pairs.all(|(takes, sent)| *takes < 0 || u64::try_from(*takes) == Ok(*sent))
    };
    if takes.is_empty() || agrees(takes, sent) {
        return Ok(sent.to_vec());
    }
    if let [-1 | 1, rest @ ..] = takes
        && agrees(rest, sent)
    {
        return Ok([&[1], sent].concat());
    }
    let differs = || format!("the model takes the shape {takes:?} (-1 varies), but {sent:?} was sent");
    let count: u64 = match sent {
        [] => 1,
        [count] => *count,
        _ => return Err(differs()),
    };
    let mut dims: Vec<u64> = takes.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect();
    let fixed =
        dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim)).filter(|fixed| *fixed != 0);
    let fixed = fixed.ok_or_else(differs)?;
    match takes.iter().rposition(|dim| *dim < 0) {
        Some(varies) if count.is_multiple_of(fixed) => dims[varies] = count / fixed,
        None if count == fixed => {}
        _ => return Err(differs()),
    }
    Ok(dims)
}

/// Writes the answer to a request with this id, as one JSON object.
///
/// # Errors
/// The node's answer is broken, or holds what JSON cannot.
pub(crate) fn write(reply: InferReply, id: Option<&str>) -> Result<Vec<u8>, Fault> {
    let InferReply { result, payload, report } = reply;
    let outputs = tensors(result.outputs, &payload, report.node)?;
    let mut room = 256;
    for tensor in &outputs {
        check(tensor, REMEDY)?;
        room += 64 + 3 * tensor.bytes.len();
    }
    let (model, version) = (result.model.as_str(), result.version);
    to_json(&Generated { id, model, version, outputs: &outputs }, room)
}

struct Generated<'a> {
    id: Option<&'a str>,
    model: &'a str,
    version: ModelVersion,
    outputs: &'a [Tensor],
}

impl Serialize for Generated<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        // An output with one of these names is what its caller wants to see.
        let is_free = |name: &str| !self.outputs.iter().any(|output| output.name == name);
        if let Some(id) = self.id.filter(|_| is_free("id")) {
            map.serialize_entry("id", id)?;
        }
        if is_free("model_name") {
            map.serialize_entry("model_name", self.model)?;
        }
        if is_free("model_version") {
            map.serialize_entry("model_version", &self.version)?;
        }
        for output in self.outputs {
            let data =
                if output.shape.elements() == 1 { Data::Element(output) } else { Data::Elements(output) };
            map.serialize_entry(&output.name, &data)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{Datatype, ModelState};

    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
    }

    fn model(inputs: Vec<TensorSpec>) -> ModelInfo {
        ModelInfo {
            name: "talk".parse().expect("a name"),
            version: ModelVersion(3),
            state: ModelState::Ready,
            reason: None,
            inputs,
            outputs: vec![],
            slots: 1,
            tasks: vec![],
            engine: None,
        }
    }

    fn talk() -> ModelInfo {
        model(vec![spec("text_input", Datatype::Bytes, &[-1, 1]), spec("gain", Datatype::Fp32, &[-1, 2])])
    }

    #[test]
    fn fields_become_inputs_or_parameters() {
        let body = r#"{"id":"7","text_input":"Wie viel?","gain":[1,2.5],"tone":"dry",
            "parameters":{"temperature":0.5,"timeout":1500,"stream":false}}"#;
        let request = parse(body.as_bytes(), &talk(), None).unwrap();
        let shapes: Vec<_> = request.params.inputs.iter().map(|input| input.shape.clone()).collect();
        assert_eq!(shapes, [[1, 1], [1, 2]]);
        assert_eq!(request.params.parameters.keys().collect::<Vec<_>>(), ["stream", "temperature", "tone"]);
        assert_eq!(
            (request.id.as_deref(), request.timeout.map(|time| time.as_micros())),
            (Some("7"), Some(1_500))
        );
        // An input may also stand among the parameters, as Triton has it.
        let body = r#"{"text_input":"x","parameters":{"gain":[[1,2]]}}"#;
        assert_eq!(parse(body.as_bytes(), &talk(), None).unwrap().params.inputs[1].shape, [1, 2]);
        let odd = model(vec![spec("id", Datatype::Int32, &[1]), spec("parameters", Datatype::Bool, &[])]);
        let request = parse(br#"{"id":7,"parameters":true}"#, &odd, Some(ModelVersion(3))).unwrap();
        assert_eq!((request.id, request.params.inputs.len()), (None, 2));
    }

    #[test]
    fn a_wrong_request_is_told_what_the_model_takes() {
        for (body, expected) in [
            (
                "{}",
                "\"text_input\" is missing: talk takes the inputs text_input BYTES [-1, 1], gain FP32 [-1, 2]",
            ),
            (r#"{"text_input":"x"}"#, "\"gain\" is missing"),
            (r#"{"text_input":"x","gain":[1,2],"note":[1]}"#, "\"note\" is [1]"),
            (r#"{"text_input":"x","gain":[1,2],"parameters":{"gain":[1,2]}}"#, "twice"),
            (r#"{"text_input":"x","gain":[1,2],"gain":[1,2]}"#, "twice"),
            (r#"{"text_input":"x","gain":[1,2,3]}"#, "takes the shape [-1, 2]"),
            (r#"{"text_input":"x","gain":[[1,2],[3]]}"#, "not all of one length"),
            (r#"{"text_input":"x","gain":[[1,2],3]}"#, "not all of one depth"),
            (r#"{"text_input":"x","gain":{"a":1}}"#, "it is an object"),
            (r#"{"text_input":"x","gain":[1,"2"]}"#, "element 1 is \"2\""),
            (r#"{"text_input":5,"gain":[1,2]}"#, "BYTES takes strings"),
            (r#"{"text_input":"x","gain":[1,2],"id":5}"#, "expected a string"),
            (r#"{"text_input":"x","gain":[1,2],"parameters":[]}"#, "expected an object"),
            ("[]", "expected an object"),
            ("", "no generate request"),
        ] {
            let fault = parse(body.as_bytes(), &talk(), None).unwrap_err();
            assert!(fault.message.contains(expected), "{body}: {}", fault.message);
        }
    }

    #[test]
    fn a_shape_follows_from_the_signature_and_what_was_sent() {
        for (takes, sent, expected) in [
            (&[-1][..], &[][..], Some(&[1][..])),
            (&[-1], &[5], Some(&[5])),
            (&[], &[], Some(&[])),
            (&[], &[2, 2], Some(&[2, 2])),
            (&[-1, -1], &[], Some(&[1, 1])),
            (&[-1, -1], &[5], Some(&[1, 5])),
            (&[-1, 3], &[3], Some(&[1, 3])),
            (&[-1, 3], &[6], Some(&[2, 3])),
            (&[-1, 3], &[2, 3], Some(&[2, 3])),
            (&[-1, 2, 2], &[2, 2], Some(&[1, 2, 2])),
            (&[2, 2], &[4], Some(&[2, 2])),
            (&[2, 2], &[3], None),
            (&[-1, 3], &[4], None),
            (&[-1, 3], &[3, 2], None),
            (&[0, 3], &[0], None),
        ] {
            assert_eq!(shape(takes, sent).ok().as_deref(), expected, "{takes:?} from {sent:?}");
        }
        assert_eq!(outline(b"[[1,2],[3,4],[5,6]]"), Ok(vec![3, 2]));
        assert_eq!(outline(b"[\"a]\",\"b\"]"), Ok(vec![2]));
        assert_eq!(
            (outline(b"7"), outline(b"[]"), outline(b"[[],[]]")),
            (Ok(vec![]), Ok(vec![0]), Ok(vec![2, 0]))
        );
        assert!(outline("[".repeat(9).as_bytes()).is_err());
    }
}
