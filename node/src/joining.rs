//! Several requests as one run: inputs one after the other along the first dimension, outputs apart again.
//!
//! Inputs are copied once, into one aligned buffer per input; outputs are slices of what the engine gave.

use std::sync::Arc;

use lineside_wire::{AlignedBuffer, Datatype, InvalidTensor, Shape, Tensor};

/// Most bytes of the inputs of a joined run: as many as one call may bring. Rows so large gain nothing by company, and
/// the copy would take the memory of as many calls again.
const JOINED_BYTES_MAX: u64 = 64 << 20;

/// Why outputs cannot be given back to those who asked: the model does not treat its rows one by one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output {output:?} has {given} rows for {sent} that were sent together")]
pub(crate) struct NotSplit {
    pub(crate) output: String,
    pub(crate) given: u64,
    pub(crate) sent: u64,
}

/// What a request must share with others to be joined to them in runs of at most so many rows: the shape of each input
/// behind its first dimension.
///
/// `None` for one that runs alone: its inputs do not have the same number of rows, of which the model is the judge, or
/// so many rows of its kind are too much.
pub(crate) fn shape(inputs: &[Tensor], rows_max: u64) -> Option<Arc<[u64]>> {
    let rows = inputs.first()?.shape.dims().first().copied().filter(|rows| 0 < *rows)?;
    if inputs.iter().any(|input| input.shape.dims().first() != Some(&rows)) {
        return None;
    }
    let bytes: u64 = inputs.iter().map(|input| input.bytes.len() as u64).sum();
    if JOINED_BYTES_MAX < (bytes / rows).saturating_mul(rows_max) {
        return None;
    }
    // Ranks too: [2] and [3, 4] are not [2, 3] and [4].
    let rest = inputs.iter().map(|input| &input.shape.dims()[1..]);
    Some(rest.flat_map(|rest| std::iter::once(rest.len() as u64).chain(rest.iter().copied())).collect())
}

/// Puts the inputs of several requests together. All have the same inputs in the same order, and the same shapes behind
/// the first dimension.
///
/// # Errors
/// All of them have more elements than can be counted.
pub(crate) fn join(requests: &[&[Tensor]]) -> Result<Vec<Tensor>, InvalidTensor> {
    let Some(first) = requests.first() else { return Ok(Vec::new()) };
    let together = |(at, input): (usize, &Tensor)| {
        let parts = || requests.iter().filter_map(|request| request.get(at));
        let rows = parts()
            .filter_map(|part| part.shape.dims().first())
            .fold(0, |sum: u64, rows| sum.saturating_add(*rows));
        let mut dims = input.shape.dims().to_vec();
        if let Some(first) = dims.first_mut() {
            *first = rows;
        }
        let mut bytes = AlignedBuffer::with_length(parts().map(|part| part.bytes.len()).sum());
        parts().for_each(|part| {
            bytes.fill(&part.bytes);
        });
        // Each part was checked when it came: their elements one after the other are a tensor again.
        let (name, shape) = (input.name.clone(), Shape::new(dims)?);
        Ok(Tensor { name, datatype: input.datatype, shape, bytes: bytes.freeze() })
    };
    first.iter().enumerate().map(together).collect()
}

/// Gives each request its rows of the outputs.
///
/// # Errors
/// An output has another number of rows than were sent.
pub(crate) fn split(outputs: &[Tensor], rows: &[u64]) -> Result<Vec<Vec<Tensor>>, NotSplit> {
    let mut parts: Vec<_> = rows.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        let cuts = cuts(output, rows)?;
        let mut start = 0;
        for ((part, rows), end) in parts.iter_mut().zip(rows).zip(cuts) {
            part.push(slice(output, *rows, start..end)?);
            start = end;
        }
    }
    Ok(parts)
}

/// Where each request's bytes end.
fn cuts(output: &Tensor, rows: &[u64]) -> Result<Vec<usize>, NotSplit> {
    let sent = rows.iter().sum();
    let given = output.shape.dims().first().copied().unwrap_or(0);
    if given != sent || sent == 0 {
        return Err(NotSplit { output: output.name.clone(), given, sent });
    }
    let mut cuts = Vec::with_capacity(rows.len());
    if output.datatype == Datatype::Bytes {
        let of_one = output.shape.elements() / sent;
        let mut end = 0;
        for rows in rows {
            end = (0..rows * of_one).fold(end, |at, _| behind(&output.bytes, at));
            cuts.push(end);
        }
    } else {
        // A tensor's bytes are a whole number of rows.
        let of_one = output.bytes.len() / usize::try_from(sent).unwrap_or(usize::MAX);
        let mut end = 0_usize;
        for rows in rows {
            end += of_one * usize::try_from(*rows).unwrap_or(0);
            cuts.push(end);
        }
    }
    Ok(cuts)
}

/// Where the text that begins here ends: its length lies before it.
fn behind(bytes: &[u8], at: usize) -> usize {
    let length = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
    (at + 4 + u32::from_le_bytes(length) as usize).min(bytes.len())
}

