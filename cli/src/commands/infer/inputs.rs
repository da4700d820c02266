//! Inputs from the command line: text and files become tensors of the types that the model declares.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use half::{bf16, f16};
use lineside_wire::{Datatype, ModelInfo, Tensor, TensorSpec, bytes_tensor};
use serde_json::Value;

use crate::exit::{Exit, Failure};

/// Largest file that is read as an input: what a call can carry.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Deepest nesting that is read; tensors have no more dimensions.
const DEPTH_MAX: usize = lineside_wire::RANK_MAX;

/// `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GivenInput {
    name: String,
    value: Given,
}

#[derive(Clone, Debug, PartialEq)]
enum Given {
    Json(Value),
    File(PathBuf),
}

impl GivenInput {
    /// Reads the text of the flag.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = named(text, "a=[1,2] or a=@FILE")?;
        let value = match value.strip_prefix('@') {
            Some(file) => Given::File(PathBuf::from(file)),
            None => Given::Json(serde_json::from_str(value).map_err(|error| {
                format!("the value of {name} is no JSON ({error}); for a text write {name}='\"text\"', for a file {name}=@FILE")
            })?),
        };
        Ok(Self { name, value })
    }
}

/// `NAME=1,16`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenShape {
    name: String,
    dims: Vec<u64>,
}

impl GivenShape {
    /// Reads the text of the flag.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, dims) = named(text, "a=1,16")?;
        let dims = dims.split(',').map(|dim| dim.trim().parse()).collect::<Result<_, _>>();
        let dims =
            dims.map_err(|_| format!("the shape of {name} is a list of whole numbers, such as 1,16"))?;
        Ok(Self { name, dims })
    }
}

fn named<'a>(text: &'a str, example: &str) -> Result<(String, &'a str), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value)),
        Some(_) | None => Err(format!("write NAME=VALUE, for example {example}")),
    }
}

/// The tensors of a call, in the order given.
pub(super) fn tensors(
    inputs: &[GivenInput],
    shapes: &[GivenShape],
    model: &ModelInfo,
) -> Result<Vec<Tensor>, Failure> {
    let takes = || super::takes(model);
    let usage = |what: String, why: &str| Failure::new(Exit::Usage, what, why, takes());
    if let Some(shape) = shapes.iter().find(|shape| inputs.iter().all(|input| input.name != shape.name)) {
        return Err(usage(format!("--shape {} belongs to no --input", shape.name), ""));
    }
    let missing: Vec<_> = model
        .inputs
        .iter()
        .filter(|spec| inputs.iter().all(|input| input.name != spec.name))
        .map(|spec| spec.name.as_str())
        .collect();
    if !missing.is_empty() {
        return Err(usage(format!("the input {} is missing", missing.join(", ")), ""));
    }
    let tensor = |input: &GivenInput| {
        let spec = model
            .inputs
            .iter()
            .find(|spec| spec.name == input.name)
            .ok_or_else(|| usage(format!("{} has no input {:?}", model.name, input.name), ""))?;
        let shape = shapes.iter().find(|shape| shape.name == input.name);
        tensor(&input.value, shape.map(|shape| &shape.dims[..]), spec)
            .map_err(|why| usage(format!("the input {} cannot be used", input.name), &why))
    };
    inputs.iter().map(tensor).collect()
}

fn tensor(given: &Given, shape: Option<&[u64]>, spec: &TensorSpec) -> Result<Tensor, String> {
    let json = match given {
        Given::Json(value) => value.clone(),
        Given::File(path) => {
            let bytes = read(path)?;
            if path.extension().is_none_or(|extension| extension != "json") {
                return raw(bytes, shape, spec);
            }
            serde_json::from_slice(&bytes)
                .map_err(|error| format!("{} is no JSON: {error}", path.display()))?
        }
    };
    let mut elements = Vec::new();
    let nesting = flatten(&json, &mut elements, 0)?;
    let bytes = encode(&elements, spec.datatype)?;
    let count = elements.len() as u64;
    let dims = match shape {
        Some(shape) => shape.to_vec(),
        None if nesting.len() == spec.shape.len() => nesting,
        None => fill(&spec.shape, count)?,
    };
    Tensor::new(&spec.name, spec.datatype, dims, bytes).map_err(|error| error.to_string())
}

fn read(path: &PathBuf) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let length = fs::metadata(path).map_err(failed)?.len();
    if FILE_BYTES_MAX < length {
        return Err(format!(
            "{} has {length} bytes; a call carries at most {FILE_BYTES_MAX}",
            path.display()
        ));
    }
    fs::read(path).map_err(failed)
}

/// Bytes as they are. For BYTES the file is the one element, such as an encoded image.
fn raw(bytes: Vec<u8>, shape: Option<&[u64]>, spec: &TensorSpec) -> Result<Tensor, String> {
    let (bytes, count) = match spec.datatype.width() {
        None => (bytes_tensor([&bytes[..]]).map_err(|error| error.to_string())?, 1),
        Some(width) => {
            if !bytes.len().is_multiple_of(width) {
                return Err(format!(
                    "{} bytes are no whole number of {} ({width} bytes each); a file is read as JSON if its name ends \
                     in .json",
                    bytes.len(),
                    spec.datatype
                ));
            }
            let count = (bytes.len() / width) as u64;
            (bytes, count)
        }
    };
    let dims = shape.map_or_else(|| fill(&spec.shape, count), |shape| Ok(shape.to_vec()))?;
    Tensor::new(&spec.name, spec.datatype, dims, bytes.into()).map_err(|error| error.to_string())
}

