//! Bodies of the Open Inference Protocol.

use bytes::Bytes;
use lineside_client::InferReply;
use lineside_wire::{
    Datatype, Fault, InferResult, LoadReport, ModelInfo, ModelName, ModelState, ModelVersion, NodeId,
    Parameters, RunReport, TensorHeader, TensorSpec, split_tensors,
};
use serde_json::value::RawValue;

use crate::oip::{self, Form, InferRequest, Wants};

/// A body, led by two bytes with the length of its JSON: read in every way in which a body is read. What was understood
/// is written as an answer, and that read again.
///
/// # Panics
/// Shapes and bytes disagree, or a tensor does not come back as it went.
pub fn oip(bytes: &[u8]) {
    let Some((length, body)) = bytes.split_first_chunk() else { return };
    let mut body = Bytes::copy_from_slice(body);
    raw(&body);
    generate(&body);
    if let Ok(text) = std::str::from_utf8(&body) {
        looked_at(oip::parse_named(text), 0);
    }
    // A length beyond the body is refused before anybody looks at it.
    let json = body.split_to(usize::from(u16::from_le_bytes(*length)).min(body.len()));
    let binary = body.len();
    looked_at(oip::parse(&json, body, name(), None), binary);
}

/// The elements of the `data` of an FP32 tensor, flat or nested: what the benchmark measures. `None` where it is no such
/// data. A request says in its shape how many there are; here their commas are counted.
#[must_use]
pub fn parse_fp32(json: &[u8]) -> Option<usize> {
    let elements = 1 + json.iter().filter(|byte| **byte == b',').count();
    let (bytes, length) = oip::parse_data(json, Datatype::Fp32, elements as u64).ok()?;
    (length == json.len()).then_some(bytes.len() / size_of::<f32>())
}

fn name() -> ModelName {
    "fuzz".parse().expect("a name")
}

/// Why there is no request, or nothing.
fn told<T>(read: Result<T, Fault>) -> Option<T> {
    read.inspect_err(|fault| assert!(fault.message.len() < 4096, "an error repeats what it was sent")).ok()
}

/// Looks at a request with so many bytes of binary tensors.
fn looked_at(read: Result<InferRequest, Fault>, binary: usize) {
    let Some(request) = told(read) else { return };
    let lengths = request.params.inputs.iter().map(|input| input.byte_length).sum::<u64>();
    assert_eq!(lengths, (request.made + binary) as u64);
    let payload: Bytes = request.payload.into_chunks().concat().into();
    let inputs = request.params.inputs;
    split_tensors(inputs.clone(), &payload).expect("shapes and bytes agree");
    echoed(&inputs, &payload, request.id.as_deref(), &request.wants);
    for form in [Form::Json, Form::Binary, Form::Base64] {
        echoed(&inputs, &payload, None, &Wants { form, by_name: Vec::new() });
    }
}

/// Writes the inputs as an answer, whose outputs are then the inputs of a request, and the same as before.
fn echoed(inputs: &[TensorHeader], payload: &Bytes, id: Option<&str>, wants: &Wants) {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        outputs: &'a RawValue,
    }
    // Not everything has a form in JSON.
    let Some(answer) = told(oip::write(reply(inputs, payload), id, wants)) else { return };
    assert_eq!(answer.is_binary, !answer.binary.is_empty());
    let outputs = serde_json::from_slice::<Answer<'_>>(&answer.json).expect("an answer is JSON").outputs;
    let again = format!("{{\"inputs\":{outputs}}}");
    let again = oip::parse(again.as_bytes(), answer.binary.concat().into(), name(), None);
    let again = again.expect("an output can be an input");
    assert_eq!(again.params.inputs, inputs);
    assert_eq!(again.payload.into_chunks().concat(), payload[..]);
}

fn reply(inputs: &[TensorHeader], payload: &Bytes) -> InferReply {
    InferReply {
        result: InferResult {
            model: name(),
            version: ModelVersion(1),
            outputs: inputs.to_vec(),
            parameters: Parameters::new(),
        },
        payload: payload.clone(),
        report: RunReport {
            node: NodeId::from_bytes([7; 16]),
            load: LoadReport::default(),
            queue_us: 0,
            run_us: 0,
            attempts: 1,
            batch: 1,
        },
    }
}

fn model(inputs: Vec<TensorSpec>) -> ModelInfo {
    ModelInfo {
        name: name(),
        version: ModelVersion(1),
        state: ModelState::Ready,
        reason: None,
        inputs,
        outputs: Vec::new(),
        slots: 1,
        tasks: Vec::new(),
        engine: None,
    }
}

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
}

