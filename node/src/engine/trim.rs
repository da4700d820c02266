//! Takes inputs out of a graph that ONNX Runtime wrote.
//!
//! In old files every weight is an input as well, which a caller may give and nobody does. Optimising folds some of these
//! weights into others, and leaves their inputs behind: then they have no value any more, and the model does not run without
//! them. No operator uses them. So an optimised graph takes what the model takes, and nothing else.

use std::ops::Range;

/// The field of a model that holds its graph.
const GRAPH: u64 = 7;

/// The field of a graph that holds an input.
const INPUT: u64 = 11;

/// The field of an input that holds its name.
const NAME: u64 = 1;

/// The model without the inputs that are not `wanted`; `None` if the bytes are no model.
pub(super) fn trimmed(model: &[u8], wanted: &[&str]) -> Option<Vec<u8>> {
    let mut trimmed = Vec::with_capacity(model.len());
    for field in fields(model)? {
        match field.body {
            Some(body) if field.number == GRAPH => {
                let graph = trimmed_graph(&model[body], wanted)?;
                trimmed.extend(varint(GRAPH << 3 | 2));
                trimmed.extend(varint(graph.len() as u64));
                trimmed.extend(graph);
            }
            _ => trimmed.extend(&model[field.whole]),
        }
    }
    Some(trimmed)
}

fn trimmed_graph(graph: &[u8], wanted: &[&str]) -> Option<Vec<u8>> {
    let mut trimmed = Vec::with_capacity(graph.len());
    for field in fields(graph)? {
        let is_surplus = match &field.body {
            Some(body) if field.number == INPUT => !wanted.contains(&name(&graph[body.clone()])?),
            _ => false,
        };
        if !is_surplus {
            trimmed.extend(&graph[field.whole]);
        }
    }
    Some(trimmed)
}

fn name(input: &[u8]) -> Option<&str> {
    let name = fields(input)?.into_iter().find(|field| field.number == NAME)?.body?;
    std::str::from_utf8(&input[name]).ok()
}

/// A field of a protobuf message, by where it lies.
struct Field {
    number: u64,
    whole: Range<usize>,
    /// Of a field with a length.
    body: Option<Range<usize>>,
}

fn fields(message: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let mut at = 0;
    while at < message.len() {
        let begin = at;
        let key = read(message, &mut at)?;
        let length = match key & 7 {
            0 => {
                read(message, &mut at)?;
                None
            }
            1 => Some((8, false)),
            2 => Some((usize::try_from(read(message, &mut at)?).ok()?, true)),
            5 => Some((4, false)),
            _ => return None,
        };
        let mut body = None;
        if let Some((length, is_body)) = length {
            let end = at.checked_add(length).filter(|end| *end <= message.len())?;
            body = is_body.then_some(at..end);
            at = end;
        }
        fields.push(Field { number: key >> 3, whole: begin..at, body });
    }
    Some(fields)
}

fn read(message: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while 0x80 <= value {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64, body: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(body.len() as u64), body.to_vec()].concat()
    }

    #[test]
    fn inputs_that_nobody_wants_are_taken_out_and_all_else_stays() {
        let input = |named: &str| message(INPUT, &[message(NAME, named.as_bytes()), vec![0x10, 3]].concat());
        let node = message(1, &[7; 200]);
        let model = |inputs: &[Vec<u8>]| {
            let graph = [node.clone(), inputs.concat(), message(12, b"y")].concat();
            [vec![8, 8], message(GRAPH, &graph), message(8, b"\x10\x11"), vec![0x4d, 1, 2, 3, 4]].concat()
        };
        let whole = model(&[input("x"), input("w__SHAPE"), input("z")]);
        assert_eq!(trimmed(&whole, &["x", "z"]), Some(model(&[input("x"), input("z")])));
        assert_eq!(trimmed(&whole, &["x", "w__SHAPE", "z"]), Some(whole.clone()));
        for cut in 1..whole.len() {
            let _ = trimmed(&whole[..cut], &["x"]); // No panic.
        }
        assert_eq!(trimmed(&[0xff; 12], &[]), None);
    }
}