/// Gathers the elements row by row; gives back the dimensions, which every row must share.
fn flatten<'a>(value: &'a Value, elements: &mut Vec<&'a Value>, depth: usize) -> Result<Vec<u64>, String> {
    let Value::Array(rows) = value else {
        elements.push(value);
        return Ok(Vec::new());
    };
    if depth == DEPTH_MAX {
        return Err(format!("arrays are nested more than {DEPTH_MAX} deep"));
    }
    let mut inner: Option<Vec<u64>> = None;
    for row in rows {
        let dims = flatten(row, elements, depth + 1)?;
        match &inner {
            Some(before) if *before != dims => return Err("its rows are not of one length".to_owned()),
            Some(_) => {}
            None => inner = Some(dims),
        }
    }
    let mut dims = vec![rows.len() as u64];
    dims.extend(inner.unwrap_or_default());
    Ok(dims)
}

/// The model's shape with this many elements: the first dimension that varies takes what the others leave.
fn fill(declared: &[i64], count: u64) -> Result<Vec<u64>, String> {
    let known = declared.iter().filter_map(|dim| u64::try_from(*dim).ok());
    let fixed = known.fold(1_u64, u64::saturating_mul);
    let varies = declared.iter().any(|dim| *dim < 0);
    let misfit =
        || format!("{count} elements do not fill {declared:?}; give the shape with --shape NAME=DIMS");
    let mut left = match (fixed, varies) {
        (0, _) => return Err(misfit()),
        (fixed, true) if count.is_multiple_of(fixed) => count / fixed,
        (fixed, false) if count == fixed => 1,
        _ => return Err(misfit()),
    };
    let dim = |dim: &i64| u64::try_from(*dim).unwrap_or_else(|_| std::mem::replace(&mut left, 1));
    Ok(declared.iter().map(dim).collect())
}

/// Elements as the datatype lies in memory: little-endian.
fn encode(elements: &[&Value], datatype: Datatype) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    if datatype == Datatype::Bytes {
        let texts: Result<Vec<_>, _> = elements
            .iter()
            .map(|value| value.as_str().map(str::as_bytes).ok_or_else(|| wrong(value, datatype)))
            .collect();
        return bytes_tensor(texts?).map(Bytes::from).map_err(|error| error.to_string());
    }
    for value in elements {
        number(value, datatype, &mut bytes).ok_or_else(|| wrong(value, datatype))?;
    }
    Ok(bytes.into())
}

fn wrong(value: &Value, datatype: Datatype) -> String {
    let shown: String = value.to_string().chars().take(40).collect();
    format!("{shown} is no {datatype}")
}

