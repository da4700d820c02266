//! The `data` of a tensor in JSON: numbers, flat or nested, straight into the bytes that a node wants.
//!
//! The text is walked over once: what is read here has not been looked at by a parser before, so this also decides
//! whether it is JSON. Each number is parsed as its own type, see [`super::number`].

use std::num::NonZeroUsize;

use lineside_wire::{Datatype, RANK_MAX};

use super::{excerpt, number};
use crate::bounded::Text;

/// The bytes of the elements, little-endian, and the length of their text.
pub(crate) type Parsed = (Vec<u8>, usize);

/// Reads `elements` elements of this type from the start of `text`, or says what is wrong in words.
pub(crate) fn parse(text: &[u8], datatype: Datatype, elements: u64) -> Result<Parsed, String> {
    // Every element takes two characters at least, so the text bounds the memory.
    let expected = usize::try_from(elements).unwrap_or(usize::MAX);
    let width = datatype.width().unwrap_or(4);
    let mut bytes = Vec::with_capacity(expected.min(text.len() / 2 + 1) * width);
    let out = &mut bytes;
    let walked = match datatype {
        Datatype::Bool => each(text, elements, |text| boolean(text, out)),
        Datatype::Uint8 => each(text, elements, |text| put(number::whole::<u8>(text), out, u8::to_le_bytes)),
        Datatype::Uint16 => each(text, elements, |text| put(number::whole(text), out, u16::to_le_bytes)),
        Datatype::Uint32 => each(text, elements, |text| put(number::whole(text), out, u32::to_le_bytes)),
        Datatype::Uint64 => each(text, elements, |text| put(number::whole(text), out, u64::to_le_bytes)),
        Datatype::Int8 => each(text, elements, |text| put(number::whole(text), out, i8::to_le_bytes)),
        Datatype::Int16 => each(text, elements, |text| put(number::whole(text), out, i16::to_le_bytes)),
        Datatype::Int32 => each(text, elements, |text| put(number::whole(text), out, i32::to_le_bytes)),
        Datatype::Int64 => each(text, elements, |text| put(number::whole(text), out, i64::to_le_bytes)),
        Datatype::Fp32 => each(text, elements, |text| put(number::fp32(text), out, f32::to_le_bytes)),
        Datatype::Fp64 => each(text, elements, |text| put(number::fp64(text), out, f64::to_le_bytes)),
        Datatype::Bytes => each(text, elements, |text| string(text, out)),
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(format!(
                "{datatype} has no form in JSON: send it as binary tensor data (`binary_data_size`), or as base64 of \
                 its bytes (`\"encoding\":\"base64\"`)"
            ));
        }
    };
    let (count, length) = walked.map_err(|problem| problem.in_words(datatype, elements))?;
    if count != elements {
        return Err(format!("the shape needs {elements} elements, but data has {count}"));
    }
    Ok((bytes, length))
}

#[inline(always)]
fn put<T, const N: usize>(
    read: Option<(T, NonZeroUsize)>,
    out: &mut Vec<u8>,
    bytes: fn(T) -> [u8; N],
) -> Option<NonZeroUsize> {
    let (value, length) = read?;
    out.extend_from_slice(&bytes(value));
    Some(length)
}

fn boolean(text: &[u8], out: &mut Vec<u8>) -> Option<NonZeroUsize> {
    let (value, length) = match text {
        [b't', b'r', b'u', b'e', ..] => (1, 4),
        [b'f', b'a', b'l', b's', b'e', ..] => (0, 5),
        _ => return None,
    };
    out.push(value);
    NonZeroUsize::new(length)
}

fn string(text: &[u8], out: &mut Vec<u8>) -> Option<NonZeroUsize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let length = token_length(text);
    let text = serde_json::from_slice::<Text<'_>>(text.get(..length)?).ok()?.0;
    out.extend_from_slice(&u32::try_from(text.len()).ok()?.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    NonZeroUsize::new(length)
}

/// What is wrong with `data`.
enum Problem {
    /// An element that is not of the type.
    Element {
        at: u64,
        token: String,
    },
    TooMany,
    TooDeep,
    Object,
    /// It is no JSON, from this byte on.
    Broken(usize),
    /// It ends too early.
    Ends,
}

impl Problem {
    fn in_words(&self, datatype: Datatype, elements: u64) -> String {
        match self {
            Self::Element { at, token } => format!("element {at} is {token}: {}", takes(datatype)),
            Self::TooMany => format!("the shape needs {elements} elements, but data has more"),
            Self::TooDeep => format!("data is nested deeper than {RANK_MAX} levels"),
            Self::Object => "data holds an object: use an array of elements".to_owned(),
            Self::Broken(at) => format!("data is no JSON from its byte {at} on: use [1,2] or [[1],[2]]"),
            Self::Ends => "EOF: the JSON ends within data".to_owned(),
        }
    }
}

