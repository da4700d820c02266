//! The inputs of a request, each read as it comes: JSON straight into bytes, binary tensors as slices of the body.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use lineside_wire::{
    Datatype, Fault, FaultCode, Limits, PayloadBuilder, RANK_MAX, Shape, TENSORS_MAX, TensorHeader,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{check_name, cursor::Cursor, excerpt, invalid, json_data};
use crate::bounded::{List, Named, Text};

/// With padding or without: both are in use.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The inputs so far.
pub(super) struct Inputs {
    headers: Vec<TensorHeader>,
    payload: PayloadBuilder,
    /// The binary tensors that no input has taken yet.
    binary: Bytes,
    /// Bytes that were made out of JSON.
    made: usize,
}

/// All inputs.
pub(super) struct Read {
    pub(super) headers: Vec<TensorHeader>,
    pub(super) payload: PayloadBuilder,
    /// Bytes of the payload that were made out of JSON, and the padding.
    pub(super) made: usize,
}

/// One input while it is read.
#[derive(Default)]
struct Draft<'a> {
    name: Option<String>,
    shape: Option<Shape>,
    datatype: Option<Datatype>,
    base64: bool,
    parameters: Option<InputParameters>,
    data: Option<Data<'a>>,
}

enum Data<'a> {
    /// Read, because shape and type came before it: nearly always.
    Elements(Vec<u8>),
    Unread(&'a RawValue),
}

#[derive(Default, Deserialize)]
struct InputParameters {
    #[serde(default)]
    binary_data_size: Option<u64>,
    #[serde(default)]
    shared_memory_region: Option<serde::de::IgnoredAny>,
}

impl Inputs {
    /// None yet; binary tensors are taken from `binary`, in the order of the inputs.
    pub(super) fn new(binary: Bytes) -> Self {
        Self { headers: Vec::new(), payload: PayloadBuilder::new(), binary, made: 0 }
    }

