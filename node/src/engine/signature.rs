//! What a session says about its inputs and outputs, in the words of the wire.

use lineside_wire::{Datatype, RANK_MAX, TENSORS_MAX, TensorSpec};
use ort::value::{Outlet, TensorElementType, ValueType};

use super::{OpenError, Signature};

/// Inputs that have a value in the file are no part of it: nobody has to send them.
///
/// # Errors
/// The model takes or gives something that cannot be sent.
pub(super) fn signature(session: &ort::session::Session) -> Result<Signature, OpenError> {
    let (inputs, outputs) = (session.inputs(), session.outputs());
    Ok(Signature { inputs: specs("input", inputs)?, outputs: specs("output", outputs)? })
}

fn specs(side: &str, outlets: &[Outlet]) -> Result<Vec<TensorSpec>, OpenError> {
    if TENSORS_MAX < outlets.len() {
        let text = format!("the model has {} {side}s: at most {TENSORS_MAX} fit", outlets.len());
        return Err(OpenError::Unsupported(text));
    }
    outlets.iter().map(|outlet| spec(side, outlet)).collect()
}

fn spec(side: &str, outlet: &Outlet) -> Result<TensorSpec, OpenError> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(OpenError::Unsupported(format!(
            "the {side} {name:?} is {}: only tensors are served (from scikit-learn, export with zipmap off)",
            outlet.dtype()
        )));
    };
    let Some(datatype) = datatype(*ty) else {
        return Err(OpenError::Unsupported(format!(
            "the {side} {name:?} is of {ty}, which the protocol has no name for: cast it to another type in the model"
        )));
    };
    if RANK_MAX < shape.len() {
        let text = format!("the {side} {name:?} has {} dimensions: at most {RANK_MAX} fit", shape.len());
        return Err(OpenError::Unsupported(text));
    }
    let shape = shape.iter().map(|dim| (*dim).max(-1)).collect();
    Ok(TensorSpec { name, datatype, shape })
}

fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}