/// Appends one number; `None` when it is none of this type, or out of its range.
fn number(value: &Value, datatype: Datatype, bytes: &mut Vec<u8>) -> Option<()> {
    macro_rules! whole {
        ($type:ty, $read:ident) => {
            bytes.extend_from_slice(&<$type>::try_from(value.$read()?).ok()?.to_le_bytes())
        };
    }
    // JSON has no infinities; what becomes one was out of the type's range.
    let float = || value.as_f64();
    match datatype {
        Datatype::Bool => bytes.push(match value {
            Value::Bool(flag) => u8::from(*flag),
            other => u8::try_from(other.as_u64().filter(|number| *number <= 1)?).ok()?,
        }),
        Datatype::Uint8 => whole!(u8, as_u64),
        Datatype::Uint16 => whole!(u16, as_u64),
        Datatype::Uint32 => whole!(u32, as_u64),
        Datatype::Uint64 => whole!(u64, as_u64),
        Datatype::Int8 => whole!(i8, as_i64),
        Datatype::Int16 => whole!(i16, as_i64),
        Datatype::Int32 => whole!(i32, as_i64),
        Datatype::Int64 => whole!(i64, as_i64),
        Datatype::Fp16 => {
            let number = Some(f16::from_f64(float()?)).filter(|number| number.is_finite())?;
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Datatype::Bf16 => {
            let number = Some(bf16::from_f64(float()?)).filter(|number| number.is_finite())?;
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Datatype::Fp32 => {
            let number = Some(float()? as f32).filter(|number| number.is_finite())?;
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Datatype::Fp64 => bytes.extend_from_slice(&float()?.to_le_bytes()),
        Datatype::Bytes => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use lineside_wire::ModelState;

    use super::*;
    use crate::commands::models::tests::model;

    fn spec(datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: "x".to_owned(), datatype, shape: shape.to_vec() }
    }

    fn read_as(json: &str, datatype: Datatype, shape: &[i64]) -> Result<(Vec<u64>, Vec<u8>), String> {
        let given = GivenInput::parse(&format!("x={json}"))?;
        let tensor = tensor(&given.value, None, &spec(datatype, shape))?;
        Ok((tensor.shape.dims().to_vec(), tensor.bytes.to_vec()))
    }

    #[test]
    fn nested_arrays_bring_their_shape_and_flat_ones_take_the_models() {
        let floats =
            |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
        let four = floats(&[1.0, 2.0, 3.0, 4.5]);
        for json in ["[[1,2],[3,4.5]]", "[1,2,3,4.5]"] {
            assert_eq!(read_as(json, Datatype::Fp32, &[-1, 2]), Ok((vec![2, 2], four.clone())));
        }
        assert_eq!(read_as("[1,2,3,4.5]", Datatype::Fp32, &[-1, -1]).unwrap().0, [4, 1]);
        assert_eq!(read_as("[1,2,3,4.5]", Datatype::Fp32, &[1, 2, 2]).unwrap().0, [1, 2, 2]);
        assert_eq!(read_as("7", Datatype::Fp32, &[]), Ok((vec![], floats(&[7.0]))));
        assert_eq!(read_as("7", Datatype::Int64, &[-1]), Ok((vec![1], vec![7, 0, 0, 0, 0, 0, 0, 0])));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |json, datatype, shape: &[i64]| read_as(json, datatype, shape).unwrap_err();
        assert!(error("[1,2,3]", Datatype::Fp32, &[-1, 2]).contains("--shape"));
        assert_eq!(error("[[1,2],[3]]", Datatype::Fp32, &[-1, 2]), "its rows are not of one length");
        assert_eq!(error("[1,256]", Datatype::Uint8, &[-1]), "256 is no UINT8");
        assert_eq!(error("[1.5]", Datatype::Int32, &[-1]), "1.5 is no INT32");
        assert_eq!(error("[-1]", Datatype::Uint64, &[-1]), "-1 is no UINT64");
        assert!(error("[1e39]", Datatype::Fp32, &[-1]).ends_with("is no FP32"));
        assert_eq!(error("[70000]", Datatype::Fp16, &[-1]), "70000 is no FP16");
        assert_eq!(error("[2]", Datatype::Bool, &[-1]), "2 is no BOOL");
        assert_eq!(error("[1]", Datatype::Bytes, &[-1]), "1 is no BYTES");
        assert!(error("abc", Datatype::Bytes, &[-1]).contains("no JSON"));
        assert!(error("[[[[[[[[[1]]]]]]]]]", Datatype::Fp32, &[-1]).contains("nested"));
    }

    #[test]
    fn texts_and_truth_values_are_inputs_too() {
        assert_eq!(read_as(r#"["ok"]"#, Datatype::Bytes, &[-1]), Ok((vec![1], vec![2, 0, 0, 0, b'o', b'k'])));
        assert_eq!(read_as("[true,0,1]", Datatype::Bool, &[-1]), Ok((vec![3], vec![1, 0, 1])));
    }

    #[test]
    fn a_file_is_json_by_its_name_and_else_the_tensors_bytes() {
        let home = tempfile::tempdir().unwrap();
        let (json, bin) = (home.path().join("x.json"), home.path().join("x.f32"));
        fs::write(&json, "[1, 2]").unwrap();
        fs::write(&bin, [0; 8]).unwrap();
        let float = spec(Datatype::Fp32, &[-1, 2]);
        assert_eq!(tensor(&Given::File(json), None, &float).unwrap().shape.dims(), [1, 2]);
        let bin = Given::File(bin);
        assert_eq!(tensor(&bin, None, &float).unwrap().shape.dims(), [1, 2]);
        assert_eq!(tensor(&bin, Some(&[2, 1]), &float).unwrap().shape.dims(), [2, 1]);
        assert!(tensor(&bin, Some(&[3]), &float).is_err());
        // The file is the one text.
        assert_eq!(tensor(&bin, None, &spec(Datatype::Bytes, &[1])).unwrap().bytes.len(), 12);
        let away = Given::File(home.path().join("away"));
        assert!(tensor(&away, None, &float).unwrap_err().contains("away"));
    }

    #[test]
    fn a_missing_or_unknown_input_is_told_with_what_the_model_takes() {
        let add = model("add", ModelState::Ready);
        let given = |text: &str| GivenInput::parse(text).unwrap();
        let told =
            |inputs: &[GivenInput], shapes: &[GivenShape]| tensors(inputs, shapes, &add).unwrap_err().text();
        let text = told(&[given("a=[1,2]")], &[]);
        assert!(
            text.contains("the input b is missing") && text.contains("a:FP32[-1,2] b:FP32[-1,2]"),
            "{text}"
        );
        let both = [given("a=[1,2]"), given("b=[1,2]"), given("c=[1,2]")];
        assert!(told(&both, &[]).contains("no input \"c\""));
        assert!(told(&both[..2], &[GivenShape::parse("c=1").unwrap()]).contains("--shape c"));
        assert_eq!(tensors(&both[..2], &[GivenShape::parse("a=1,2").unwrap()], &add).unwrap().len(), 2);
        assert!(GivenInput::parse("[1]").is_err() && GivenShape::parse("a=1,x").is_err());
    }
}
