//! The `data` of a tensor in JSON: numbers, flat or nested, straight into the bytes that a node wants.
//!
//! The text is known to be JSON (the envelope's parser walked over it), so this only has to tell its tokens apart.
//! Each number is parsed as its own type: 64-bit integers stay exact, and an FP32 is not rounded twice.

use std::{borrow::Cow, str::FromStr};

use lineside_wire::{Datatype, RANK_MAX};

use super::excerpt;

/// The bytes of `elements` elements of this type, little-endian, or what is wrong in words.
pub(super) fn parse(text: &str, datatype: Datatype, elements: u64) -> Result<Vec<u8>, String> {
    // Every element takes two characters at least, so the text bounds the memory.
    let expected = usize::try_from(elements).unwrap_or(usize::MAX);
    let width = datatype.width().unwrap_or(4);
    let mut bytes = Vec::with_capacity(expected.min(text.len() / 2 + 1) * width);
    let out = &mut bytes;
    let count = match datatype {
        Datatype::Bool => each(text, elements, |token| boolean(token, out)),
        Datatype::Uint8 => each(text, elements, |token| integer::<u8, 1>(token, out, u8::to_le_bytes)),
        Datatype::Uint16 => each(text, elements, |token| integer(token, out, u16::to_le_bytes)),
        Datatype::Uint32 => each(text, elements, |token| integer(token, out, u32::to_le_bytes)),
        Datatype::Uint64 => each(text, elements, |token| integer(token, out, u64::to_le_bytes)),
        Datatype::Int8 => each(text, elements, |token| integer(token, out, i8::to_le_bytes)),
        Datatype::Int16 => each(text, elements, |token| integer(token, out, i16::to_le_bytes)),
        Datatype::Int32 => each(text, elements, |token| integer(token, out, i32::to_le_bytes)),
        Datatype::Int64 => each(text, elements, |token| integer(token, out, i64::to_le_bytes)),
        Datatype::Fp32 => each(text, elements, |token| {
            let value = token.parse::<f32>().ok().filter(|value| value.is_finite());
            value.map(|value| out.extend_from_slice(&value.to_le_bytes()))
        }),
        Datatype::Fp64 => each(text, elements, |token| {
            let value = token.parse::<f64>().ok().filter(|value| value.is_finite());
            value.map(|value| out.extend_from_slice(&value.to_le_bytes()))
        }),
        Datatype::Bytes => each(text, elements, |token| string(token, out)),
        Datatype::Fp16 | Datatype::Bf16 => {
            return Err(format!(
                "{datatype} has no form in JSON: send it as binary tensor data (`binary_data_size`)"
            ));
        }
    };
    let count = count.map_err(|problem| problem.in_words(datatype, elements))?;
    if count != elements {
        return Err(format!("the shape needs {elements} elements, but data has {count}"));
    }
    Ok(bytes)
}

fn integer<T: FromStr, const N: usize>(
    token: &str,
    out: &mut Vec<u8>,
    bytes: fn(T) -> [u8; N],
) -> Option<()> {
    let value = token.parse::<T>().ok()?;
    out.extend_from_slice(&bytes(value));
    Some(())
}

fn boolean(token: &str, out: &mut Vec<u8>) -> Option<()> {
    match token {
        "true" => out.push(1),
        "false" => out.push(0),
        _ => return None,
    }
    Some(())
}

fn string(token: &str, out: &mut Vec<u8>) -> Option<()> {
    if !token.starts_with('"') {
        return None;
    }
    let text: Cow<'_, str> = serde_json::from_str::<BorrowedText<'_>>(token).ok()?.0;
    let length = u32::try_from(text.len()).ok()?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Some(())
}

#[derive(serde::Deserialize)]
struct BorrowedText<'a>(#[serde(borrow)] Cow<'a, str>);

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
}

impl Problem {
    fn in_words(&self, datatype: Datatype, elements: u64) -> String {
        match self {
            Self::Element { at, token } => format!("element {at} is {token}: {}", takes(datatype)),
            Self::TooMany => format!("the shape needs {elements} elements, but data has more"),
            Self::TooDeep => format!("data is nested deeper than {RANK_MAX} levels"),
            Self::Object => "data holds an object: use an array of elements".to_owned(),
        }
    }
}