fn slice(output: &Tensor, rows: u64, bytes: std::ops::Range<usize>) -> Result<Tensor, NotSplit> {
    let mut dims = output.shape.dims().to_vec();
    if let Some(first) = dims.first_mut() {
        *first = rows;
    }
    let failed = |_| NotSplit { output: output.name.clone(), given: output.shape.dims()[0], sent: rows };
    let shape = Shape::new(dims).map_err(failed)?;
    Ok(Tensor {
        name: output.name.clone(),
        datatype: output.datatype,
        shape,
        bytes: output.bytes.slice(bytes),
    })
}

#[cfg(test)]
mod tests {
    use lineside_wire::bytes_tensor;
    use proptest::prelude::*;

    use super::*;

    fn floats(name: &str, dims: &[u64], first: f32) -> Tensor {
        let count = dims.iter().product::<u64>();
        let bytes: Vec<u8> = (0..count).flat_map(|at| (first + at as f32).to_le_bytes()).collect();
        Tensor::new(name, Datatype::Fp32, dims.to_vec(), bytes.into()).unwrap()
    }

    fn texts(dims: &[u64], texts: &[&str]) -> Tensor {
        let bytes = bytes_tensor(texts.iter().map(|text| text.as_bytes())).unwrap();
        Tensor::new("t", Datatype::Bytes, dims.to_vec(), bytes.into()).unwrap()
    }

    #[test]
    fn inputs_lie_one_after_the_other_and_aligned() {
        let (a, b) = (
            [floats("x", &[1, 2], 0.0), texts(&[1], &["a"])],
            [floats("x", &[2, 2], 2.0), texts(&[2], &["", "bc"])],
        );
        let joined = join(&[&a, &b]).unwrap();
        assert_eq!(joined, [floats("x", &[3, 2], 0.0), texts(&[3], &["a", "", "bc"])]);
        assert_eq!(joined[0].bytes.as_ptr().align_offset(lineside_wire::TENSOR_ALIGN), 0);
    }

    #[test]
    fn outputs_are_slices_of_one_allocation() {
        let (numbers, words) = (floats("y", &[3, 2], 0.0), texts(&[3, 2], &["a", "", "b", "cd", "", "e"]));
        let parts = split(&[numbers.clone(), words], &[1, 2]).unwrap();
        assert_eq!(parts[0], [floats("y", &[1, 2], 0.0), texts(&[1, 2], &["a", ""])]);
        assert_eq!(parts[1], [floats("y", &[2, 2], 2.0), texts(&[2, 2], &["b", "cd", "", "e"])]);
        assert_eq!(parts[1][0].bytes.as_ptr(), numbers.bytes[8..].as_ptr());
    }

    #[test]
    fn an_output_that_is_not_of_rows_is_not_split() {
        let refused = split(&[floats("y", &[1, 2], 0.0)], &[1, 2]).unwrap_err();
        assert_eq!(refused, NotSplit { output: "y".to_owned(), given: 1, sent: 3 });
        assert!(split(&[floats("y", &[], 0.0)], &[1]).is_err());
        let empty = split(&[floats("y", &[3, 0], 0.0)], &[1, 2]).unwrap();
        assert_eq!(empty[1][0].shape.dims(), [2, 0]);
    }

    #[test]
    fn only_what_has_the_same_rows_in_every_input_has_a_shape() {
        let shape_of = |dims: &[&[u64]]| {
            let inputs: Vec<_> = dims.iter().map(|dims| floats("x", dims, 0.0)).collect();
            shape(&inputs, 16)
        };
        assert_eq!(shape_of(&[&[2, 3], &[2]]), shape_of(&[&[9, 3], &[9]]));
        assert_ne!(shape_of(&[&[2, 3]]), shape_of(&[&[2, 4]]));
        assert_ne!(shape_of(&[&[2, 2], &[2, 3, 4]]), shape_of(&[&[2, 2, 3], &[2, 4]]));
        for alone in [&[&[2_u64, 3][..], &[1]][..], &[&[]], &[&[0, 3]], &[]] {
            assert_eq!(shape_of(alone), None, "{alone:?}");
        }
        assert!(shape_of(&[&[1, 1 << 20]]).is_some());
        assert_eq!(shape_of(&[&[1, (1 << 20) + 1]]), None, "sixteen of them are more than 64 MiB");
    }

    proptest! {
        #[test]
        fn what_was_joined_comes_apart_as_it_was(
            rows in prop::collection::vec(1_u64..5, 1..6), width in 0_u64..4, words in any::<bool>(),
        ) {
            let requests: Vec<Vec<Tensor>> = rows.iter().enumerate().map(|(at, rows)| {
                let count = (rows * 2) as usize;
                let words: Vec<String> = (0..count).map(|word| "x".repeat((at * 7 + word * 3) % 5)).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                vec![floats("x", &[*rows, width], at as f32), texts(&[*rows, 2], &words)]
            }).map(|mut inputs| { inputs.truncate(1 + usize::from(words)); inputs }).collect();
            let slices: Vec<&[Tensor]> = requests.iter().map(Vec::as_slice).collect();
            let joined = join(&slices).unwrap();
            for tensor in &joined {
                prop_assert!(tensor.shape.check(tensor.datatype, &tensor.bytes).is_ok());
            }
            prop_assert_eq!(split(&joined, &rows).unwrap(), requests);
        }
    }
}
