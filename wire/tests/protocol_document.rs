//! `docs/PROTOCOL.md` against the code: every example is decoded and made again, every table compared.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lineside_wire::{
    API_KEY_PATTERN_BYTES_MAX, API_KEY_PATTERNS_MAX, API_KEYS_BYTES_MAX, API_KEYS_MAX, API_KEYS_REVOKED_MAX,
    AUTHORITIES_MAX, BATCH_ENTRIES_MAX, CSR_BYTES_MAX, CancelParams, Datatype, Empty, EncodedFrame, Enrolled,
    Executed, FAULT_MESSAGE_BYTES_MAX, FRAME_HEAD_BYTES, FaultCode, FrameHead, FrameKind, Greeting,
    InferParams, InferResult, JoinParams, Limits, MAP_ENTRIES_MAX, MembersResult, Message, ModelName,
    PayloadBuilder, RANK_MAX, REVOKED_MAX, SignedTrust, TENSOR_ALIGN, TENSORS_MAX, TensorHeader, TrustList,
    WEB_NAMES_MAX, check_document, decode_part, join_tensors, method, split_tensors,
};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value, json};

mod samples;

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");
const CALLS: &str = include_str!("../src/calls.rs");
const ROLES: &str = include_str!("../../certs/src/roles.rs");
const CLOSE_CODES: &str = include_str!("../../mesh/src/error.rs");

/// A `hex` block and what the `json` block below it says about it.
struct Example {
    name: &'static str,
    bytes: Vec<u8>,
    says: Value,
}

/// A frame taken apart.
struct Read {
    kind: FrameKind,
    document: Vec<u8>,
    payload: Bytes,
}

