//! Made-up rows, and whether two answers to a row are the same.

use half::{bf16, f16};
use lineside_wire::{AlignedBuffer, Datatype, Tensor, TensorSpec, bytes_tensor};

use crate::engine::RunError;

/// Most elements of a made-up input: 64 MiB of FP32, four times the largest image that models take.
pub(crate) const ELEMENTS_MAX: u64 = 1 << 24;

/// How far two floating-point answers to one row may lie apart, as a part of the largest magnitude in them. A matrix
/// product of many rows adds up in another order than one of a single row.
const APART_MAX: f64 = 1e-4;

/// The same for numbers of 16 bits, of which one step is up to 0.8 %.
const APART_MAX_HALF: f64 = 2e-2;

/// A tensor of rows of these dimensions, one for each seed. The same seed makes the same row.
///
/// Numbers with a fraction lie in 0..1, where roots and logarithms are defined; whole ones are below `whole`; texts are `a`.
pub(super) fn tensor(spec: &TensorSpec, dims: &[u64], seeds: &[u64], whole: u64) -> Result<Tensor, RunError> {
    let elements = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
    let total = elements.and_then(|elements| elements.checked_mul(seeds.len() as u64));
    let elements =
        elements.filter(|_| total.is_some_and(|total| total <= ELEMENTS_MAX)).ok_or_else(|| {
            RunError::Failed(format!(
                "a made-up input {:?} of {dims:?} is too large: see [warmup] shape",
                spec.name
            ))
        })?;
    let mut shape = dims.to_vec();
    if let Some(first) = shape.first_mut() {
        *first *= seeds.len() as u64;
    }
    let mut bytes = Vec::new();
    for seed in seeds {
        let mut dice = Dice(*seed);
        for _ in 0..elements {
            dice.throw(spec.datatype, whole, &mut bytes);
        }
    }
    let bytes = match spec.datatype {
        Datatype::Bytes => bytes_tensor(bytes.chunks(1))?.into(),
        _ => AlignedBuffer::copy_of(&bytes),
    };
    Ok(Tensor::new(spec.name.clone(), spec.datatype, shape, bytes)?)
}

/// Whether what is made up of this type is a whole number.
pub(super) fn is_whole(datatype: Datatype) -> bool {
    numbers(datatype, &[]).is_none() && !matches!(datatype, Datatype::Bytes | Datatype::Bool)
}