fn takes(datatype: Datatype) -> String {
    let integers = |min: i64, max: u64| format!("{datatype} takes whole numbers from {min} to {max}");
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

/// Calls `put` with every element of `text`, in order, and counts them. `put` says `None` to refuse one.
///
/// Brackets only group: a flat array and a nested one of the same elements are the same tensor.
fn each<'a>(
    text: &'a str,
    elements: u64,
    mut put: impl FnMut(&'a str) -> Option<()>,
) -> Result<u64, Problem> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut count) = (0, 0_usize, 0_u64);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' => at += 1,
            b'[' => {
                depth += 1;
                if RANK_MAX < depth {
                    return Err(Problem::TooDeep);
                }
                at += 1;
            }
            b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'{' => return Err(Problem::Object),
            _ => {
                let end = at + token_length(&bytes[at..]);
                if count == elements {
                    return Err(Problem::TooMany);
                }
                let token = &text[at..end];
                put(token).ok_or_else(|| Problem::Element { at: count, token: excerpt(token) })?;
                count += 1;
                at = end;
            }
        }
    }
    Ok(count)
}

/// Length of the string, number or word that `bytes` begin with. They end on a character's border: a string ends
/// with its quote, and the others are ASCII.
fn token_length(bytes: &[u8]) -> usize {
    if bytes.first() != Some(&b'"') {
        let end = |byte: &u8| matches!(byte, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r');
        return bytes.iter().position(end).unwrap_or(bytes.len());
    }
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(text: &str, elements: u64) -> Result<Vec<f32>, String> {
        let bytes = parse(text, Datatype::Fp32, elements)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    #[test]
    fn nested_and_flat_data_are_the_same_tensor() {
        assert_eq!(floats("[1, 2.5, -3e2, 4]", 4), Ok(vec![1.0, 2.5, -300.0, 4.0]));
        assert_eq!(floats("[[1,2.5],[ -3e2 ,4]]", 4), Ok(vec![1.0, 2.5, -300.0, 4.0]));
        assert_eq!(floats("[]", 0), Ok(vec![]));
        assert_eq!(floats("7", 1), Ok(vec![7.0]));
    }

    #[test]
    fn whole_numbers_are_exact_to_their_last_digit() {
        let bytes = parse("[9223372036854775807,-9223372036854775808]", Datatype::Int64, 2).unwrap();
        assert_eq!(bytes, [i64::MAX.to_le_bytes(), i64::MIN.to_le_bytes()].concat());
        let bytes = parse("[18446744073709551615]", Datatype::Uint64, 1).unwrap();
        assert_eq!(bytes, u64::MAX.to_le_bytes());
    }

    #[test]
    fn each_wrong_element_is_named_with_what_the_type_takes() {
        let wrong = [
            ("[1, 300]", Datatype::Uint8, 2, "element 1 is 300: UINT8 takes whole numbers from 0 to 255"),
            ("[-1]", Datatype::Uint64, 1, "UINT64 takes"),
            ("[1.5]", Datatype::Int32, 1, "element 0 is 1.5"),
            ("[9223372036854775808]", Datatype::Int64, 1, "INT64 takes"),
            ("[1e40]", Datatype::Fp32, 1, "FP32 takes"),
            ("[1e400]", Datatype::Fp64, 1, "FP64 takes"),
            ("[null]", Datatype::Fp32, 1, "element 0 is null"),
            ("[\"1\"]", Datatype::Fp32, 1, "FP32 takes"),
            ("[1]", Datatype::Bool, 1, "BOOL takes true and false"),
            ("[1]", Datatype::Bytes, 1, "BYTES takes strings"),
            ("[\"\\ud800\"]", Datatype::Bytes, 1, "BYTES takes strings"),
            ("[1]", Datatype::Fp16, 1, "binary"),
            ("[1]", Datatype::Bf16, 1, "binary"),
            ("[1,2]", Datatype::Fp32, 1, "has more"),
            ("[1]", Datatype::Fp32, 2, "has 1"),
            ("[{}]", Datatype::Fp32, 1, "object"),
            ("[[[[[[[[[1]]]]]]]]]", Datatype::Fp32, 1, "deeper than 8"),
        ];
        for (text, datatype, elements, expected) in wrong {
            let problem = parse(text, datatype, elements).unwrap_err();
            assert!(problem.contains(expected), "{text} as {datatype}: {problem}");
        }
    }

    #[test]
    fn strings_keep_their_quotes_brackets_and_accents() {
        let bytes = parse(r#"["a\"],[", "ü\u00fc\\"]"#, Datatype::Bytes, 2).unwrap();
        assert_eq!(lineside_wire::bytes_elements(&bytes, 2).unwrap(), [&b"a\"],["[..], "üü\\".as_bytes()]);
    }
}