fn raw(body: &Bytes) {
    for datatype in Datatype::ALL {
        for shape in [&[-1, 3][..], &[-1, -1], &[2]] {
            let model = model(vec![spec("x", datatype, shape)]);
            let Some(request) = told(oip::raw_request(&model, body)) else { continue };
            let payload: Bytes = request.payload.into_chunks().concat().into();
            split_tensors(request.params.inputs, &payload).expect("shapes and bytes agree");
        }
    }
}

fn generate(body: &[u8]) {
    let talk = vec![spec("text_input", Datatype::Bytes, &[-1])];
    let add = ["a", "b"].map(|name| spec(name, Datatype::Fp32, &[-1, 2])).to_vec();
    let mixed = vec![spec("x", Datatype::Bool, &[]), spec("id", Datatype::Int64, &[-1, -1])];
    for inputs in [talk, add, mixed] {
        let Some(request) = told(oip::parse_generate(body, &model(inputs), None)) else { continue };
        let payload: Bytes = request.payload.into_chunks().concat().into();
        let inputs = request.params.inputs;
        split_tensors(inputs.clone(), &payload).expect("shapes and bytes agree");
        let written = told(oip::write_generated(reply(&inputs, &payload), request.id.as_deref()));
        let written = written.expect("what was read from JSON can be written");
        serde_json::from_slice::<&RawValue>(&written).expect("an answer is JSON");
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{Tensor, bytes_tensor, join_tensors};
    use proptest::prelude::*;

    use super::*;

    /// A tensor of this type, out of bytes that come as they come.
    fn tensor(name: String, datatype: Datatype, dims: Vec<u64>, random: &[u8]) -> Tensor {
        let elements = usize::try_from(dims.iter().product::<u64>()).expect("a small shape");
        let mut random = random.iter().copied().cycle();
        let bytes = match datatype.width() {
            _ if datatype == Datatype::Bool => random.map(|byte| byte & 1).take(elements).collect(),
            Some(width) => random.take(elements * width).collect(),
            None => {
                let mut text = || {
                    let length = usize::from(random.next().unwrap_or(0) % 5);
                    random.by_ref().take(length).collect::<Vec<_>>()
                };
                let texts: Vec<_> = (0..elements).map(|_| text()).collect();
                bytes_tensor(texts.iter().map(Vec::as_slice)).expect("short texts")
            }
        };
        Tensor::new(name, datatype, dims, bytes.into()).expect("bytes that fit")
    }

    /// Whether JSON has a form for every element.
    fn has_json(tensor: &Tensor) -> bool {
        let bytes: &[u8] = &tensor.bytes;
        match tensor.datatype {
            Datatype::Fp16 | Datatype::Bf16 => false,
            Datatype::Fp32 => bytes.as_chunks().0.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite()),
            Datatype::Fp64 => bytes.as_chunks().0.iter().all(|bytes| f64::from_le_bytes(*bytes).is_finite()),
            Datatype::Bytes => lineside_wire::bytes_elements(bytes, tensor.shape.elements())
                .expect("a tensor")
                .iter()
                .all(|element| std::str::from_utf8(element).is_ok()),
            _ => true,
        }
    }

    proptest! {
        #[test]
        fn tensors_come_back_as_they_went_in_every_form(
            tensors in prop::collection::vec(
                (
                    prop::sample::select(Datatype::ALL.to_vec()),
                    prop::collection::vec(0..4_u64, 0..4),
                    prop::collection::vec(any::<u8>(), 1..40),
                    prop::sample::select(vec![Form::Json, Form::Binary, Form::Base64]),
                ),
                0..5,
            ),
        ) {
            let forms = tensors.iter().map(|(.., form)| *form).enumerate();
            let by_name = forms.map(|(at, form)| (at.to_string(), form)).collect();
            let tensors = tensors.into_iter().enumerate();
            let tensors: Vec<_> =
                tensors.map(|(at, (datatype, dims, random, _))| tensor(at.to_string(), datatype, dims, &random)).collect();
            let (headers, payload) = join_tensors(&tensors);
            let payload: Bytes = payload.into_chunks().concat().into();
            let mixed = Wants { form: Form::Json, by_name };
            let form = |form| Wants { form, by_name: Vec::new() };
            for wants in [mixed, form(Form::Json), form(Form::Binary), form(Form::Base64)] {
                let possible =
                    tensors.iter().all(|tensor| wants.form(&tensor.name) != Form::Json || has_json(tensor));
                prop_assert_eq!(oip::write(reply(&headers, &payload), None, &wants).is_ok(), possible);
                echoed(&headers, &payload, Some("7"), &wants);
            }
        }
    }

    #[test]
    fn the_benchmark_counts_the_elements_of_a_tensor() {
        assert_eq!(parse_fp32(b"[[1,2],[3,4]]"), Some(4));
        assert_eq!((parse_fp32(b"[1,x]"), parse_fp32(b"[1]]")), (None, None));
    }
}
