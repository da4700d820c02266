//! What a `config.pbtxt` says of the model's tensors, held against the model.

use std::fmt;

use lineside_wire::{Datatype, TensorSpec};

use super::{Wrong, nearest};
use crate::engine::Signature;

/// The tensors that a `config.pbtxt` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Declared {
    /// Most requests in a batch; 0: the first dimension is one like the others.
    pub(crate) max_batch_size: u32,
    pub(crate) inputs: Vec<DeclaredTensor>,
    pub(crate) outputs: Vec<DeclaredTensor>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredTensor {
    pub(crate) name: String,
    /// Where it is declared.
    pub(crate) line: usize,
    pub(crate) datatype: Option<Datatype>,
    /// Without the batch dimension, where `max_batch_size` says that there is one. `None` where they are the shape of
    /// something else (`reshape`).
    pub(crate) dims: Option<Vec<i64>>,
    /// A file with the names of an output's elements, one a line (`label_filename`).
    pub(crate) labels_file: Option<String>,
}

impl Declared {
    /// Whether the model is the one that was declared.
    ///
    /// # Errors
    /// The first difference.
    pub(super) fn check(&self, signature: &Signature) -> Result<(), Wrong> {
        let sides =
            [("input", &self.inputs, &signature.inputs), ("output", &self.outputs, &signature.outputs)];
        for (side, declared, specs) in sides {
            for tensor in declared {
                self.check_one(side, tensor, specs).map_err(|reason| {
                    Wrong::new(side, format!("{:?} (line {}) {reason}", tensor.name, tensor.line))
                })?;
            }
        }
        Ok(())
    }

    fn check_one(&self, side: &str, tensor: &DeclaredTensor, specs: &[TensorSpec]) -> Result<(), String> {
        let Some(spec) = specs.iter().find(|spec| spec.name == tensor.name) else {
            return Err(not_there(side, &tensor.name, specs));
        };
        if let Some(datatype) = tensor.datatype
            && datatype != spec.datatype
        {
            return Err(format!("is declared as {datatype}, but the model's is {}", spec.datatype));
        }
        // Of some outputs, the file does not say how many dimensions they have.
        let Some(dims) = tensor.dims.as_ref().filter(|_| !spec.shape.is_empty()) else { return Ok(()) };
        let batch = (0 < self.max_batch_size).then_some(-1);
        let whole: Vec<i64> = batch.into_iter().chain(dims.iter().copied()).collect();
        let fits = |(declared, real): (&i64, &i64)| *declared < 0 || *real < 0 || declared == real;
        if batch.is_some() && spec.shape.first().is_some_and(|first| 0 <= *first) {
            return Err(format!(
                "is {} in the model, whose first dimension does not vary: max_batch_size {} says that it does; write \
                 max_batch_size: 0 and the whole shape in dims",
                Dims(&spec.shape),
                self.max_batch_size
            ));
        }
        match whole.len() == spec.shape.len() && whole.iter().zip(&spec.shape).all(fits) {
            true => Ok(()),
            false => Err(format!(
                "is declared as {}{}, but the model's shape is {}",
                Dims(&whole),
                if batch.is_some() { " (with the batch dimension of max_batch_size)" } else { "" },
                Dims(&spec.shape)
            )),
        }
    }
}

/// The words for a name that is not among the model's.
pub(super) fn not_there(side: &str, name: &str, specs: &[TensorSpec]) -> String {
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    match nearest(name, &names) {
        Some(near) => format!("is no {side} of the model; did you mean {near:?}?"),
        None => format!("is no {side} of the model; it has {}", names.join(", ")),
    }
}

/// A shape as it is written.
pub(super) struct Dims<'a>(pub(super) &'a [i64]);

impl fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(max_batch_size: u32, dims: &[i64]) -> Declared {
        let tensor = |name: &str| DeclaredTensor {
            name: name.to_owned(),
            line: 7,
            datatype: Some(Datatype::Fp32),
            dims: Some(dims.to_vec()),
            labels_file: None,
        };
        Declared { max_batch_size, inputs: vec![tensor("picture")], outputs: Vec::new() }
    }

    fn model(shape: &[i64]) -> Signature {
        let picture =
            TensorSpec { name: "picture".to_owned(), datatype: Datatype::Fp32, shape: shape.to_vec() };
        Signature { inputs: vec![picture], outputs: Vec::new() }
    }

    #[test]
    fn declared_shapes_leave_the_batch_dimension_out_where_there_is_one() {
        assert_eq!(declared(8, &[3, 4]).check(&model(&[-1, 3, 4])), Ok(()));
        assert_eq!(declared(0, &[1, 3, 4]).check(&model(&[1, 3, 4])), Ok(()));
        assert_eq!(declared(0, &[-1, 3, 4]).check(&model(&[-1, 3, -1])), Ok(()));
        let told = |declared: Declared, shape: &[i64]| declared.check(&model(shape)).unwrap_err().reason;
        let fixed = told(declared(8, &[3, 4]), &[1, 3, 4]);
        assert!(fixed.contains("\"picture\" (line 7) is [1, 3, 4] in the model, whose first"), "{fixed}");
        let other = told(declared(8, &[3, 5]), &[-1, 3, 4]);
        assert!(other.contains("[-1, 3, 5] (with the batch dimension of max_batch_size), but"), "{other}");
        let rank = told(declared(0, &[3, 4]), &[-1, 3, 4]);
        assert!(rank.contains("declared as [3, 4], but the model's shape is [-1, 3, 4]"), "{rank}");
    }

    #[test]
    fn another_name_or_type_is_told() {
        let mut wrong = declared(0, &[1]);
        wrong.inputs[0].name = "pictur".to_owned();
        assert!(wrong.check(&model(&[1])).unwrap_err().reason.contains("did you mean \"picture\"?"));
        let mut wrong = declared(0, &[1]);
        wrong.inputs[0].datatype = Some(Datatype::Int64);
        let reason = wrong.check(&model(&[1])).unwrap_err().reason;
        assert!(reason.contains("declared as INT64, but the model's is FP32"), "{reason}");
    }
}