#[test]
fn every_example_is_there_and_says_what_it_holds() {
    let told: Vec<_> = examples().into_iter().filter(|example| example.says["refused"].is_null()).collect();
    assert_eq!(names(&told), samples::examples().iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for example in told {
        let name = example.name;
        let read = read(&example.bytes).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let mut seen = json!({
            "kind": format!("{:?}", read.kind).to_lowercase(),
            "document": shown(&read.document),
        });
        if let Some(tensors) = tensors(&read) {
            seen["tensors"] = tensors;
        }
        if let Some(trust) = trust(&read) {
            seen["trust"] = shown(&trust.document);
        }
        assert_eq!(seen, example.says, "{name}");
    }
}

#[test]
fn every_example_is_made_again_byte_by_byte() {
    let sent: BTreeMap<_, _> = samples::examples().into_iter().collect();
    for example in examples().into_iter().filter(|example| example.says["refused"].is_null()) {
        let name = example.name;
        assert_eq!(sent.get(name), Some(&example.bytes), "{name} is not what members send");
        let read = read(&example.bytes).unwrap();
        let message = Message::decode(read.kind, &read.document).unwrap();
        let again = encode(name, &message, &read.payload);
        assert_eq!([vec![again.start], again.payload].concat().concat(), example.bytes, "{name}");
    }
}

#[test]
fn every_refused_example_is_refused_as_the_document_says() {
    let told: Vec<_> = examples().into_iter().filter(|example| !example.says["refused"].is_null()).collect();
    let sent = samples::broken();
    assert_eq!(names(&told), sent.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (example, (name, bytes)) in told.into_iter().zip(sent) {
        assert_eq!(example.bytes, bytes, "{name}");
        let (refused, then) = match read(&bytes) {
            Err(refusal) => (refusal, "the stream ends"),
            Ok(Read { kind, document, .. }) => {
                let error = Message::decode(kind, &document).expect_err(name);
                (error.to_string(), error.fault_code().name())
            }
        };
        assert_eq!(json!({"refused": refused, "then": then}), example.says, "{name}");
    }
}

#[test]
fn the_table_of_faults_is_the_one_in_the_code() {
    let told: Vec<_> = table("code", "name", "executed").into_iter().map(|row| row[..4].to_vec()).collect();
    let yes = |flag| if flag { "yes" } else { "no" };
    let executed = |code: &FaultCode| match code.executed() {
        Executed::No => "no",
        Executed::Maybe => "maybe",
        Executed::Yes => "yes",
    };
    let row = |code: &FaultCode| {
        let cells = [code.number().to_string(), code.name().into(), executed(code).into()];
        cells.into_iter().chain([yes(code.retryable()).to_owned()]).collect::<Vec<_>>()
    };
    assert_eq!(told, FaultCode::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn the_table_of_datatypes_is_the_one_in_the_code() {
    let told: Vec<_> =
        table("datatype", "bytes per element", "what").into_iter().map(|row| row[..2].to_vec()).collect();
    let width = |datatype: Datatype| datatype.width().map_or("varies".to_owned(), |width| width.to_string());
    let row = |datatype: Datatype| vec![datatype.as_str().to_owned(), width(datatype)];
    assert_eq!(told, Datatype::ALL.map(row));
}

#[test]
fn every_method_is_in_the_table_with_the_roles_that_may_call_it() {
    let told = table("method", "may be called by", "params");
    let named: BTreeSet<_> = told.iter().map(|row| row[0].as_str()).collect();
    let mut constants: BTreeMap<_, _> = constants(CALLS).chain(constants(ROLES)).collect();
    assert_eq!(constants.get("HELLO"), Some(&method::HELLO), "the constants were not found");
    // The one method of another protocol: nobody with a role calls it.
    assert_eq!(constants.remove("ENROL_JOIN"), Some(method::ENROL_JOIN));
    assert!(!ROLES.contains("method::ENROL_JOIN, &") && DOCUMENT.contains("`enrol.join` is in no row"));
    assert_eq!(named, constants.values().copied().collect());
    for row in told {
        let (constant, _) = constants.iter().find(|(_, method)| **method == row[0]).unwrap();
        let may = ROLES.lines().filter_map(|line| line.trim().strip_prefix('(')?.strip_suffix("),"));
        let (_, roles) = may
            .filter_map(|entry| entry.split_once(", "))
            .find(|(method, _)| method.trim_start_matches("method::") == *constant)
            .unwrap_or_else(|| panic!("no role may call {}", row[0]));
        let roles = roles.trim_matches(['&', '[', ']']).to_lowercase();
        let everybody = roles == "everybody" || roles.split(", ").count() == lineside_wire::Role::ALL.len();
        assert_eq!(row[1], if everybody { "everybody" } else { &roles }, "{}", row[0]);
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let Limits { document_bytes_max, answer_bytes_max, payload_bytes_max } = Limits::default();
    let wanted = BTreeMap::from([
        ("FRAME_HEAD_BYTES", FRAME_HEAD_BYTES as u64),
        ("document_bytes_max", document_bytes_max.into()),
        ("answer_bytes_max", answer_bytes_max.into()),
        ("payload_bytes_max", payload_bytes_max.into()),
        ("DEPTH_MAX", lineside_wire::DEPTH_MAX as u64),
        ("MAP_ENTRIES_MAX", MAP_ENTRIES_MAX as u64),
        ("BATCH_ENTRIES_MAX", BATCH_ENTRIES_MAX as u64),
        ("TENSORS_MAX", TENSORS_MAX as u64),
        ("RANK_MAX", RANK_MAX as u64),
        ("TENSOR_ALIGN", TENSOR_ALIGN as u64),
        ("ModelName::BYTES_MAX", ModelName::BYTES_MAX as u64),
        ("FAULT_MESSAGE_BYTES_MAX", FAULT_MESSAGE_BYTES_MAX as u64),
        ("AUTHORITIES_MAX", AUTHORITIES_MAX as u64),
        ("REVOKED_MAX", REVOKED_MAX as u64),
        ("API_KEYS_MAX", API_KEYS_MAX as u64),
        ("API_KEYS_BYTES_MAX", API_KEYS_BYTES_MAX as u64),
        ("API_KEYS_REVOKED_MAX", API_KEYS_REVOKED_MAX as u64),
        ("API_KEY_PATTERNS_MAX", API_KEY_PATTERNS_MAX as u64),
        ("API_KEY_PATTERN_BYTES_MAX", API_KEY_PATTERN_BYTES_MAX as u64),
        ("WEB_NAMES_MAX", WEB_NAMES_MAX as u64),
        ("CSR_BYTES_MAX", CSR_BYTES_MAX as u64),
    ]);
    let told = table("limit", "value", "constant");
    let number = |text: &str| text.split([' ', ',']).next().and_then(|digits| digits.parse::<u64>().ok());
    let told: BTreeMap<_, _> =
        told.iter().map(|row| (row[2].as_str(), number(&row[1]).expect("a number"))).collect();
    assert_eq!(told, wanted);
}

#[test]
fn every_closing_code_is_in_its_table() {
    let body = CLOSE_CODES.split_once("pub enum CloseCode {").expect("the codes").1;
    let body = body.split_once('}').expect("their end").0;
    let wanted: Vec<_> = body
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(name, code)| [code.to_owned(), name.to_owned()])
        .collect();
    assert!(!wanted.is_empty());
    let told = table("code", "name", "when");
    assert_eq!(told.iter().map(|row| [row[0].clone(), row[1].clone()]).collect::<Vec<_>>(), wanted);
}

#[test]
fn every_link_leads_to_a_heading() {
    let anchor = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || " -".contains(*c))
            .collect::<String>()
            .replace(' ', "-")
    };
    let headings: BTreeSet<_> = DOCUMENT.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let links = DOCUMENT.split("](#").skip(1).map(|rest| rest.split_once(')').expect("a link ends").0);
    let broken: BTreeSet<_> = links.filter(|link| !headings.contains(*link)).collect();
    assert_eq!(broken, BTreeSet::new());
}

/// Every example of the document, in its order.
fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut rest = DOCUMENT;
    while let Some((_, block)) = rest.split_once("\n```hex ") {
        let (block, behind) = block.split_once("\n```\n").expect("a hex block ends");
        let (name, lines) = block.split_once('\n').expect("a hex block has a name and lines");
        let digits = lines.lines().map(|line| line.split('#').next().unwrap_or(""));
        let bytes = digits.flat_map(str::split_whitespace);
        let bytes =
            bytes.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_else(|_| panic!("{name}: {pair}")));
        let says = behind.strip_prefix("\n```json\n").unwrap_or_else(|| panic!("{name} has no json block"));
        let (says, behind) = says.split_once("\n```\n").expect("a json block ends");
        let says = serde_json::from_str(says).unwrap_or_else(|error| panic!("{name}: {error}"));
        examples.push(Example { name, bytes: bytes.collect(), says });
        rest = behind;
    }
    examples
}

