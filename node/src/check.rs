//! Whether a request fits its model, before it takes a place in the queue.
//!
//! A model's file says which dimensions vary, and never how far; a run takes memory and time for whatever comes. So the
//! person who serves it can say how large an input may be ([`ShapeLimits`]). What is beyond is refused as
//! `LIMIT_EXCEEDED`: nothing is wrong with the request, and another node would say the same.

use std::fmt::Write as _;

use lineside_wire::{Datatype, Fault, FaultCode, Limits, ModelName, Tensor, TensorSpec, bytes_elements};

use crate::{
    engine::{Signature, clipped},
    settings::ModelLimits,
};

/// Longest list of a model's tensors in a message, in characters.
const LIST_CHARS_MAX: usize = 600;

/// Longest name in a message that a caller chose, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Most texts in all inputs of a call. An empty one is four bytes on the wire and some eighty in the engine, so the
/// payload's limit alone would let a call take more than a gigabyte.
const TEXTS_MAX: u64 = 1 << 20;

/// A request that fits: its tensors in the model's order, and the indices of the outputs that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fitting {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) wanted: Vec<usize>,
}

/// How large the inputs of a model may be, by its settings; without any, as large as a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShapeLimits {
    /// The largest dimensions of an input, by its place in the signature.
    shapes: Vec<(usize, Vec<u64>)>,
    elements_max: Option<u64>,
    /// Most rows; 0 is no such limit. Then every input's first dimension is theirs.
    rows_max: u32,
}

impl ShapeLimits {
    /// What these settings mean for inputs in this order; what they say of others is passed over.
    pub(crate) fn new<'a>(settings: &ModelLimits, inputs: impl Iterator<Item = &'a TensorSpec>) -> Self {
        let names: Vec<&str> = inputs.map(|spec| spec.name.as_str()).collect();
        let place = |name: &String| names.iter().position(|input| input == name);
        let shapes = settings.max_shape.iter().filter_map(|(name, max)| Some((place(name)?, max.clone())));
        Self { shapes: shapes.collect(), elements_max: settings.elements_max, rows_max: 0 }
    }

    /// The same, for at most so many rows.
    pub(crate) fn of_rows(self, rows_max: u32) -> Self {
        Self { rows_max, ..self }
    }

    /// Looks at inputs in the model's order.
    fn keep(&self, model: &ModelName, inputs: &[Tensor]) -> Result<(), Fault> {
        self.keep_rows(model, inputs)?;
        for (at, max) in &self.shapes {
            let Some(input) = inputs.get(*at) else { continue };
            let dims = input.shape.dims();
            if max.len() != dims.len() || dims.iter().zip(max).any(|(sent, max)| max < sent) {
                let text = format!(
                    "the input {:?} of {model} may have the shape {max:?} at most, but {dims:?} was sent",
                    input.name
                );
                return Err(Fault::new(FaultCode::LimitExceeded, text));
            }
        }
        let Some(max) = self.elements_max else { return Ok(()) };
        let elements = inputs.iter().map(|input| input.shape.elements()).fold(0, u64::saturating_add);
        match elements <= max {
            true => Ok(()),
            false => {
                let text = format!("the inputs of {model} have {elements} elements: at most {max} are taken");
                Err(Fault::new(FaultCode::LimitExceeded, text))
            }
        }
    }

    fn keep_rows(&self, model: &ModelName, inputs: &[Tensor]) -> Result<(), Fault> {
        let max = self.rows_max;
        let rows = inputs.iter().filter_map(|input| input.shape.dims().first()).max();
        match rows.filter(|rows| 0 < max && u64::from(max) < **rows) {
            None => Ok(()),
            Some(rows) => {
                let text = format!(
                    "a request of {model} may have {max} rows at most (max_batch_size), but {rows} were sent"
                );
                Err(Fault::new(FaultCode::LimitExceeded, text))
            }
        }
    }
}

