//! One tensor of a file: what it says it holds, and what it brings.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
};

use super::{
    external::External,
    reader::{Reader, Span, Stop, Value},
};

/// Longest name of a tensor, a file, an operator or a domain, in bytes: exporters that put a whole path of modules into
/// names stay below a tenth.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// Most dimensions of a tensor. ONNX Runtime's own operators end at eight.
const DIMS_MAX: usize = 64;

/// Most numbers that a small tensor may have for them to be looked at, as a shape.
pub(super) const NUMBERS_MAX: usize = 16;

/// Longest name in a message, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// ONNX's number for whole numbers of 64 bits, which shapes are of.
pub(super) const INT64: u64 = 7;

/// ONNX's number for texts.
const STRING: u64 = 8;

/// A name that is only compared.
pub(super) fn named(name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// A tensor, without its elements.
#[derive(Debug, Default)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// What kind of elements, by ONNX's number.
    pub(super) kind: u64,
    dims: Vec<i64>,
    /// Bytes of `raw_data`, and the first of them.
    raw: u64,
    raw_head: Vec<u8>,
    /// Elements in the fields of their own types, and the first of the whole numbers.
    values: u64,
    numbers: Vec<i64>,
    /// Bytes of those fields.
    value_bytes: u64,
    /// What is said about a file, by key.
    outside: Vec<(String, String)>,
}

impl Tensor {
    /// Reads a `TensorProto`.
    pub(super) fn read<R: Read>(reader: &mut Reader<R>, span: Span) -> Result<Self, Stop> {
        let mut tensor = Self::default();
        while let Some((number, value)) = reader.field(span)? {
            tensor.field(reader, number, value)?;
        }
        Ok(tensor)
    }

    fn field<R: Read>(&mut self, reader: &mut Reader<R>, number: u32, value: Value) -> Result<(), Stop> {
        match (number, value) {
            (1, Value::Number(dim)) => self.dim(dim.cast_signed())?,
            (1, Value::Span(span)) => {
                let (count, dims) = reader.numbers(span, DIMS_MAX)?;
                dims.into_iter().try_for_each(|dim| self.dim(dim))?;
                if (DIMS_MAX as u64) < count {
                    return Err(self.rank());
                }
            }
            // Of a longer number, protobuf's readers take the lower half.
            (2, Value::Number(kind)) => self.kind = kind & u64::from(u32::MAX),
            (8, Value::Span(span)) => {
                self.name = reader.text(span, NAME_BYTES_MAX, "the name of a tensor")?;
            }
            (9, Value::Span(span)) => {
                self.raw = reader.length(span);
                self.raw_head = reader.head(span, NUMBERS_MAX * 8)?;
            }
            // Of texts, each is a field of its own.
            (6, Value::Span(span)) => {
                self.values += 1;
                self.value_bytes += reader.length(span);
                reader.pass(value)?;
            }
            (4 | 10, Value::Span(span)) => {
                let bytes = reader.length(span);
                self.values += bytes / if number == 4 { 4 } else { 8 };
                self.value_bytes += bytes;
                reader.pass(value)?;
            }
            (5 | 7 | 11, Value::Span(span)) => {
                self.value_bytes += reader.length(span);
                let (count, first) = reader.numbers(span, NUMBERS_MAX)?;
                self.values += count;
                first.into_iter().for_each(|number| self.number(number));
            }
            (5 | 7 | 11, Value::Number(value)) => {
                (self.values, self.value_bytes) = (self.values + 1, self.value_bytes + 8);
                self.number(value.cast_signed());
            }
            (4 | 10, Value::Fixed) => {
                (self.values, self.value_bytes) = (self.values + 1, self.value_bytes + 8);
            }
            (13, Value::Span(span)) => {
                let entry = entry(reader, span)?;
                if self.outside.len() == NUMBERS_MAX {
                    return Err(Stop::Rule(format!(
                        "the tensor {} says more than {NUMBERS_MAX} things about its file: export the model again",
                        self.shown()
                    )));
                }
                self.outside.push(entry);
            }
            (_, value) => reader.pass(value)?,
        }
        Ok(())
    }

    fn dim(&mut self, dim: i64) -> Result<(), Stop> {
        if dim < 0 {
            return Err(Stop::Rule(format!(
                "the tensor {} has the dimension {dim}: the file is damaged, export the model again",
                self.shown()
            )));
        }
        if DIMS_MAX <= self.dims.len() {
            return Err(self.rank());
        }
        self.dims.push(dim);
        Ok(())
    }

