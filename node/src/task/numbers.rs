//! Elements of tensors as numbers. Pure.

use bytemuck::{AnyBitPattern, NoUninit};
use half::{bf16, f16};
use lineside_wire::{Datatype, Tensor};

/// The elements as FP32, in which scores and vectors are reckoned; `None` for what is no number.
pub(crate) fn floats(tensor: &Tensor) -> Option<Vec<f32>> {
    Some(match tensor.datatype {
        Datatype::Bool | Datatype::Bytes => return None,
        Datatype::Fp32 => elements(tensor),
        Datatype::Fp64 => elements::<f64>(tensor).into_iter().map(|value| value as f32).collect(),
        Datatype::Fp16 => elements::<f16>(tensor).into_iter().map(f16::to_f32).collect(),
        Datatype::Bf16 => elements::<bf16>(tensor).into_iter().map(bf16::to_f32).collect(),
        Datatype::Uint8 => elements::<u8>(tensor).into_iter().map(f32::from).collect(),
        Datatype::Int8 => elements::<i8>(tensor).into_iter().map(f32::from).collect(),
        Datatype::Uint16 => elements::<u16>(tensor).into_iter().map(f32::from).collect(),
        Datatype::Int16 => elements::<i16>(tensor).into_iter().map(f32::from).collect(),
        Datatype::Uint32 => elements::<u32>(tensor).into_iter().map(|value| value as f32).collect(),
        Datatype::Int32 => elements::<i32>(tensor).into_iter().map(|value| value as f32).collect(),
        Datatype::Uint64 => elements::<u64>(tensor).into_iter().map(|value| value as f32).collect(),
        Datatype::Int64 => elements::<i64>(tensor).into_iter().map(|value| value as f32).collect(),
    })
}

/// Whether elements of this type can be put in order.
pub(crate) const fn is_number(datatype: Datatype) -> bool {
    !matches!(datatype, Datatype::Bool | Datatype::Bytes)
}

/// The elements of a tensor of this type, which the caller has looked at.
pub(crate) fn elements<T: AnyBitPattern + NoUninit>(tensor: &Tensor) -> Vec<T> {
    bytemuck::pod_collect_to_vec(&tensor.bytes)
}