/// Checks a request against its model's signature, and what its settings allow.
///
/// # Errors
/// `InvalidParams` for what does not fit, `LimitExceeded` for what is too large, in the words of both sides.
pub(crate) fn check(
    model: &ModelName,
    signature: &Signature,
    limits: &ShapeLimits,
    mut given: Vec<Tensor>,
    outputs: &[String],
) -> Result<Fitting, Fault> {
    within_limits(&given)?;
    let unknown = given.iter().find(|tensor| !signature.inputs.iter().any(|spec| spec.name == tensor.name));
    if let Some(tensor) = unknown {
        let takes = list(&signature.inputs);
        return Err(invalid(format!(
            "{model} has no input {:?}: it takes {takes}",
            clipped(&tensor.name, NAME_CHARS_MAX)
        )));
    }
    let mut inputs = Vec::with_capacity(signature.inputs.len());
    for spec in &signature.inputs {
        let Some(at) = given.iter().position(|tensor| tensor.name == spec.name) else {
            let takes = list(&signature.inputs);
            return Err(invalid(format!(
                "the input {:?} of {model} is missing: it takes {takes}",
                spec.name
            )));
        };
        let tensor = given.swap_remove(at);
        fits(model, spec, &tensor)?;
        inputs.push(tensor);
    }
    limits.keep(model, &inputs)?;
    Ok(Fitting { inputs, wanted: wanted(model, signature, outputs)? })
}

/// Checks tensors that a caller brings in another way than as inputs: the state that it kept. They are in the order of
/// their specs, whose limits these are.
///
/// # Errors
/// As for inputs.
pub(crate) fn check_brought<'a>(
    model: &ModelName,
    specs: impl Iterator<Item = &'a TensorSpec>,
    limits: &ShapeLimits,
    brought: &[Tensor],
) -> Result<(), Fault> {
    within_limits(brought)?;
    specs.zip(brought).try_for_each(|(spec, tensor)| fits(model, spec, tensor))?;
    limits.keep(model, brought)
}

/// What the bytes of a call do not bound.
fn within_limits(given: &[Tensor]) -> Result<(), Fault> {
    let texts = given.iter().filter(|tensor| tensor.datatype == Datatype::Bytes);
    let texts = texts.map(|tensor| tensor.shape.elements()).fold(0, u64::saturating_add);
    if TEXTS_MAX < texts {
        let text = format!("the inputs hold {texts} texts: at most {TEXTS_MAX} are taken");
        return Err(Fault::new(FaultCode::LimitExceeded, text));
    }
    // A tensor without elements takes no bytes, whatever its other dimensions are, but a model that sums over the empty
    // one makes an output out of those.
    let max = u64::from(Limits::default().payload_bytes_max);
    let reach = |tensor: &Tensor| tensor.shape.dims().iter().filter(|dim| **dim != 0).product::<u64>();
    match given.iter().find(|tensor| max < reach(tensor)) {
        None => Ok(()),
        Some(tensor) => Err(invalid(format!(
            "the input {:?} has the shape {:?}: the dimensions beside the empty one make more than {max} elements",
            clipped(&tensor.name, NAME_CHARS_MAX),
            tensor.shape.dims()
        ))),
    }
}

fn fits(model: &ModelName, spec: &TensorSpec, tensor: &Tensor) -> Result<(), Fault> {
    let name = &spec.name;
    if spec.datatype != tensor.datatype {
        let (takes, sent) = (spec.datatype, tensor.datatype);
        return Err(invalid(format!("the input {name:?} of {model} is {takes}, but {sent} was sent")));
    }
    let dims = tensor.shape.dims();
    // The file says nothing about a shape both for a scalar and for an input of any rank: then the engine decides.
    let same = spec.shape.is_empty()
        || spec.shape.len() == dims.len()
            && spec
                .shape
                .iter()
                .zip(dims)
                .all(|(takes, sent)| u64::try_from(*takes).is_ok_and(|d| d == *sent) || *takes < 0);
    if !same {
        let takes = &spec.shape;
        return Err(invalid(format!(
            "the input {name:?} of {model} has the shape {takes:?} (-1 varies), but {dims:?} was sent"
        )));
    }
    match spec.datatype {
        Datatype::Bytes => texts(model, name, tensor),
        _ => Ok(()),
    }
}

/// ONNX's texts are UTF-8, and its C interface ends them at a zero byte.
fn texts(model: &ModelName, name: &str, tensor: &Tensor) -> Result<(), Fault> {
    let elements = bytes_elements(&tensor.bytes, tensor.shape.elements());
    let elements = elements.map_err(|error| invalid(error.to_string()))?;
    let broken = |element: &&[u8]| element.contains(&0) || std::str::from_utf8(element).is_err();
    match elements.iter().position(broken) {
        None => Ok(()),
        Some(at) => Err(invalid(format!(
            "element {at} of the input {name:?} of {model} is no text: ONNX takes UTF-8 without zero bytes"
        ))),
    }
}

