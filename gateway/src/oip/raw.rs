//! A request that is one tensor's bytes and nothing else.

use bytes::Bytes;
use lineside_wire::{
    Datatype, Fault, InferParams, ModelInfo, Parameters, PayloadBuilder, Tensor, TensorSpec, bytes_tensor,
};

use super::{Form, InferRequest, Wants, invalid};

/// The request for a model with one input, whose shape follows from the bytes. All outputs come back binary.
///
/// # Errors
/// The model has not exactly one input, or its shape leaves more open than the length of the bytes can tell.
pub(crate) fn raw_request(model: &ModelInfo, body: &Bytes) -> Result<InferRequest, Fault> {
    let [input] = model.inputs.as_slice() else {
        let text =
            format!("{} has {} inputs: a raw body is for models with one", model.name, model.inputs.len());
        return Err(invalid(text));
    };
    let tensor = match input.datatype {
        Datatype::Bytes => {
            let element = bytes_tensor([body.as_ref()]).map_err(|error| invalid(error.to_string()))?;
            Tensor::new(
                input.name.as_str(),
                input.datatype,
                vec![1; input.shape.len().max(1)],
                element.into(),
            )
        }
        _ => Tensor::new(input.name.as_str(), input.datatype, dims(input, body.len())?, body.clone()),
    };
    let tensor = tensor.map_err(|error| invalid(error.to_string()))?;
    let inputs = vec![tensor.header()];
    let mut payload = PayloadBuilder::new();
    payload.push(tensor.bytes);
    Ok(InferRequest {
        id: None,
        params: InferParams {
            model: model.name.clone(),
            version: Some(model.version),
            inputs,
            outputs: Vec::new(),
            parameters: Parameters::new(),
            task: None,
            classification: Default::default(),
        },
        payload,
        made: 0,
        wants: Wants { form: Form::Binary, by_name: Vec::new() },
        timeout: None,
        priority: 0,
        session: None,
        affinity: None,
    })
}

/// The shape of `length` bytes: the one dimension that varies follows from the others. Where two vary, the first
/// is the batch, and a raw body is a batch of one.
fn dims(input: &TensorSpec, length: usize) -> Result<Vec<u64>, Fault> {
    let open = input.shape.iter().filter(|dim| **dim < 0).count();
    let batch_first = open == 2 && input.shape.first().is_some_and(|dim| *dim < 0);
    if 1 < open && !batch_first {
        return Err(invalid(format!("the shape {:?} leaves more open than one dimension", input.shape)));
    }
    let mut dims: Vec<u64> = input.shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect();
    let varying = input.shape.iter().rposition(|dim| *dim < 0);
    let width = input.datatype.width().unwrap_or(1) as u64;
    let fixed = dims.iter().try_fold(width, |product, dim| product.checked_mul(*dim));
    if let Some(varying) = varying {
        dims[varying] = match fixed {
            Some(fixed) if fixed != 0 && (length as u64).is_multiple_of(fixed) => length as u64 / fixed,
            _ => {
                let text =
                    format!("{length} bytes are no multiple of what the shape {:?} needs", input.shape);
                return Err(invalid(text));
            }
        };
    }
    Ok(dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims_of(shape: &[i64], length: usize) -> Result<Vec<u64>, Fault> {
        dims(&TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: shape.to_vec() }, length)
    }

    #[test]
    fn the_open_dimension_follows_from_the_length() {
        assert_eq!(dims_of(&[-1, 16], 128), Ok(vec![2, 16]));
        assert_eq!(dims_of(&[4], 16), Ok(vec![4]));
        assert_eq!(dims_of(&[-1, 3, -1], 24), Ok(vec![1, 3, 2]));
        assert!(dims_of(&[-1, 16], 100).is_err());
        assert!(dims_of(&[3, -1, -1], 24).is_err());
        assert!(dims_of(&[-1, 0], 24).is_err());
    }
}