    fn rank(&self) -> Stop {
        Stop::Rule(format!("the tensor {} has more than {DIMS_MAX} dimensions", self.shown()))
    }

    fn number(&mut self, number: i64) {
        if self.numbers.len() < NUMBERS_MAX {
            self.numbers.push(number);
        }
    }

    /// Its name as a message shows it.
    pub(super) fn shown(&self) -> String {
        shown(&self.name)
    }

    /// How many elements it says it has.
    fn elements(&self) -> u128 {
        self.dims.iter().fold(1, |product: u128, dim| product.saturating_mul(u128::from(dim.unsigned_abs())))
    }

    /// Bits of an element. 0: of none of ONNX's types, which ONNX Runtime refuses without making one.
    pub(super) fn bits(&self) -> u64 {
        match self.kind {
            2 | 3 | 9 | 17..=20 | 24 => 8,
            4 | 5 | 10 | 16 => 16,
            1 | 6 | 12 => 32,
            INT64 | 11 | 13 | 14 => 64,
            15 => 128,
            21..=23 => 4,
            25 | 26 => 2,
            _ => 0,
        }
    }

    /// Bytes of weights in the file.
    pub(super) fn bytes(&self) -> u64 {
        self.raw.saturating_add(self.value_bytes)
    }

    /// Looks whether it brings what it says it has: ONNX Runtime takes memory for what is said.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check(&self) -> Result<Option<External>, Stop> {
        let (elements, bits) = (self.elements(), u128::from(self.bits()));
        if !self.outside.is_empty() {
            let needs = elements.saturating_mul(bits).div_ceil(8);
            return self.external(u64::try_from(needs).unwrap_or(u64::MAX)).map(Some);
        }
        let per_value = if 0 < bits && bits < 8 { 8 / bits } else { 1 };
        let brought = match bits {
            _ if self.kind == STRING => u128::from(self.values),
            0 => return Ok(None),
            bits if 0 < self.raw => u128::from(self.raw) * 8 / bits,
            _ => u128::from(self.values) * per_value,
        };
        if brought < elements {
            return Err(Stop::Rule(format!(
                "the tensor {} says that it has {elements} elements and brings {brought}: the file is damaged, or made to \
                 take all memory; export the model again",
                self.shown()
            )));
        }
        Ok(None)
    }

    fn external(&self, needs: u64) -> Result<External, Stop> {
        let rule =
            |text: String| Stop::Rule(format!("the tensor {} {text}: export the model again", self.shown()));
        let one = |key: &str| {
            let mut values = self.outside.iter().filter(|(of, _)| of == key).map(|(_, value)| value);
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(rule(format!("names the {key} of its weights twice"))),
                (value, None) => Ok(value),
            }
        };
        let number = |key: &str| {
            let Some(text) = one(key)? else { return Ok(None) };
            match text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>()) {
                Some(Ok(number)) => Ok(Some(number)),
                _ => Err(rule(format!("has {:?} for the {key} of its weights", shown(text)))),
            }
        };
        let location = one("location")?.ok_or_else(|| rule("names no file for its weights".to_owned()))?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let bytes = needs.max(length.unwrap_or(0));
        Ok(External { tensor: self.shown(), location: location.clone(), offset, bytes })
    }

    /// Its elements, if it is a small one of whole numbers: a shape, perhaps.
    pub(super) fn small(&self) -> Option<Vec<i64>> {
        let elements = usize::try_from(self.elements()).ok().filter(|elements| *elements <= NUMBERS_MAX)?;
        if self.kind != INT64 {
            return None;
        }
        let raw: Vec<i64> =
            self.raw_head.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let numbers = if 0 < self.raw { raw } else { self.numbers.clone() };
        numbers.get(..elements).map(<[i64]>::to_vec)
    }
}

/// A name as a message shows it.
pub(super) fn shown(name: &str) -> String {
    format!("{:?}", crate::engine::clipped(name, SHOWN_CHARS_MAX))
}

/// Reads a `StringStringEntryProto`.
fn entry<R: Read>(reader: &mut Reader<R>, span: Span) -> Result<(String, String), Stop> {
    let (mut key, mut text) = (String::new(), String::new());
    while let Some((number, value)) = reader.field(span)? {
        match (number, value) {
            (1, Value::Span(span)) => {
                key = reader.text(span, NAME_BYTES_MAX, "a key about a tensor's file")?;
            }
            (2, Value::Span(span)) => {
                text = reader.text(span, NAME_BYTES_MAX, "the path of a tensor's file")?;
            }
            (_, value) => reader.pass(value)?,
        }
    }
    Ok((key, text))
}