fn wanted(model: &ModelName, signature: &Signature, outputs: &[String]) -> Result<Vec<usize>, Fault> {
    if outputs.is_empty() {
        return Ok((0..signature.outputs.len()).collect());
    }
    let mut wanted = Vec::with_capacity(signature.outputs.len());
    for name in outputs {
        let Some(at) = signature.outputs.iter().position(|spec| spec.name == *name) else {
            let gives = list(&signature.outputs);
            return Err(invalid(format!(
                "{model} has no output {:?}: it gives {gives}",
                clipped(name, NAME_CHARS_MAX)
            )));
        };
        if wanted.contains(&at) {
            return Err(invalid(format!("the output {name:?} is asked for twice")));
        }
        wanted.push(at);
    }
    Ok(wanted)
}

fn invalid(text: String) -> Fault {
    Fault::new(FaultCode::InvalidParams, text)
}

/// The tensors as a person reads them: `a FP32 [-1], b FP32 [-1]`.
fn list(specs: &[TensorSpec]) -> String {
    let mut text = String::new();
    for (i, spec) in specs.iter().enumerate() {
        if LIST_CHARS_MAX < text.len() {
            let _infallible = write!(text, " and {} more", specs.len() - i);
            break;
        }
        let comma = if i == 0 { "" } else { ", " };
        let _infallible =
            write!(text, "{comma}{} {} {:?}", clipped(&spec.name, NAME_CHARS_MAX), spec.datatype, spec.shape);
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lineside_wire::bytes_tensor;

    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
    }

    fn camera() -> Signature {
        Signature {
            inputs: vec![
                spec("image", Datatype::Fp32, &[-1, 2, 2]),
                spec("lot", Datatype::Bytes, &[1]),
                spec("gain", Datatype::Int8, &[]),
            ],
            outputs: vec![spec("class", Datatype::Int64, &[-1]), spec("score", Datatype::Fp32, &[-1])],
        }
    }

    fn sent(name: &str, datatype: Datatype, dims: &[u64]) -> Tensor {
        let bytes = match datatype.width() {
            Some(width) => vec![0; width * usize::try_from(dims.iter().product::<u64>()).unwrap()],
            None => bytes_tensor([&b"L-4711"[..]]).unwrap(),
        };
        Tensor::new(name, datatype, dims.to_vec(), bytes.into()).unwrap()
    }

    fn request() -> Vec<Tensor> {
        vec![
            sent("gain", Datatype::Int8, &[]),
            sent("lot", Datatype::Bytes, &[1]),
            sent("image", Datatype::Fp32, &[3, 2, 2]),
        ]
    }

    fn checked(inputs: Vec<Tensor>, outputs: &[&str]) -> Result<Fitting, String> {
        let outputs: Vec<_> = outputs.iter().map(ToString::to_string).collect();
        check(&"camera".parse().unwrap(), &camera(), &ShapeLimits::default(), inputs, &outputs).map_err(
            |fault| {
                assert_eq!(fault.code, FaultCode::InvalidParams);
                fault.message
            },
        )
    }

    #[test]
    fn a_fitting_request_is_put_into_the_models_order() {
        let fitting = checked(request(), &[]).unwrap();
        let names: Vec<_> = fitting.inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!((names, fitting.wanted), (vec!["image", "lot", "gain"], vec![0, 1]));
        assert_eq!(checked(request(), &["score"]).unwrap().wanted, [1]);
    }

    #[test]
    fn every_misfit_is_told_in_the_words_of_both_sides() {
        let with = |change: &dyn Fn(&mut Vec<Tensor>)| {
            let mut inputs = request();
            change(&mut inputs);
            checked(inputs, &[]).unwrap_err()
        };
        let unknown = with(&|inputs| inputs.push(sent("depth", Datatype::Fp32, &[1])));
        assert!(
            unknown.contains("no input \"depth\"") && unknown.contains("image FP32 [-1, 2, 2]"),
            "{unknown}"
        );
        let missing = with(&|inputs| drop(inputs.pop()));
        assert!(missing.contains("\"image\" of camera is missing"), "{missing}");
        let datatype = with(&|inputs| inputs[2] = sent("image", Datatype::Fp64, &[3, 2, 2]));
        assert!(datatype.contains("is FP32, but FP64"), "{datatype}");
        let rank = with(&|inputs| inputs[2] = sent("image", Datatype::Fp32, &[2, 2]));
        assert!(rank.contains("[-1, 2, 2]") && rank.contains("[2, 2] was sent"), "{rank}");
        let dim = with(&|inputs| inputs[2] = sent("image", Datatype::Fp32, &[3, 2, 3]));
        assert!(dim.contains("[3, 2, 3]"), "{dim}");
        for text in [&[0xff_u8, 0xfe][..], b"a\0b"] {
            let bytes = Bytes::from(bytes_tensor([text]).unwrap());
            let lot = Tensor::new("lot", Datatype::Bytes, vec![1], bytes).unwrap();
            let refused = with(&|inputs| inputs[1] = lot.clone());
            assert!(refused.contains("UTF-8"), "{refused}");
        }
    }

    #[test]
    fn what_takes_no_bytes_on_the_wire_has_a_limit_all_the_same() {
        let with = |at: usize, tensor: Tensor| {
            let mut inputs = request();
            inputs[at] = tensor;
            let unlimited = ShapeLimits::default();
            check(&"camera".parse().unwrap(), &camera(), &unlimited, inputs, &[]).map(drop)
        };
        // The gain is of any rank, so that only this check stands between the shape and the engine.
        let gain =
            |dims: &[u64]| with(0, Tensor::new("gain", Datatype::Int8, dims.to_vec(), Bytes::new()).unwrap());
        assert_eq!(gain(&[1 << 26, 0]), Ok(()));
        assert_eq!(gain(&[(1 << 26) + 1, 0]).unwrap_err().code, FaultCode::InvalidParams);
        assert!(gain(&[0, 1 << 62]).unwrap_err().message.contains("\"gain\""));

        let lot = |texts: u64| {
            let bytes = vec![0; 4 * usize::try_from(texts).unwrap()];
            with(1, Tensor::new("lot", Datatype::Bytes, vec![texts], bytes.into()).unwrap()).unwrap_err()
        };
        assert!(lot(TEXTS_MAX).message.contains("has the shape [1]"));
        assert_eq!(lot(TEXTS_MAX + 1).code, FaultCode::LimitExceeded);
    }

    #[test]
    fn outputs_are_asked_for_by_name_and_once() {
        assert!(checked(request(), &["label"]).unwrap_err().contains("it gives class INT64 [-1]"));
        assert!(checked(request(), &["score", "score"]).unwrap_err().contains("twice"));
    }

    fn limited(shape: &[(&str, &[u64])], elements_max: Option<u64>) -> ShapeLimits {
        let max_shape = shape.iter().map(|(name, max)| ((*name).to_owned(), max.to_vec())).collect();
        let limits = ModelLimits { max_shape, elements_max, ..ModelLimits::default() };
        ShapeLimits::new(&limits, camera().inputs.iter())
    }

    #[test]
    fn an_input_beyond_the_configured_maximum_is_refused() {
        let sent_to = |limits: &ShapeLimits, images: u64, gain: &[u64]| {
            let mut inputs = request();
            inputs[0] = sent("gain", Datatype::Int8, gain);
            inputs[2] = sent("image", Datatype::Fp32, &[images, 2, 2]);
            check(&"camera".parse().unwrap(), &camera(), limits, inputs, &[]).map(drop)
        };
        let limits = limited(&[("image", &[4, 2, 2]), ("gain", &[3])], None);
        assert_eq!(sent_to(&limits, 4, &[3]), Ok(()));
        for (images, gain) in [(5, &[3][..]), (4, &[4]), (4, &[1, 1]), (4, &[])] {
            let fault = sent_to(&limits, images, gain).unwrap_err();
            assert_eq!(fault.code, FaultCode::LimitExceeded);
            assert!(fault.message.contains("at most"), "{fault}");
        }
        // 16 of the image, a text, a gain.
        assert_eq!(sent_to(&limited(&[], Some(18)), 4, &[]), Ok(()));
        assert_eq!(sent_to(&limited(&[], Some(17)), 4, &[]).unwrap_err().code, FaultCode::LimitExceeded);
    }
}