fn takes(datatype: Datatype) -> String {
    let integers = |min: i64, max: u64| {
        format!("{datatype} takes whole numbers from {min} to {max}, without a point or a power of ten")
    };
    match datatype {
        Datatype::Bool => "BOOL takes true and false".to_owned(),
        Datatype::Uint8 => integers(0, u8::MAX.into()),
        Datatype::Uint16 => integers(0, u16::MAX.into()),
        Datatype::Uint32 => integers(0, u32::MAX.into()),
        Datatype::Uint64 => integers(0, u64::MAX),
        Datatype::Int8 => integers(i8::MIN.into(), i8::MAX.unsigned_abs().into()),
        Datatype::Int16 => integers(i16::MIN.into(), i16::MAX.unsigned_abs().into()),
        Datatype::Int32 => integers(i32::MIN.into(), i32::MAX.unsigned_abs().into()),
        Datatype::Int64 => integers(i64::MIN, i64::MAX.unsigned_abs()),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            format!("{datatype} takes numbers within its range; NaN and infinity need binary tensor data")
        }
        Datatype::Bytes => "BYTES takes strings; bytes that are no text need binary tensor data".to_owned(),
    }
}

/// Calls `put` at every element of the value that `text` begins with, in order. `put` says the element's length, or
/// `None` to refuse it. Gives the count of elements and the length of the value.
///
/// Brackets only group: a flat array and a nested one of the same elements are the same tensor.
#[inline(always)]
fn each(
    text: &[u8],
    elements: u64,
    mut put: impl FnMut(&[u8]) -> Option<NonZeroUsize>,
) -> Result<(u64, usize), Problem> {
    let (mut at, mut depth, mut count) = (0, 0_usize, 0_u64);
    // Each round is at the place of a value.
    loop {
        at = space(text, at);
        match text.get(at) {
            None => return Err(Problem::Ends),
            Some(b'[') => {
                depth += 1;
                if RANK_MAX < depth {
                    return Err(Problem::TooDeep);
                }
                at = space(text, at + 1);
                if text.get(at) != Some(&b']') {
                    continue;
                }
            }
            Some(b'{') => return Err(Problem::Object),
            Some(_) => {
                if count == elements {
                    return Err(Problem::TooMany);
                }
                let rest = &text[at..];
                let Some(length) = put(rest) else { return Err(refused(rest, at, count)) };
                count += 1;
                at += length.get();
            }
        }
        // And here behind one.
        loop {
            if depth == 0 {
                return Ok((count, at));
            }
            at = space(text, at);
            match text.get(at) {
                Some(b',') => {
                    at += 1;
                    break;
                }
                Some(b']') => {
                    at += 1;
                    depth -= 1;
                }
                Some(_) => return Err(Problem::Broken(at)),
                None => return Err(Problem::Ends),
            }
        }
    }
}

/// What is wrong with an element that is not of the type.
#[cold]
fn refused(rest: &[u8], at: usize, count: u64) -> Problem {
    // Longer than any that is repeated in words.
    const SHOWN_BYTES_MAX: usize = 512;
    let length = token_length(rest).min(SHOWN_BYTES_MAX);
    match length {
        0 => Problem::Broken(at),
        _ => Problem::Element { at: count, token: excerpt(&String::from_utf8_lossy(&rest[..length])) },
    }
}

/// Where the next byte is that is no space.
#[inline(always)]
fn space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