fn names(examples: &[Example]) -> Vec<&'static str> {
    examples.iter().map(|example| example.name).collect()
}

/// The rows of the one table whose heading begins with these three cells, without code marks.
fn table(first: &str, second: &str, third: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let heading = |line: &str| cells(line).get(..3) == Some(&[first.into(), second.into(), third.into()][..]);
    let mut lines = DOCUMENT.lines().skip_while(|line| !heading(line));
    assert!(lines.next().is_some(), "there is no table of {first}, {second}, {third}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// The text constants of a source file: name and value.
fn constants(source: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    source.lines().filter_map(|line| {
        let (name, value) = line.trim().strip_prefix("pub const ")?.split_once(": &str = \"")?;
        Some((name, value.strip_suffix("\";")?))
    })
}

/// Takes a frame apart; the text says why it is none.
fn read(bytes: &[u8]) -> Result<Read, String> {
    let (head, rest) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>().ok_or("shorter than a head")?;
    let head = FrameHead::decode(head, &Limits::default()).map_err(|error| error.to_string())?;
    let (document, payload) = rest.split_at_checked(head.document_length as usize).ok_or("short")?;
    assert_eq!(payload.len(), head.payload_length as usize, "the payload's length");
    Ok(Read { kind: head.kind, document: document.to_vec(), payload: Bytes::copy_from_slice(payload) })
}

/// A document in JSON's words. Bytes, which JSON has not, are shown as a map `{"bin": …}`: short ones in hexadecimal,
/// long ones by their length.
fn shown(document: &[u8]) -> Value {
    rmp_serde::from_slice::<Shown>(document).unwrap().0
}

struct Shown(Value);

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Showing).map(Self)
    }
}

struct Showing;

