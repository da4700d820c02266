//! One state of a model: the input that takes it, the output that gives the next, and what a sequence begins with.

use bytes::Bytes;
use lineside_wire::{Shape, Tensor, TensorSpec};

use crate::{
    engine::{Signature, clipped},
    settings::{State, Wrong},
};

/// Bytes of one sequence's first state. It is held once per version before any request came.
const FIRST_BYTES_MAX: u64 = 16 << 20;

/// One state of the model.
#[derive(Debug)]
pub(super) struct Kind {
    /// The input that takes it.
    pub(super) input: TensorSpec,
    /// Index of the output that gives the next.
    pub(super) output: usize,
    /// What a sequence begins with.
    pub(super) first: Tensor,
}

impl Kind {
    pub(super) fn new(state: &State, signature: &Signature) -> Result<Self, Wrong> {
        const KEY: &str = "sequence.states";
        let find = |specs: &[TensorSpec], side: &str, name: &str| {
            specs.iter().position(|spec| spec.name == name).ok_or_else(|| {
                let there = specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
                Wrong::new(KEY, format!("the model has no {side} {name:?}: it has {}", clipped(&there, 300)))
            })
        };
        let input = find(&signature.inputs, "input", &state.input)?;
        let output = find(&signature.outputs, "output", &state.output)?;
        let (input, gives) = (&signature.inputs[input], &signature.outputs[output]);
        if input.datatype != gives.datatype || !can_be_same(&input.shape, &gives.shape) {
            return Err(Wrong::new(
                KEY,
                format!(
                    "the output {:?} is {} {:?}, which cannot be given to the input {:?}, {} {:?}",
                    gives.name, gives.datatype, gives.shape, input.name, input.datatype, input.shape
                ),
            ));
        }
        let dims = state.shape.clone();
        let dims =
            dims.unwrap_or_else(|| input.shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect());
        let wrong = |reason: String| Wrong::new(KEY, format!("the first {:?}: {reason}", input.name));
        let shape = Shape::new(dims.clone()).map_err(|error| wrong(error.to_string()))?;
        if !fits(input, &shape) {
            return Err(wrong(format!("the shape {dims:?} does not fit the input's {:?}", input.shape)));
        }
        // An empty text is its length alone.
        let width = input.datatype.width().unwrap_or(4) as u64;
        let bytes = shape.elements().checked_mul(width).filter(|bytes| *bytes <= FIRST_BYTES_MAX);
        let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(|| {
            wrong(format!(
                "the shape {dims:?} takes more than {FIRST_BYTES_MAX} bytes: set a smaller `shape`"
            ))
        })?;
        let first = Tensor::new(input.name.clone(), input.datatype, dims, Bytes::from(vec![0; bytes]));
        let first = first.map_err(|error| wrong(error.to_string()))?;
        Ok(Self { input: input.clone(), output, first })
    }
}

/// Whether a tensor of this shape can be given to an input. One whose file says nothing takes any.
pub(super) fn fits(input: &TensorSpec, shape: &Shape) -> bool {
    let dims = shape.dims();
    let same =
        |(takes, dim): (&i64, &u64)| u64::try_from(*takes).is_ok_and(|takes| takes == *dim) || *takes < 0;
    input.shape.is_empty() || input.shape.len() == dims.len() && input.shape.iter().zip(dims).all(same)
}

/// Whether tensors of both shapes can be the same.
fn can_be_same(a: &[i64], b: &[i64]) -> bool {
    let same = |(a, b): (&i64, &i64)| a == b || *a < 0 || *b < 0;
    a.is_empty() || b.is_empty() || a.len() == b.len() && a.iter().zip(b).all(same)
}
