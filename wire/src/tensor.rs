//! Tensors: datatypes, shapes, and arithmetic on them that cannot overflow.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Most dimensions of a tensor. ONNX models in the field stop at 6; the bound keeps shape checks constant.
pub const RANK_MAX: usize = 8;

/// The element type of a tensor: every datatype of the Open Inference Protocol, and Triton's BF16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// Elements of varying length, each led by its length as four little-endian bytes.
    Bytes,
}

impl Datatype {
    /// Every datatype.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// The protocol's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes of one element; `None` for [`Datatype::Bytes`], whose elements vary.
    #[must_use]
    pub const fn width(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Datatype {
    type Err = InvalidTensor;

    fn from_str(text: &str) -> Result<Self, InvalidTensor> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.as_str() == text)
            .ok_or_else(|| InvalidTensor::UnknownDatatype(text.chars().take(32).collect()))
    }
}

impl Serialize for Datatype {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Datatype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Why bytes and shape do not make a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTensor {
    /// The datatype has no such name.
    #[error(
        "unknown datatype {0:?}: use BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64 or BYTES"
    )]
    UnknownDatatype(String),
    /// Too many dimensions.
    #[error("a shape of {rank} dimensions: at most {RANK_MAX} are allowed")]
    RankTooHigh {
        /// Dimensions given.
        rank: usize,
    },
    /// The product of the dimensions does not fit.
    #[error("the shape {shape:?} holds more elements than can be counted")]
    TooManyElements {
        /// The shape given.
        shape: Vec<u64>,
    },
    /// Shape and bytes disagree.
    #[error("the shape {shape:?} of {datatype} needs {expected} bytes, but {actual} were given")]
    WrongByteLength {
        /// The element type.
        datatype: Datatype,
        /// The shape given.
        shape: Vec<u64>,
        /// Bytes that shape and type need.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// A BYTES tensor whose elements do not fill its bytes.
    #[error("a BYTES tensor of {expected} elements: {problem}")]
    BrokenBytes {
        /// Elements the shape promises.
        expected: u64,
        /// What is wrong with the bytes.
        problem: &'static str,
    },
    /// A byte of a BOOL tensor that is neither 0 nor 1.
    #[error("byte {at} of a BOOL tensor is {value}: use 0 or 1")]
    BrokenBool {
        /// Index of the byte.
        at: usize,
        /// Its value.
        value: u8,
    },
}

/// The dimensions of a tensor: rank and element count are known to be within limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    dims: Vec<u64>,
    elements: u64,
}

impl Shape {
    /// A shape with these dimensions. No dimensions is a scalar: one element.
    ///
    /// # Errors
    /// More than [`RANK_MAX`] dimensions, or more elements than an `i64` counts (ONNX's own limit).
    pub fn new(dims: Vec<u64>) -> Result<Self, InvalidTensor> {
        if RANK_MAX < dims.len() {
            return Err(InvalidTensor::RankTooHigh { rank: dims.len() });
        }
        // Checked dimension by dimension, zeros left out, so that a zero cannot hide a product that overflows.
        let nonzero =
            dims.iter().filter(|d| **d != 0).try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        match nonzero {
            Some(product) if i64::try_from(product).is_ok() => {
                let elements = if dims.contains(&0) { 0 } else { product };
                Ok(Self { dims, elements })
            }
            _ => Err(InvalidTensor::TooManyElements { shape: dims }),
        }
    }

    /// The dimensions, outermost first.
    #[must_use]
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// How many elements the shape holds.
    #[must_use]
    pub const fn elements(&self) -> u64 {
        self.elements
    }

    /// Bytes of a tensor of this shape; `None` for BYTES.
    ///
    /// # Errors
    /// The count of bytes does not fit 64 bits.
    pub fn byte_length(&self, datatype: Datatype) -> Result<Option<u64>, InvalidTensor> {
        let Some(width) = datatype.width() else { return Ok(None) };
        self.elements
            .checked_mul(width as u64)
            .map(Some)
            .ok_or_else(|| InvalidTensor::TooManyElements { shape: self.dims.clone() })
    }

