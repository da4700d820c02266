//! Tensors out of a payload: headers and bytes brought together, checked against each other.

use bytes::Bytes;

use crate::{Fault, FaultCode, InvalidTensor, Shape, TENSOR_ALIGN, TensorHeader, aligned_len};

/// Most tensors of one call: beyond any model in the field.
pub const TENSORS_MAX: usize = 256;

/// One tensor with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The model's name for it.
    pub name: String,
    /// Its element type.
    pub datatype: crate::Datatype,
    /// Its dimensions.
    pub shape: Shape,
    /// Its elements: little-endian, row-major. Known to fit type and shape.
    pub bytes: Bytes,
}

impl Tensor {
    /// A tensor whose bytes fit its type and shape.
    ///
    /// # Errors
    /// They do not.
    pub fn new(
        name: impl Into<String>,
        datatype: crate::Datatype,
        dims: Vec<u64>,
        bytes: Bytes,
    ) -> Result<Self, InvalidTensor> {
        let shape = Shape::new(dims)?;
        shape.check(datatype, &bytes)?;
        Ok(Self { name: name.into(), datatype, shape, bytes })
    }

    /// The header that a document carries for it.
    #[must_use]
    pub fn header(&self) -> TensorHeader {
        TensorHeader {
            name: self.name.clone(),
            datatype: self.datatype,
            shape: self.shape.dims().to_vec(),
            byte_length: self.bytes.len() as u64,
        }
    }
}

/// Cuts a payload into the tensors that the headers announce, without copying.
///
/// # Errors
/// Too many tensors, a name twice, bytes that do not fit shape and type, or a payload longer or shorter than
/// its tensors.
pub fn split_tensors(headers: Vec<TensorHeader>, payload: &Bytes) -> Result<Vec<Tensor>, Fault> {
    let invalid = |text: String| Fault::new(FaultCode::InvalidParams, text);
    if TENSORS_MAX < headers.len() {
        return Err(invalid(format!("{} tensors: at most {TENSORS_MAX} are allowed", headers.len())));
    }
    let short = || invalid("the payload is shorter than its tensors".to_owned());
    let mut tensors: Vec<Tensor> = Vec::with_capacity(headers.len());
    let mut end = 0_usize;
    for header in headers {
        if tensors.iter().any(|tensor| tensor.name == header.name) {
            return Err(invalid(format!("the tensor {:?} is there twice", header.name)));
        }
        let start = aligned_len(end).ok_or_else(short)?;
        let length = usize::try_from(header.byte_length).map_err(|_| short())?;
        end = start.checked_add(length).ok_or_else(short)?;
        if payload.len() < end {
            return Err(short());
        }
        let bytes = payload.slice(start..end);
        let tensor = Tensor::new(header.name, header.datatype, header.shape, bytes);
        tensors.push(tensor.map_err(|error| invalid(error.to_string()))?);
    }
    // A sender may pad the last tensor too, never more.
    if end != payload.len() && aligned_len(end) != Some(payload.len()) {
        let excess = payload.len() - end;
        return Err(invalid(format!(
            "{excess} bytes follow the last tensor (at most {} may)",
            TENSOR_ALIGN - 1
        )));
    }
    Ok(tensors)
}

/// Headers and payload for these tensors, without copying their bytes.
#[must_use]
pub fn join_tensors(tensors: &[Tensor]) -> (Vec<TensorHeader>, crate::PayloadBuilder) {
    let mut payload = crate::PayloadBuilder::new();
    let headers = tensors.iter().map(|tensor| {
        payload.push(tensor.bytes.clone());
        tensor.header()
    });
    (headers.collect(), payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Datatype, PayloadBuilder};

    fn flat(payload: PayloadBuilder) -> Bytes {
        payload.into_chunks().concat().into()
    }

    proptest! {
        #[test]
        fn tensors_come_back_as_they_went(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6)) {
            let tensors: Vec<_> = parts.into_iter().enumerate().map(|(i, bytes)| {
                Tensor::new(format!("t{i}"), Datatype::Uint8, vec![bytes.len() as u64], bytes.into()).unwrap()
            }).collect();
            let (headers, payload) = join_tensors(&tensors);
            prop_assert_eq!(split_tensors(headers, &flat(payload)).unwrap(), tensors);
        }

        #[test]
        fn arbitrary_headers_never_panic(byte_length in any::<u64>(), shape in prop::collection::vec(any::<u64>(), 0..4), payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let header = |name: &str| TensorHeader { name: name.into(), datatype: Datatype::Int64, shape: shape.clone(), byte_length };
            let _split = split_tensors(vec![header("a"), header("b")], &payload.into());
        }
    }

    #[test]
    fn a_payload_must_fit_its_headers_exactly() {
        let tensor = Tensor::new("x", Datatype::Fp32, vec![2], Bytes::from_static(&[0; 8])).unwrap();
        let headers = vec![tensor.header()];
        let refused =
            |payload: &'static [u8]| split_tensors(headers.clone(), &Bytes::from_static(payload)).is_err();
        assert!(!refused(&[0; 8]));
        assert!(!refused(&[0; 64]));
        assert!(refused(&[0; 7]));
        assert!(refused(&[0; 9]));
        assert!(refused(&[0; 128]));
        let twice = vec![tensor.header(), tensor.header()];
        assert!(split_tensors(twice, &Bytes::from_static(&[0; 72])).is_err());
    }
}