/// Length of the string, number or word that `text` begins with, right or wrong.
pub(super) fn token_length(text: &[u8]) -> usize {
    if text.first() != Some(&b'"') {
        let end = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
        return text.iter().position(end).unwrap_or(text.len());
    }
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(text: &str, elements: u64) -> Result<Vec<f32>, String> {
        let (bytes, length) = parse(text.as_bytes(), Datatype::Fp32, elements)?;
        assert_eq!(length, text.len());
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    #[test]
    fn nested_and_flat_data_are_the_same_tensor() {
        assert_eq!(floats("[1, 2.5, -3e2, 4]", 4), Ok(vec![1.0, 2.5, -300.0, 4.0]));
        assert_eq!(floats("[[1,2.5],[ -3e2 ,4]\n]", 4), Ok(vec![1.0, 2.5, -300.0, 4.0]));
        assert_eq!(floats("[]", 0), Ok(vec![]));
        assert_eq!(floats("[[],[ ]]", 0), Ok(vec![]));
        assert_eq!(floats("7", 1), Ok(vec![7.0]));
    }

    #[test]
    fn what_follows_the_value_is_left_alone() {
        let length = |text: &str, datatype| parse(text.as_bytes(), datatype, 1).map(|(_, length)| length);
        assert_eq!(length("[1]}, [2]", Datatype::Int8), Ok(3));
        assert_eq!(length("[ true ] x", Datatype::Bool), Ok(8));
        assert_eq!(length("[\"]\"],", Datatype::Bytes), Ok(5));
        assert_eq!(length("7,", Datatype::Fp64), Ok(1));
    }

    #[test]
    fn whole_numbers_are_exact_to_their_last_digit() {
        let parse = |text: &str, datatype, elements| parse(text.as_bytes(), datatype, elements).unwrap().0;
        let bytes = parse("[9223372036854775807,-9223372036854775808]", Datatype::Int64, 2);
        assert_eq!(bytes, [i64::MAX.to_le_bytes(), i64::MIN.to_le_bytes()].concat());
        let bytes = parse("[9007199254740993,9007199254740992]", Datatype::Int64, 2);
        assert_eq!(bytes, [9_007_199_254_740_993_i64.to_le_bytes(), (1_i64 << 53).to_le_bytes()].concat());
        assert_eq!(parse("[18446744073709551615]", Datatype::Uint64, 1), u64::MAX.to_le_bytes());
    }

    #[test]
    fn each_wrong_element_is_named_with_what_the_type_takes() {
        let wrong = [
            ("[1, 300]", Datatype::Uint8, 2, "element 1 is 300: UINT8 takes whole numbers from 0 to 255"),
            ("[-1]", Datatype::Uint64, 1, "UINT64 takes"),
            ("[1.5]", Datatype::Int32, 1, "element 0 is 1.5"),
            ("[1.0]", Datatype::Int32, 1, "element 0 is 1.0"),
            ("[1e3]", Datatype::Int64, 1, "element 0 is 1e3"),
            ("[9223372036854775808]", Datatype::Int64, 1, "INT64 takes"),
            ("[18446744073709551616]", Datatype::Uint64, 1, "UINT64 takes"),
            ("[1e40]", Datatype::Fp32, 1, "FP32 takes"),
            ("[1e400]", Datatype::Fp64, 1, "FP64 takes"),
            ("[NaN]", Datatype::Fp32, 1, "element 0 is NaN: FP32 takes numbers within its range; NaN"),
            ("[0,-Infinity]", Datatype::Fp64, 2, "element 1 is -Infinity"),
            ("[01]", Datatype::Fp32, 1, "element 0 is 01"),
            ("[1.]", Datatype::Fp32, 1, "element 0 is 1."),
            ("[null]", Datatype::Fp32, 1, "element 0 is null"),
            ("[\"1\"]", Datatype::Fp32, 1, "FP32 takes"),
            ("[1]", Datatype::Bool, 1, "BOOL takes true and false"),
            ("[tru]", Datatype::Bool, 1, "element 0 is tru"),
            ("[1]", Datatype::Bytes, 1, "BYTES takes strings"),
            ("[\"\\ud800\"]", Datatype::Bytes, 1, "BYTES takes strings"),
            ("[\"a\nb\"]", Datatype::Bytes, 1, "BYTES takes strings"),
            ("[1]", Datatype::Fp16, 1, "binary"),
            ("[1]", Datatype::Bf16, 1, "binary"),
            ("[1,2]", Datatype::Fp32, 1, "has more"),
            ("[1]", Datatype::Fp32, 2, "has 1"),
            ("[{}]", Datatype::Fp32, 1, "object"),
            ("[[[[[[[[[1]]]]]]]]]", Datatype::Fp32, 1, "deeper than 8"),
            ("[1 2]", Datatype::Fp32, 2, "no JSON from its byte 3"),
            ("[1,]", Datatype::Fp32, 2, "no JSON from its byte 3"),
            ("[,1]", Datatype::Fp32, 1, "no JSON from its byte 1"),
            ("[truex]", Datatype::Bool, 1, "no JSON from its byte 5"),
            ("[1", Datatype::Fp32, 1, "EOF"),
            ("[1,", Datatype::Fp32, 2, "EOF"),
            ("", Datatype::Fp32, 1, "EOF"),
        ];
        for (text, datatype, elements, expected) in wrong {
            let problem = parse(text.as_bytes(), datatype, elements).unwrap_err();
            assert!(problem.contains(expected), "{text} as {datatype}: {problem}");
        }
        let broken = parse(b"[\"\xff\"]", Datatype::Bytes, 1).unwrap_err();
        assert!(broken.contains("BYTES takes strings"), "{broken}");
    }

    #[test]
    fn strings_keep_their_quotes_brackets_and_accents() {
        let (bytes, _) = parse(r#"["a\"],[", "ü\u00fc\\"]"#.as_bytes(), Datatype::Bytes, 2).unwrap();
        assert_eq!(lineside_wire::bytes_elements(&bytes, 2).unwrap(), [&b"a\"],["[..], "üü\\".as_bytes()]);
    }
}