/// Chance that is the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, datatype: Datatype, whole: u64, bytes: &mut Vec<u8>) {
        let random = self.next();
        // A byte with a sign has half of them.
        let most = if datatype == Datatype::Int8 { whole.min(128) } else { whole };
        let whole = if datatype == Datatype::Bool { random & 1 } else { random % most };
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let part = (random >> 11) as f64 / (1_u64 << 53) as f64;
        match datatype {
            Datatype::Fp16 => bytes.extend(f16::from_f64(part).to_le_bytes()),
            Datatype::Bf16 => bytes.extend(bf16::from_f64(part).to_le_bytes()),
            #[expect(clippy::cast_possible_truncation, reason = "chance needs no more digits")]
            Datatype::Fp32 => bytes.extend((part as f32).to_le_bytes()),
            Datatype::Fp64 => bytes.extend(part.to_le_bytes()),
            Datatype::Bytes => bytes.push(b'a'),
            Datatype::Bool
            | Datatype::Uint8
            | Datatype::Uint16
            | Datatype::Uint32
            | Datatype::Uint64
            | Datatype::Int8
            | Datatype::Int16
            | Datatype::Int32
            | Datatype::Int64 => {
                bytes.extend(&whole.to_le_bytes()[..datatype.width().unwrap_or(1)]);
            }
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Whether an output of two rows together is what each gave alone: numbers with a fraction nearly, all others exactly. So a
/// model whose whole numbers come from a close race of numbers with a fraction counts as one that mixes its rows; that
/// costs speed and never an answer.
///
/// # Errors
/// What differs.
pub(super) fn same(alone: [&Tensor; 2], together: &Tensor) -> Result<(), String> {
    let name = &together.name;
    let (first, behind) = match together.shape.dims().split_first() {
        Some((first, behind)) => (*first, behind),
        None => return Err(format!("the output {name:?} has no dimensions")),
    };
    for alone in alone {
        match alone.shape.dims().split_first() {
            Some((1, alone)) if first == 2 && alone == behind => {}
            Some((1, _)) if first == 2 => {
                return Err(format!("the shape of the output {name:?} depends on the row's neighbours"));
            }
            _ => {
                let (one, two) = (alone.shape.dims(), together.shape.dims());
                return Err(format!(
                    "the first dimension of the output {name:?} does not follow the inputs': {one:?} for one row, \
                     {two:?} for two"
                ));
            }
        }
    }
    if together.datatype == Datatype::Bytes {
        let joined = [&alone[0].bytes[..], &alone[1].bytes[..]].concat();
        return if joined == together.bytes { Ok(()) } else { Err(depends(name, None)) };
    }
    let (one, two) = together.bytes.split_at(together.bytes.len() / 2);
    match apart(together.datatype, &alone[0].bytes, one).max(apart(together.datatype, &alone[1].bytes, two)) {
        apart if apart <= most_apart(together.datatype) => Ok(()),
        apart => Err(depends(name, Some(apart))),
    }
}

fn depends(name: &str, apart: Option<f64>) -> String {
    let by = apart.filter(|apart| apart.is_finite()).map(|apart| format!(", by {:.2} %", 100.0 * apart));
    format!("a row's output {name:?} depends on its neighbours{}", by.unwrap_or_default())
}

fn most_apart(datatype: Datatype) -> f64 {
    match datatype {
        Datatype::Fp16 | Datatype::Bf16 => APART_MAX_HALF,
        Datatype::Fp32 | Datatype::Fp64 => APART_MAX,
        Datatype::Bool
        | Datatype::Uint8
        | Datatype::Uint16
        | Datatype::Uint32
        | Datatype::Uint64
        | Datatype::Int8
        | Datatype::Int16
        | Datatype::Int32
        | Datatype::Int64
        | Datatype::Bytes => 0.0,
    }
}

/// How far two answers lie apart, as a part of the largest magnitude in them; infinite where that cannot be said.
fn apart(datatype: Datatype, one: &[u8], other: &[u8]) -> f64 {
    if one == other {
        return 0.0;
    }
    let (Some(one), Some(other)) = (numbers(datatype, one), numbers(datatype, other)) else {
        return f64::INFINITY;
    };
    let finite = one.iter().chain(&other).filter(|number| number.is_finite());
    let largest = finite.fold(0.0_f64, |largest, number| largest.max(number.abs()));
    let differ = one.iter().zip(&other).map(|(one, other)| {
        let is_same = one == other || one.is_nan() && other.is_nan();
        let difference = (one - other).abs();
        if is_same {
            0.0
        } else if difference.is_nan() {
            f64::INFINITY
        } else {
            difference / largest
        }
    });
    if one.len() == other.len() { differ.fold(0.0, f64::max) } else { f64::INFINITY }
}

/// Numbers with a fraction; `None` for all others.
fn numbers(datatype: Datatype, bytes: &[u8]) -> Option<Vec<f64>> {
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    match datatype {
        Datatype::Fp16 => Some(pairs().map(|bytes| f16::from_le_bytes(bytes).to_f64()).collect()),
        Datatype::Bf16 => Some(pairs().map(|bytes| bf16::from_le_bytes(bytes).to_f64()).collect()),
        Datatype::Fp32 => {
            let fours = bytes.as_chunks::<4>().0.iter();
            Some(fours.map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
        }
        Datatype::Fp64 => {
            Some(bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
        }
        Datatype::Bool
        | Datatype::Uint8
        | Datatype::Uint16
        | Datatype::Uint32
        | Datatype::Uint64
        | Datatype::Int8
        | Datatype::Int16
        | Datatype::Int32
        | Datatype::Int64
        | Datatype::Bytes => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(dims: &[u64], values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new("y", Datatype::Fp32, dims.to_vec(), bytes.into()).unwrap()
    }

    fn ints(dims: &[u64], values: &[i32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new("y", Datatype::Int32, dims.to_vec(), bytes.into()).unwrap()
    }

    #[test]
    fn rows_are_made_up_the_same_each_time_and_two_of_them_are_one_behind_the_other() {
        for datatype in Datatype::ALL {
            let spec = TensorSpec { name: "x".to_owned(), datatype, shape: vec![-1, 8] };
            let one = tensor(&spec, &[1, 8], &[5], 2).unwrap();
            let other = tensor(&spec, &[1, 8], &[6], 2).unwrap();
            let both = tensor(&spec, &[1, 8], &[5, 6], 2).unwrap();
            assert_eq!(both.shape.dims(), [2, 8]);
            assert_eq!(both.bytes, [one.bytes.clone(), other.bytes.clone()].concat());
            assert!(datatype == Datatype::Bytes || one.bytes != other.bytes, "{datatype}");
        }
        let spec = TensorSpec { name: "x".to_owned(), datatype: Datatype::Fp32, shape: vec![-1, -1] };
        let too_large = tensor(&spec, &[1, 1 << 30], &[1], 2).unwrap_err().to_string();
        assert!(too_large.contains("[warmup] shape"), "{too_large}");
        assert!(tensor(&spec, &[1 << 40, 1 << 40], &[1], 2).is_err());
    }

    #[test]
    fn answers_that_differ_by_rounding_are_the_same() {
        let alone = [&floats(&[1, 2], &[1.0, 100.0]), &floats(&[1, 2], &[f32::NAN, f32::INFINITY])];
        let near = floats(&[2, 2], &[1.001, 100.0, f32::NAN, f32::INFINITY]);
        assert_eq!(same(alone, &near), Ok(()));
        let far = floats(&[2, 2], &[3.0, 100.0, f32::NAN, f32::INFINITY]);
        assert_eq!(
            same(alone, &far).unwrap_err(),
            "a row's output \"y\" depends on its neighbours, by 2.00 %"
        );
        let gone = floats(&[2, 2], &[1.0, f32::NAN, f32::NAN, f32::INFINITY]);
        assert!(same(alone, &gone).is_err());
    }

    #[test]
    fn whole_numbers_are_the_same_or_not() {
        let alone = [&ints(&[1], &[1_000_000]), &ints(&[1], &[2])];
        assert_eq!(same(alone, &ints(&[2], &[1_000_000, 2])), Ok(()));
        assert!(same(alone, &ints(&[2], &[1_000_001, 2])).unwrap_err().contains("depends on its neighbours"));
        assert!(same(alone, &ints(&[2], &[2, 1_000_000])).is_err(), "rows that change places are mixed too");
    }

    #[test]
    fn an_output_that_does_not_follow_the_rows_is_told_with_its_shapes() {
        let alone = [&ints(&[1, 3], &[0; 3]), &ints(&[1, 3], &[0; 3])];
        let told = same(alone, &ints(&[1, 3], &[0; 3])).unwrap_err();
        assert!(told.contains("[1, 3] for one row, [1, 3] for two"), "{told}");
        assert!(same(alone, &ints(&[2, 2], &[0; 4])).unwrap_err().contains("shape of the output"));
        assert!(same(alone, &ints(&[], &[0])).unwrap_err().contains("no dimensions"));
    }
}