    /// Reads the next input.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        if self.headers.len() == TENSORS_MAX {
            return Err(invalid(format!("there are more than {TENSORS_MAX} inputs")));
        }
        let mut draft = Draft::default();
        cursor.object(|cursor, member| self.member(&mut draft, member, cursor))?;
        let name = draft.name.take().ok_or_else(|| self.about(&draft, "missing field `name`"))?;
        check_name(&name)?;
        if self.headers.iter().any(|header| header.name == name) {
            return Err(invalid(format!("the input {:?} is there twice", excerpt(&name))));
        }
        draft.name = Some(name);
        let (shape, datatype, bytes) = self.bytes(&mut draft)?;
        shape.check(datatype, &bytes).map_err(|error| self.about(&draft, &error.to_string()))?;
        let (shape, byte_length) = (shape.dims().to_vec(), bytes.len() as u64);
        let name = draft.name.unwrap_or_default();
        self.headers.push(TensorHeader { name, datatype, shape, byte_length });
        self.payload.push(bytes);
        Ok(())
    }

    /// Makes sure that every binary tensor belongs to an input.
    pub(super) fn finish(self) -> Result<Read, Fault> {
        match self.binary.len() {
            0 => Ok(Read { headers: self.headers, payload: self.payload, made: self.made }),
            left => Err(invalid(format!(
                "{left} bytes follow the last binary tensor: the sizes in binary_data_size must add up to the body's \
                 length without its JSON"
            ))),
        }
    }

    fn member<'a>(&self, draft: &mut Draft<'a>, member: &str, cursor: &mut Cursor<'a>) -> Result<(), Fault> {
        let twice = match member {
            "name" => draft.name.replace(cursor.value()?).is_some(),
            "shape" => {
                let dims: List<i64, RANK_MAX> = cursor.value()?;
                let shape = dims_of(&dims.0)
                    .and_then(|dims| Shape::new(dims).map_err(|error| error.to_string()))
                    .map_err(|problem| self.about(draft, &problem))?;
                draft.shape.replace(shape).is_some()
            }
            "datatype" => {
                let datatype = cursor.value::<Text<'_>>()?.0.parse();
                let datatype = datatype
                    .map_err(|error: lineside_wire::InvalidTensor| self.about(draft, &error.to_string()))?;
                draft.datatype.replace(datatype).is_some()
            }
            "encoding" => {
                let twice = draft.base64;
                let encoding: Option<Text<'_>> = cursor.value()?;
                let encoding = encoding.as_ref().map(|text| &*text.0);
                draft.base64 = is_base64(encoding).map_err(|problem| self.about(draft, &problem))?;
                twice
            }
            "parameters" => {
                let parameters: Option<Named<InputParameters>> = cursor.value()?;
                draft.parameters.replace(parameters.unwrap_or_default().0).is_some()
            }
            "data" => {
                let twice = draft.data.is_some();
                draft.data = self.data(draft, cursor)?;
                twice
            }
            _ => {
                cursor.value::<serde::de::IgnoredAny>()?;
                false
            }
        };
        match twice {
            true => Err(self.about(draft, &format!("duplicate field `{member}`"))),
            false => Ok(()),
        }
    }

    /// Reads the data, or passes over it where it is too early to know what it is.
    fn data<'a>(&self, draft: &Draft<'a>, cursor: &mut Cursor<'a>) -> Result<Option<Data<'a>>, Fault> {
        match (&draft.shape, draft.datatype, cursor.next()) {
            (Some(shape), Some(datatype), Some(b'[')) if !draft.base64 => {
                let (bytes, length) = self.elements(draft, shape, datatype, cursor.rest())?;
                cursor.skip(length);
                Ok(Some(Data::Elements(bytes)))
            }
            _ => Ok(cursor.value::<Option<&RawValue>>()?.map(Data::Unread)),
        }
    }

    fn elements(
        &self,
        draft: &Draft<'_>,
        shape: &Shape,
        datatype: Datatype,
        text: &[u8],
    ) -> Result<json_data::Parsed, Fault> {
        // A number in JSON can be four times shorter than its bytes, so the body's limit is not enough.
        let needed = shape.byte_length(datatype).map_err(|error| self.about(draft, &error.to_string()))?;
        self.has_room(needed.unwrap_or(0))?;
        json_data::parse(text, datatype, shape.elements()).map_err(|problem| self.about(draft, &problem))
    }

    fn has_room(&self, more: u64) -> Result<(), Fault> {
        let max = u64::from(Limits::default().payload_bytes_max);
        if max < more.saturating_add(self.payload.length() as u64) {
            let text = format!("the inputs take more than {max} bytes together");
            return Err(Fault::new(FaultCode::LimitExceeded, text));
        }
        Ok(())
    }

    /// The bytes of an input whose members are all known.
    fn bytes(&mut self, draft: &mut Draft<'_>) -> Result<(Shape, Datatype, Bytes), Fault> {
        let parameters = draft.parameters.take().unwrap_or_default();
        if parameters.shared_memory_region.is_some() {
            return Err(self.about(draft, "shared memory is not supported: send the tensor in the body"));
        }
        let missing = |field| self.about(draft, &format!("missing field `{field}`"));
        let datatype = draft.datatype.ok_or_else(|| missing("datatype"))?;
        let shape = draft.shape.clone().ok_or_else(|| missing("shape"))?;
        let bytes = match (parameters.binary_data_size, draft.data.take()) {
            (Some(_), Some(_)) => {
                return Err(self.about(draft, "it has both data and binary_data_size: send one"));
            }
            (None, None) => return Err(self.about(draft, "it has neither data nor binary_data_size")),
            (Some(size), None) => return Ok((shape, datatype, self.binary(draft, size)?)),
            (None, Some(Data::Elements(_))) if draft.base64 => {
                return Err(self.about(draft, "data is no base64: it is no text"));
            }
            (None, Some(Data::Elements(bytes))) => bytes,
            (None, Some(Data::Unread(text))) if draft.base64 => self.base64(draft, text)?,
            (None, Some(Data::Unread(text))) => {
                self.elements(draft, &shape, datatype, text.get().as_bytes())?.0
            }
        };
        self.made += bytes.len();
        Ok((shape, datatype, bytes.into()))
    }

    /// The next binary tensor.
    fn binary(&mut self, draft: &Draft<'_>, size: u64) -> Result<Bytes, Fault> {
        match usize::try_from(size).ok().filter(|size| *size <= self.binary.len()) {
            Some(size) => Ok(self.binary.split_to(size)),
            None => {
                let text = format!(
                    "binary_data_size is {size}, but {} bytes are left behind the JSON (their start is said by \
                     Inference-Header-Content-Length)",
                    self.binary.len()
                );
                Err(self.about(draft, &text))
            }
        }
    }

    fn base64(&self, draft: &Draft<'_>, text: &RawValue) -> Result<Vec<u8>, Fault> {
        let wrong = |problem: &str| {
            let text = format!("data is no base64 ({problem}): send text out of A-Z, a-z, 0-9, + and /");
            self.about(draft, &text)
        };
        let text: Text<'_> = serde_json::from_str(text.get()).map_err(|_| wrong("it is no text"))?;
        self.has_room(text.0.len() as u64 / 4 * 3)?;
        BASE64.decode(text.0.as_bytes()).map_err(|error| wrong(&error.to_string()))
    }

    /// What is wrong with an input: by its name where that is known, else by its place.
    fn about(&self, draft: &Draft<'_>, problem: &str) -> Fault {
        invalid(match &draft.name {
            Some(name) => format!("input {:?}: {problem}", excerpt(name)),
            None => format!("input {}: {problem}", self.headers.len()),
        })
    }
}

/// Whether an encoding is base64; without one it is not.
pub(super) fn is_base64(encoding: Option<&str>) -> Result<bool, String> {
    match encoding {
        None => Ok(false),
        Some("base64") => Ok(true),
        Some(other) => {
            Err(format!("the encoding {:?} is not known: use \"base64\", or none", excerpt(other)))
        }
    }
}

/// A shape as it was sent, when no dimension of it is open.
pub(crate) fn dims_of(shape: &[i64]) -> Result<Vec<u64>, String> {
    if RANK_MAX < shape.len() {
        return Err(format!("a shape of more than {RANK_MAX} dimensions"));
    }
    let dim = |dim: &i64| {
        u64::try_from(*dim)
            .map_err(|_| format!("the shape {shape:?} has a negative dimension: a request's shape is exact"))
    };
    shape.iter().map(dim).collect()
}
