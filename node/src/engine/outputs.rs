//! Outputs as they are sent: the engine's own memory, shared.
//!
//! ONNX Runtime makes a new buffer for each output of each run, and gives it away. So an output's bytes are those of the
//! engine's tensor, which lives until the last slice of it is dropped, whatever became of the session; rows of a joined
//! run are slices. Not shared are small outputs, texts, and what lies in the memory of an input: an output that is an input
//! passed through is the caller's buffer, borrowed for the run alone.

use std::fmt::Debug;

use bytemuck::NoUninit;
use bytes::Bytes;
use half::{bf16, f16};
use lineside_wire::{Datatype, Tensor, TensorSpec, bytes_tensor};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorValueType};

use super::RunError;

/// Up to this many bytes an output is copied: measured, that costs less than to share it (at 16 KiB it costs more), and it
/// gives the engine's memory back at once, on the thread that took it, instead of whenever the answer has been sent.
const COPIED_BYTES_MAX: usize = 4096;

/// Bytes of an output. Texts count as their lengths alone: what they are is known when they are read.
pub(super) fn length(spec: &TensorSpec, value: &DynValue) -> u64 {
    let width = spec.datatype.width().unwrap_or(4) as u64;
    let dims = value.dtype().tensor_shape().map_or(&[][..], |shape| shape);
    dims.iter().fold(width, |bytes, dim| bytes.saturating_mul(u64::try_from(*dim).unwrap_or(0)))
}

/// An output of a run with these inputs.
pub(super) fn tensor(spec: &TensorSpec, value: DynValue, inputs: &[Tensor]) -> Result<Tensor, RunError> {
    let shape = value.dtype().tensor_shape();
    let shape = shape.ok_or_else(|| RunError::Failed(format!("the output {:?} is no tensor", spec.name)))?;
    let shape = shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(0)).collect();
    let bytes = match spec.datatype {
        Datatype::Bool => bytes::<bool>(value, inputs)?,
        Datatype::Uint8 => bytes::<u8>(value, inputs)?,
        Datatype::Uint16 => bytes::<u16>(value, inputs)?,
        Datatype::Uint32 => bytes::<u32>(value, inputs)?,
        Datatype::Uint64 => bytes::<u64>(value, inputs)?,
        Datatype::Int8 => bytes::<i8>(value, inputs)?,
        Datatype::Int16 => bytes::<i16>(value, inputs)?,
        Datatype::Int32 => bytes::<i32>(value, inputs)?,
        Datatype::Int64 => bytes::<i64>(value, inputs)?,
        Datatype::Fp16 => bytes::<f16>(value, inputs)?,
        Datatype::Bf16 => bytes::<bf16>(value, inputs)?,
        Datatype::Fp32 => bytes::<f32>(value, inputs)?,
        Datatype::Fp64 => bytes::<f64>(value, inputs)?,
        Datatype::Bytes => {
            let (_, texts) = value.try_extract_strings()?;
            bytes_tensor(texts.iter().map(String::as_bytes))?.into()
        }
    };
    Ok(Tensor::new(spec.name.clone(), spec.datatype, shape, bytes)?)
}

/// The engine's tensor, as long as anybody needs its bytes.
struct Shared<T: PrimitiveTensorElementType + Debug>(ort::value::Tensor<T>);

impl<T: PrimitiveTensorElementType + NoUninit + Debug> AsRef<[u8]> for Shared<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self.0.extract_tensor().1)
    }
}

fn bytes<T>(value: DynValue, inputs: &[Tensor]) -> Result<Bytes, RunError>
where
    T: PrimitiveTensorElementType + NoUninit + Debug + Send + 'static,
{
    // Also the check that a processor can read it: the memory may be a device's.
    let (_, elements) = value.try_extract_tensor::<T>()?;
    let bytes: &[u8] = bytemuck::cast_slice(elements);
    if bytes.len() <= COPIED_BYTES_MAX || inputs.iter().any(|input| is_within(bytes, &input.bytes)) {
        return Ok(Bytes::copy_from_slice(bytes));
    }
    Ok(Bytes::from_owner(Shared::<T>(value.downcast::<TensorValueType<T>>()?)))
}

fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let whole = whole.as_ptr_range();
    whole.contains(&part.as_ptr())
}
