//! The `input` of an embeddings request: texts or tokens, one or many, into the elements of a BYTES tensor. Pure.

use lineside_wire::{Fault, Task, bytes_tensor};
use serde::de::DeserializeOwned;

use crate::{bounded::List, oip::invalid};

/// Most texts of one request, as OpenAI has it.
pub(crate) const ITEMS_MAX: usize = 2_048;

/// Most tokens of one text. Models in the field stop at 32,768.
const TOKENS_MAX: usize = 65_536;

/// Bytes that reading takes at most for each byte of the JSON: a token is two bytes there at least, and four here, once
/// in its list, which may have twice the room that it needs, and once in the tensor.
pub(super) const GROWTH: usize = 6;

/// What is to become vectors.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Input {
    /// Which input of the task this is.
    pub(super) name: &'static str,
    /// How many vectors are wanted: at least one.
    pub(super) items: u32,
    /// Each item, led by its length.
    pub(super) bytes: Vec<u8>,
}

/// Reads the member `input`.
///
/// # Errors
/// It has none of the four forms, is empty, or holds too much.
pub(super) fn read(json: &str) -> Result<Input, Fault> {
    let inner = json.trim_start().strip_prefix('[').map(str::trim_start);
    match inner.and_then(|inner| inner.bytes().next()) {
        None if json.starts_with('"') => texts(&[parsed(json)?]),
        Some(b']') => Err(invalid("input is empty: give at least one text")),
        Some(b'"') => texts(&parsed::<List<String, ITEMS_MAX>>(json)?.0),
        Some(b'[') => tokens(parsed::<List<List<u32, TOKENS_MAX>, ITEMS_MAX>>(json)?.0),
        Some(b'0'..=b'9') => tokens(vec![parsed(json)?]),
        _ => Err(invalid(FORMS)),
    }
}

const FORMS: &str = "input must be a text, a list of texts, a list of tokens, or a list of lists of tokens";

fn parsed<T: DeserializeOwned>(json: &str) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|error| invalid(format!("{FORMS}: {error}")))
}

fn texts(texts: &[String]) -> Result<Input, Fault> {
    if texts.iter().any(String::is_empty) {
        return Err(invalid("input has an empty text: it has no vector"));
    }
    input(Task::TEXT, texts.iter().map(String::as_bytes))
}

fn tokens(lists: Vec<List<u32, TOKENS_MAX>>) -> Result<Input, Fault> {
    if lists.iter().any(|list| list.0.is_empty()) {
        return Err(invalid("input has an empty list of tokens: it has no vector"));
    }
    if lists.iter().any(|list| TOKENS_MAX < list.0.len()) {
        return Err(invalid(format!("input has a text of more than {TOKENS_MAX} tokens")));
    }
    let items: Vec<Vec<u8>> =
        lists.into_iter().map(|list| list.0.iter().flat_map(|token| token.to_le_bytes()).collect()).collect();
    input(Task::TOKENS, items.iter().map(Vec::as_slice))
}

fn input<'a>(name: &'static str, items: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<Input, Fault> {
    let count = items.len();
    if ITEMS_MAX < count {
        return Err(invalid(format!("input has more than {ITEMS_MAX} items: send them in several requests")));
    }
    let bytes = bytes_tensor(items).map_err(|error| invalid(error.to_string()))?;
    Ok(Input { name, items: u32::try_from(count).unwrap_or(u32::MAX), bytes })
}

#[cfg(test)]
mod tests {
    use lineside_wire::FaultCode;

    use super::*;

    #[test]
    fn the_four_forms_are_told_apart_by_how_they_begin() {
        let text = read(r#" "Ri\u00df""#.trim_start()).unwrap();
        assert_eq!((text.name, text.items, text.bytes), ("text", 1, b"\x04\0\0\0Ri\xc3\x9f".to_vec()));
        let texts = read(r#"[ "a", "bc" ]"#).unwrap();
        assert_eq!((texts.items, texts.bytes), (2, b"\x01\0\0\0a\x02\0\0\0bc".to_vec()));
        let tokens = read("[1, 258]").unwrap();
        let bytes = b"\x08\0\0\0\x01\0\0\0\x02\x01\0\0".to_vec();
        assert_eq!(tokens, Input { name: "tokens", items: 1, bytes });
        let lists = read("[[1],[2,3]]").unwrap();
        assert_eq!((lists.name, lists.items, lists.bytes.len()), ("tokens", 2, 20));
    }

    #[test]
    fn what_has_no_vector_is_refused() {
        let wrong = [
            "null",
            "7",
            "{}",
            "[]",
            "[ ]",
            "[[]]",
            "[[1],[]]",
            "\"\"",
            r#"["a",""]"#,
            r#"["a",1]"#,
            "[1,\"a\"]",
            "[-1]",
            "[1.5]",
            "[4294967296]",
            "[null]",
            "[[1],2]",
        ];
        for json in wrong {
            assert_eq!(read(json).map_err(|fault| fault.code), Err(FaultCode::InvalidParams), "{json}");
        }
    }

    #[test]
    fn a_request_has_as_many_items_as_it_may_and_no_more() {
        let items = |count: usize| format!("[{}]", vec!["\"a\""; count].join(","));
        assert_eq!(read(&items(2_048)).unwrap().items, 2_048);
        assert!(read(&items(2_049)).unwrap_err().message.contains("2048"));
        let tokens = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert!(read(&tokens(65_536)).is_ok());
        assert!(read(&tokens(65_537)).unwrap_err().message.contains("65536"));
    }
}
