//! Decodes messages, after it has measured what they would become.
//!
//! Protobuf is small on the wire and large in memory: two bytes make an empty input, one byte an INT64. So the limit on
//! a message's length alone would let 64 MiB grow into gigabytes. A walk over the message's fields comes first; it
//! allocates nothing, and passes over the bytes of raw tensors in one step.

use std::{any::TypeId, marker::PhantomData};

use bytes::{Buf as _, Bytes};
use lineside_wire::{Fault, FaultCode, Limits, RANK_MAX, TENSORS_MAX};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use super::{generated::inference::ModelInferRequest, status};
use crate::oip::invalid;

/// Most parameters of a request, of one input or of one output: as in the REST form.
pub(super) const PARAMETERS_MAX: usize = 64;

/// What one element of BYTES takes in memory beside its bytes.
const ELEMENT_BYTES: usize = size_of::<Bytes>();

/// The codec of the service: what goes out is encoded as usual, what comes in is measured first.
#[derive(Debug)]
pub(crate) struct MeasuredCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MeasuredCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MeasuredCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = MeasuredDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        MeasuredDecoder(PhantomData)
    }
}

/// The half of [`MeasuredCodec`] that decodes.
#[derive(Debug)]
pub(crate) struct MeasuredDecoder<U>(PhantomData<U>);

impl<U: Message + Default + 'static> Decoder for MeasuredDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Taken out of the buffer without copying; `bytes` fields are slices of it.
        let message = buffer.copy_to_bytes(buffer.remaining());
        // Other messages hold names and flags, and are as short as those: see `SMALL_BYTES_MAX`.
        if TypeId::of::<U>() == TypeId::of::<ModelInferRequest>() {
            measure(&message).map_err(status::of_fault)?;
        }
        U::decode(message).map(Some).map_err(|error| status::of_fault(broken(&error.to_string())))
    }
}

fn broken(why: &str) -> Fault {
    Fault::new(FaultCode::InvalidRequest, format!("the message is not what this method takes: {why}"))
}

/// Checks that an encoded [`ModelInferRequest`] stays within limits when it is decoded.
fn measure(message: &[u8]) -> Result<(), Fault> {
    let (mut inputs, mut outputs, mut raw, mut parameters) = (0, 0, 0, 0);
    let mut room = usize::try_from(Limits::default().payload_bytes_max).unwrap_or(usize::MAX);
    each(message, |field, value| match (field, value) {
        (4, _) => count(&mut parameters, PARAMETERS_MAX, "parameters"),
        (5, Value::Bytes(input)) => {
            count(&mut inputs, TENSORS_MAX, "inputs")?;
            measure_input(input, &mut room)
        }
        (6, Value::Bytes(output)) => {
            count(&mut outputs, TENSORS_MAX, "outputs")?;
            let mut parameters = 0;
            each(output, |field, _| match field {
                2 => count(&mut parameters, PARAMETERS_MAX, "parameters of an output"),
                _ => Ok(()),
            })
        }
        (7, _) => count(&mut raw, TENSORS_MAX, "raw_input_contents"),
        _ => Ok(()),
    })
}

fn measure_input(input: &[u8], room: &mut usize) -> Result<(), Fault> {
    let (mut parameters, mut dims) = (0, 0);
    each(input, |field, value| match (field, value) {
        (3, value) => {
            dims += if let Value::Bytes(packed) = value { numbers(packed) } else { 1 };
            match dims <= RANK_MAX {
                true => Ok(()),
                false => Err(invalid(format!("a shape of more than {RANK_MAX} dimensions"))),
            }
        }
        (4, _) => count(&mut parameters, PARAMETERS_MAX, "parameters of an input"),
        (5, Value::Bytes(contents)) => each(contents, |field, value| {
            let takes = contents_bytes(field, value);
            *room = room.checked_sub(takes).ok_or_else(|| {
                let max = Limits::default().payload_bytes_max;
                let text = format!(
                    "the elements in contents take more than {max} bytes together: send them as raw_input_contents"
                );
                Fault::new(FaultCode::LimitExceeded, text)
            })?;
            Ok(())
        }),
        _ => Ok(()),
    })
}

/// What one field of `InferTensorContents` takes in memory.
fn contents_bytes(field: u32, value: Value<'_>) -> usize {
    let width = match field {
        1 => 1,
        2 | 4 | 6 => 4,
        3 | 5 | 7 => 8,
        8 => ELEMENT_BYTES,
        _ => return 0,
    };
    match (field, value) {
        (8, Value::Bytes(element)) => ELEMENT_BYTES.saturating_add(element.len()),
        (6 | 7, Value::Bytes(packed)) => packed.len(),
        (_, Value::Bytes(packed)) => numbers(packed).saturating_mul(width),
        (_, Value::Number) => width,
    }
}