impl<'de> de::Visitor<'de> for Showing {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value of a document")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        const SHOWN_BYTES_MAX: usize = 32;
        let digits = value.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let told = if value.len() <= SHOWN_BYTES_MAX { digits } else { format!("{} bytes", value.len()) };
        Ok(json!({ "bin": told }))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Shown(element)) = elements.next_element()? {
            array.push(element);
        }
        Ok(array.into())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Shown(value))) = entries.next_entry::<String, _>()? {
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// The trust list in an answer, with its document read and written again.
fn trust(read: &Read) -> Option<SignedTrust> {
    let Message::Response { result, .. } = Message::decode(read.kind, &read.document).unwrap() else {
        return None;
    };
    let trust = match decode_part::<Enrolled>(result) {
        Ok(enrolled) => enrolled.trust,
        Err(_) => decode_part(result).ok()?,
    };
    assert_eq!(check_document(&trust.document), Ok(()));
    let list: TrustList = decode_part(&trust.document).unwrap();
    assert_eq!(rmp_serde::to_vec_named(&list).unwrap(), *trust.document);
    Some(trust)
}

/// The tensors of a call or its answer: names and values.
fn tensors(read: &Read) -> Option<Value> {
    let headers: Vec<TensorHeader> = match Message::decode(read.kind, &read.document).unwrap() {
        Message::Request { method: method::INFER, params, .. } => {
            decode_part::<InferParams>(params).unwrap().inputs
        }
        Message::Response { result, .. } => decode_part::<InferResult>(result).ok()?.outputs,
        _ => return None,
    };
    let split = split_tensors(headers, &read.payload).unwrap();
    let values = |bytes: &[u8]| -> Value {
        let floats = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        floats.map(f64::from).collect()
    };
    Some(split.into_iter().map(|tensor| (tensor.name, values(&tensor.bytes))).collect())
}

/// Writes a message again from its types.
fn encode(name: &str, message: &Message<'_>, payload: &Bytes) -> EncodedFrame {
    let none = PayloadBuilder::new();
    let joined = |headers: Vec<TensorHeader>| join_tensors(&split_tensors(headers, payload).unwrap()).1;
    match message {
        Message::Request { id, method, context, params } => match *method {
            method::HELLO => {
                EncodedFrame::request(*id, method, context, &decode_part::<Greeting>(params).unwrap(), none)
            }
            method::INFER => {
                let params: InferParams = decode_part(params).unwrap();
                let tensors = joined(params.inputs.clone());
                EncodedFrame::request(*id, method, context, &params, tensors)
            }
            method::ENROL_JOIN => {
                EncodedFrame::request(*id, method, context, &decode_part::<JoinParams>(params).unwrap(), none)
            }
            _ => EncodedFrame::request(*id, method, context, &decode_part::<Empty>(params).unwrap(), none),
        },
        Message::Notification { method, params } => {
            EncodedFrame::notification(method, &decode_part::<CancelParams>(params).unwrap())
        }
        Message::Response { id, result, report } => match name {
            "hello-response" => {
                let greeting: Greeting = decode_part(result).unwrap();
                EncodedFrame::response(*id, &greeting, report.as_ref(), none)
            }
            "trust-response" => {
                let trust: SignedTrust = decode_part(result).unwrap();
                EncodedFrame::response(*id, &trust, report.as_ref(), none)
            }
            "join-response" => {
                let enrolled: Enrolled = decode_part(result).unwrap();
                EncodedFrame::response(*id, &enrolled, report.as_ref(), none)
            }
            "infer-response" => {
                let result: InferResult = decode_part(result).unwrap();
                let tensors = joined(result.outputs.clone());
                EncodedFrame::response(*id, &result, report.as_ref(), tensors)
            }
            _ => EncodedFrame::response(*id, &decode_part::<Empty>(result).unwrap(), report.as_ref(), none),
        },
        Message::Error { id, fault, report } => EncodedFrame::error(*id, fault, report.as_ref()),
        Message::Item { id, number, item } => {
            EncodedFrame::item(*id, *number, &decode_part::<MembersResult>(item).unwrap(), none)
        }
        Message::Batch(messages) => {
            let calls: Vec<_> = messages.iter().map(|message| encode(name, message, payload)).collect();
            EncodedFrame::batch(&calls)
        }
    }
}