    /// Checks that `bytes` are a tensor of this shape and type.
    ///
    /// # Errors
    /// The length differs from what the shape needs, a BOOL is neither 0 nor 1, or BYTES elements do not fit.
    pub fn check(&self, datatype: Datatype, bytes: &[u8]) -> Result<(), InvalidTensor> {
        match self.byte_length(datatype)? {
            None => each_element(bytes, self.elements, |_| ()),
            Some(expected) if expected != bytes.len() as u64 => Err(InvalidTensor::WrongByteLength {
                datatype,
                shape: self.dims.clone(),
                expected,
                actual: bytes.len() as u64,
            }),
            Some(_) if datatype == Datatype::Bool => match bytes.iter().position(|byte| 1 < *byte) {
                Some(at) => Err(InvalidTensor::BrokenBool { at, value: bytes[at] }),
                None => Ok(()),
            },
            Some(_) => Ok(()),
        }
    }
}

/// The elements of a BYTES tensor, borrowed.
///
/// # Errors
/// Fewer or more elements than `expected`, or a length that points past the end.
pub fn bytes_elements(bytes: &[u8], expected: u64) -> Result<Vec<&[u8]>, InvalidTensor> {
    let mut elements = Vec::new();
    each_element(bytes, expected, |element| elements.push(element))?;
    Ok(elements)
}

/// Shows each element of a BYTES tensor to `see`, and checks on the way that they are `expected` and fill the bytes.
///
/// Without memory of its own: a list of empty elements would take four times the bytes that hold them.
fn each_element<'a>(
    mut bytes: &'a [u8],
    expected: u64,
    mut see: impl FnMut(&'a [u8]),
) -> Result<(), InvalidTensor> {
    let broken = |problem| InvalidTensor::BrokenBytes { expected, problem };
    // Every element takes at least its four length bytes, so this bounds the work by the input.
    if (bytes.len() as u64) / 4 < expected {
        return Err(broken("there are fewer bytes than the lengths alone would take"));
    }
    for _ in 0..expected {
        let (length, rest) =
            bytes.split_first_chunk::<4>().ok_or_else(|| broken("the bytes end before the last element"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if rest.len() < length {
            return Err(broken("an element is longer than the bytes that are left"));
        }
        let (element, rest) = rest.split_at(length);
        see(element);
        bytes = rest;
    }
    match bytes.is_empty() {
        true => Ok(()),
        false => Err(broken("bytes are left after the last element")),
    }
}

/// Writes elements as a BYTES tensor.
///
/// # Errors
/// An element is longer than the 32-bit length can say.
pub fn bytes_tensor<'a>(elements: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, InvalidTensor> {
    let mut bytes = Vec::new();
    for element in elements {
        let length = u32::try_from(element.len()).map_err(|_| InvalidTensor::BrokenBytes {
            expected: 1,
            problem: "an element is longer than 4 GiB",
        })?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(element);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_zero_does_not_hide_an_overflow() {
        assert!(Shape::new(vec![0, u64::MAX, u64::MAX]).is_err());
        assert!(Shape::new(vec![1 << 32, 1 << 31]).is_err());
        assert_eq!(Shape::new(vec![0, 5]).map(|s| s.elements()), Ok(0));
        assert_eq!(Shape::new(vec![]).map(|s| s.elements()), Ok(1));
        assert!(Shape::new(vec![1; RANK_MAX + 1]).is_err());
    }

    #[test]
    fn a_shape_of_huge_bytes_is_an_error_and_no_allocation() {
        let shape = Shape::new(vec![1 << 62]).unwrap();
        assert!(shape.byte_length(Datatype::Fp64).is_err());
        assert!(shape.check(Datatype::Bytes, &[0; 64]).is_err());
    }

    #[test]
    fn bytes_and_shape_must_agree() {
        let shape = Shape::new(vec![2, 3]).unwrap();
        assert!(shape.check(Datatype::Fp32, &[0; 24]).is_ok());
        assert!(shape.check(Datatype::Fp32, &[0; 23]).is_err());
        assert!(shape.check(Datatype::Bool, &[0, 1, 0, 1, 0, 2]).is_err());
    }

    proptest! {
        #[test]
        fn a_bytes_tensor_comes_back_as_it_went(elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let bytes = bytes_tensor(elements.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(bytes_elements(&bytes, elements.len() as u64).unwrap(), elements);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), dims in prop::collection::vec(any::<u64>(), 0..10)) {
            if let Ok(shape) = Shape::new(dims) {
                for datatype in Datatype::ALL {
                    let _checked = shape.check(datatype, &bytes);
                }
            }
        }
    }
}
