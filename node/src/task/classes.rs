//! Outputs as their largest elements: texts `value:index[:label]`, as Triton's classification extension has them.
//! Pure.

use std::{cmp::Ordering, fmt::Write as _};

use bytemuck::{AnyBitPattern, NoUninit};
use half::{bf16, f16};
use lineside_wire::{Datatype, Limits, Tensor};

use super::{
    numbers::elements,
    scores::{best_first, top},
};
use crate::engine::RunError;

/// Most texts of one output: with labels of usual length, as many as fill half an answer.
const TEXTS_MAX: u64 = 1 << 18;

/// An output's `count` largest elements; of each row, where it has rows: with two dimensions or more, the first is that
/// of the rows. `labels` may be fewer than elements.
///
/// # Errors
/// The output is a scalar or holds no numbers, or the texts are more than an answer holds.
pub(crate) fn largest(output: &Tensor, count: u32, labels: &[String]) -> Result<Tensor, RunError> {
    let (rows, width) = match output.shape.dims() {
        [] => {
            return Err(RunError::Failed(format!(
                "the output {:?} is one number: it has no classes",
                output.name
            )));
        }
        [width] => (None, *width),
        [rows, rest @ ..] => (Some(*rows), rest.iter().product()),
    };
    let taken = u64::from(count).min(width);
    let texts = rows.unwrap_or(1).saturating_mul(taken);
    if TEXTS_MAX < texts {
        return Err(RunError::Failed(format!(
            "{taken} classes of {} rows are more than the {TEXTS_MAX} that an answer holds",
            rows.unwrap_or(1)
        )));
    }
    let (width, count) = (width as usize, taken as usize);
    let bytes = written(output, width, count, labels)
        .ok_or_else(|| RunError::Failed(format!("the output {:?} holds no numbers", output.name)))?;
    let max = Limits::default().payload_bytes_max;
    if u64::from(max) < bytes.len() as u64 {
        return Err(RunError::TooLarge { bytes: bytes.len() as u64, max });
    }
    let shape = rows.into_iter().chain([taken]).collect();
    Ok(Tensor::new(output.name.clone(), Datatype::Bytes, shape, bytes.into())?)
}

fn written(output: &Tensor, width: usize, count: usize, labels: &[String]) -> Option<Vec<u8>> {
    /// A value's text: six decimals where it has any.
    fn real(text: &mut String, value: f64) {
        let _infallible = match value.is_nan() {
            true => text.write_str("nan"),
            false => write!(text, "{value:.6}"),
        };
    }
    macro_rules! whole {
        ($type:ty) => {
            rows_of::<$type>(
                output,
                width,
                count,
                labels,
                |a, b| b.cmp(a),
                |text, value| {
                    let _infallible = write!(text, "{value}");
                },
            )
        };
    }
    macro_rules! real {
        ($type:ty) => {
            rows_of::<$type>(
                output,
                width,
                count,
                labels,
                |a, b| best_first(f64::from(*a), f64::from(*b)),
                |text, value| real(text, f64::from(value)),
            )
        };
    }
    Some(match output.datatype {
        Datatype::Bool | Datatype::Bytes => return None,
        Datatype::Uint8 => whole!(u8),
        Datatype::Uint16 => whole!(u16),
        Datatype::Uint32 => whole!(u32),
        Datatype::Uint64 => whole!(u64),
        Datatype::Int8 => whole!(i8),
        Datatype::Int16 => whole!(i16),
        Datatype::Int32 => whole!(i32),
        Datatype::Int64 => whole!(i64),
        Datatype::Fp16 => real!(f16),
        Datatype::Bf16 => real!(bf16),
        Datatype::Fp32 => real!(f32),
        Datatype::Fp64 => real!(f64),
    })
}

fn rows_of<T: AnyBitPattern + NoUninit>(
    output: &Tensor,
    width: usize,
    count: usize,
    labels: &[String],
    order: impl Fn(&T, &T) -> Ordering,
    show: impl Fn(&mut String, T),
) -> Vec<u8> {
    let values = elements::<T>(output);
    let mut bytes = Vec::new();
    let mut text = String::new();
    for row in values.chunks_exact(width.max(1)) {
        for index in top(row, count, &order) {
            text.clear();
            show(&mut text, row[index]);
            let _infallible = write!(text, ":{index}");
            if let Some(label) = labels.get(index).filter(|label| !label.is_empty()) {
                let _infallible = write!(text, ":{label}");
            }
            // A number, an index and a label, which settings bound.
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use lineside_wire::bytes_elements;

    use super::*;

    fn texts(
        datatype: Datatype,
        dims: &[u64],
        bytes: Vec<u8>,
        count: u32,
        labels: &[&str],
    ) -> (Vec<u64>, Vec<String>) {
        let output = Tensor::new("y", datatype, dims.to_vec(), bytes.into()).unwrap();
        let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
        let tensor = largest(&output, count, &labels).unwrap();
        let elements = bytes_elements(&tensor.bytes, tensor.shape.elements()).unwrap();
        let elements = elements.iter().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
        (tensor.shape.dims().to_vec(), elements)
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn each_row_gives_its_largest_with_index_and_label() {
        let values = floats(&[0.25, 0.5, 0.125, 1.0, f32::NAN, -2.0]);
        let (shape, all) = texts(Datatype::Fp32, &[2, 3], values.clone(), 2, &["ok", "dent"]);
        assert_eq!(shape, [2, 2]);
        assert_eq!(all, ["0.500000:1:dent", "0.250000:0:ok", "1.000000:0:ok", "-2.000000:2"]);
        let (shape, all) = texts(Datatype::Fp32, &[6], values, 9, &[]);
        assert_eq!((shape, all.len(), all[5].as_str()), (vec![6], 6, "nan:4"));
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let values = [i64::MAX, i64::MAX - 1, 3].map(i64::to_le_bytes).concat();
        let (_, all) = texts(Datatype::Int64, &[1, 3], values, 2, &[]);
        assert_eq!(all, ["9223372036854775807:0", "9223372036854775806:1"]);
        let halves = [f16::from_f32(0.5), f16::from_f32(2.0)].map(f16::to_le_bytes).concat();
        assert_eq!(texts(Datatype::Fp16, &[2], halves, 1, &[]).1, ["2.000000:1"]);
        assert_eq!(
            texts(Datatype::Uint8, &[1, 2, 2], vec![1, 4, 3, 2], 2, &[]),
            (vec![1, 2], vec!["4:1".into(), "3:2".into()])
        );
    }

    #[test]
    fn what_has_no_classes_says_so() {
        let one = Tensor::new("y", Datatype::Fp32, vec![], floats(&[1.0]).into()).unwrap();
        assert!(largest(&one, 1, &[]).unwrap_err().to_string().contains("is one number"));
        let flags = Tensor::new("y", Datatype::Bool, vec![2], vec![0, 1].into()).unwrap();
        assert!(largest(&flags, 1, &[]).unwrap_err().to_string().contains("no numbers"));
        let many =
            Tensor::new("y", Datatype::Uint8, vec![1 << 10, 1 << 10], vec![0; 1 << 20].into()).unwrap();
        assert!(largest(&many, 1 << 10, &[]).unwrap_err().to_string().contains("more than the 262144"));
        assert_eq!(largest(&many, 1, &[]).unwrap().shape.dims(), [1 << 10, 1]);
        assert_eq!(texts(Datatype::Uint8, &[2, 0], vec![], 3, &[]), (vec![2, 0], vec![]));
    }
}
