//! Inputs as the engine takes them: borrowed from the buffer that they were received in.

use std::fmt::Debug;

use bytemuck::{AnyBitPattern, NoUninit};
use half::{bf16, f16};
use lineside_wire::{AlignedBuffer, Datatype, Shape, Tensor, bytes_elements};
use ort::{
    session::SessionInputValue,
    value::{PrimitiveTensorElementType, TensorRef},
};

use super::RunError;

/// The tensor itself where its bytes lie aligned, which a received payload's do; else a copy that is.
pub(super) fn aligned(input: &Tensor) -> Option<Tensor> {
    let width = input.datatype.width().unwrap_or(1);
    let lies_askew = !input.bytes.is_empty() && input.bytes.as_ptr().align_offset(width) != 0;
    lies_askew.then(|| Tensor { bytes: AlignedBuffer::copy_of(&input.bytes), ..input.clone() })
}

/// An input that is [`aligned`]. Texts are copied: the engine has its own form of them.
pub(super) fn value(input: &Tensor) -> Result<SessionInputValue<'_>, RunError> {
    match input.datatype {
        Datatype::Bool => {
            let elements = bytemuck::checked::try_cast_slice::<u8, bool>(&input.bytes).map_err(|_| {
                RunError::Failed(format!("the input {:?} holds bytes beyond 0 and 1", input.name))
            })?;
            Ok(TensorRef::from_array_view((dims(&input.shape)?, elements))?.into())
        }
        Datatype::Uint8 => view::<u8>(input),
        Datatype::Uint16 => view::<u16>(input),
        Datatype::Uint32 => view::<u32>(input),
        Datatype::Uint64 => view::<u64>(input),
        Datatype::Int8 => view::<i8>(input),
        Datatype::Int16 => view::<i16>(input),
        Datatype::Int32 => view::<i32>(input),
        Datatype::Int64 => view::<i64>(input),
        Datatype::Fp16 => view::<f16>(input),
        Datatype::Bf16 => view::<bf16>(input),
        Datatype::Fp32 => view::<f32>(input),
        Datatype::Fp64 => view::<f64>(input),
        Datatype::Bytes => texts(input),
    }
}

fn view<T>(input: &Tensor) -> Result<SessionInputValue<'_>, RunError>
where
    T: PrimitiveTensorElementType + AnyBitPattern + NoUninit + Debug,
{
    // Of no bytes the address says nothing, and need not be aligned.
    let elements = if input.bytes.is_empty() { Ok(&[][..]) } else { bytemuck::try_cast_slice(&input.bytes) };
    let elements: &[T] = elements
        .map_err(|error| RunError::Failed(format!("the input {:?} cannot be read: {error}", input.name)))?;
    Ok(TensorRef::from_array_view((dims(&input.shape)?, elements))?.into())
}

fn texts(input: &Tensor) -> Result<SessionInputValue<'_>, RunError> {
    let elements = bytes_elements(&input.bytes, input.shape.elements())?;
    let texts = elements.into_iter().map(|text| std::str::from_utf8(text).map(str::to_owned));
    let texts = texts.collect::<Result<Vec<_>, _>>();
    let texts = texts.map_err(|_| RunError::Failed(format!("the input {:?} is not UTF-8", input.name)))?;
    Ok(ort::value::Tensor::from_string_array((dims(&input.shape)?, texts.as_slice()))?.into())
}

/// A shape in the engine's own form, which keeps up to four dimensions on the stack.
fn dims(shape: &Shape) -> Result<ort::value::Shape, RunError> {
    let dims = shape.dims().iter().map(|dim| i64::try_from(*dim));
    dims.collect::<Result<_, _>>()
        .map_err(|_| RunError::Failed("a dimension is larger than ONNX counts".to_owned()))
}