/// How many numbers are packed here: each ends with a byte below 128.
fn numbers(packed: &[u8]) -> usize {
    packed.iter().filter(|byte| **byte < 0x80).count()
}

fn count(so_far: &mut usize, max: usize, what: &str) -> Result<(), Fault> {
    *so_far += 1;
    match *so_far <= max {
        true => Ok(()),
        false => Err(invalid(format!("there are more than {max} {what}"))),
    }
}

/// A field's value, as far as measuring needs it.
#[derive(Clone, Copy)]
enum Value<'a> {
    Bytes(&'a [u8]),
    Number,
}

/// Shows every field of a message to `see`.
fn each<'a>(
    mut message: &'a [u8],
    mut see: impl FnMut(u32, Value<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let short = || broken("it ends within a field");
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let field = u32::try_from(key >> 3).map_err(|_| broken("a field has no number"))?;
        let value = match key & 7 {
            0 => {
                varint(&mut message)?;
                Value::Number
            }
            1 => {
                message = message.get(8..).ok_or_else(short)?;
                Value::Number
            }
            2 => {
                let length = usize::try_from(varint(&mut message)?).map_err(|_| short())?;
                let (value, rest) = message.split_at_checked(length).ok_or_else(short)?;
                message = rest;
                Value::Bytes(value)
            }
            5 => {
                message = message.get(4..).ok_or_else(short)?;
                Value::Number
            }
            _ => return Err(broken("a field has a form that is no longer in use")),
        };
        see(field, value)?;
    }
    Ok(())
}

/// A number in groups of seven bits, the lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or_else(|| broken("it ends within a number"))?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            return Ok(value);
        }
    }
    Err(broken("a number has more than 64 bits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::generated::inference::{InferTensorContents, model_infer_request::InferInputTensor};

    fn request(inputs: Vec<InferInputTensor>) -> Vec<u8> {
        ModelInferRequest { model_name: "add".into(), inputs, ..Default::default() }.encode_to_vec()
    }

    fn input(contents: InferTensorContents) -> InferInputTensor {
        InferInputTensor { name: "a".into(), contents: Some(contents), ..Default::default() }
    }

    fn refused(message: &[u8], words: &str) {
        let fault = measure(message).expect_err(words);
        assert!(fault.message.contains(words), "{}", fault.message);
    }

    #[test]
    fn what_a_client_sends_is_within_the_measure() {
        let contents = InferTensorContents {
            bool_contents: vec![true; 9],
            int64_contents: vec![-1; 9],
            fp64_contents: vec![0.5; 9],
            bytes_contents: vec![Bytes::from_static(b"ok"); 9],
            ..Default::default()
        };
        let inputs = (0..TENSORS_MAX).map(|_| input(contents.clone()));
        assert_eq!(measure(&request(inputs.collect())), Ok(()));
        assert_eq!(measure(&[]), Ok(()));
    }

    #[test]
    fn a_message_that_would_swell_is_refused_before_it_is_made() {
        // Two bytes each, hundreds in memory.
        refused(&[0x2a, 0].repeat(1 << 20), "more than 256 inputs");
        refused(&[0x32, 0].repeat(1 << 20), "more than 256 outputs");
        refused(&[0x3a, 0].repeat(1 << 20), "more than 256 raw_input_contents");
        refused(&[0x22, 0].repeat(1 << 20), "more than 64 parameters");
        let empty = vec![Bytes::new(); 3 << 20];
        let contents = InferTensorContents { bytes_contents: empty, ..Default::default() };
        refused(&request(vec![input(contents)]), "raw_input_contents");
        let contents = InferTensorContents { int64_contents: vec![1; 9 << 20], ..Default::default() };
        refused(&request(vec![input(contents)]), "raw_input_contents");
        let shape = vec![1; RANK_MAX + 1];
        refused(&request(vec![InferInputTensor { shape, ..Default::default() }]), "more than 8 dimensions");
    }

    #[test]
    fn a_torn_message_says_so() {
        for torn in [&[0x2a][..], &[0x2a, 5, 1], &[0x80], &[0xff; 11], &[0x0b], &[0x09, 1], &[0x0d, 1]] {
            refused(torn, "not what this method takes");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_what_passes_decodes_small(
            bytes in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            if measure(&bytes).is_ok() {
                let _decoded = ModelInferRequest::decode(bytes.as_slice());
            }
        }
    }
}
