//! What `docs/PROTOCOL.md` says of tokens, proofs and stamps, computed; the wire's own tests compare its frames.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac};
use lineside_certs::{Token, join_server_name};
use lineside_wire::Role;

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

/// Where the limits of joining are decided.
const SOURCES: [&str; 5] = [
    include_str!("../../mesh/src/enrol.rs"),
    include_str!("../../mesh/src/enrol/answer.rs"),
    include_str!("../../mesh/src/enrol/tries.rs"),
    include_str!("../src/authority/kinds.rs"),
    include_str!("../src/authority/registry.rs"),
];

/// The worked example: its lines by their names, an unnamed one belonging to the one above.
fn worked() -> BTreeMap<&'static str, String> {
    let block = DOCUMENT.split_once("```text proof\n").unwrap().1.split_once("```").unwrap().0;
    let mut lines = BTreeMap::<_, String>::new();
    let mut name = "";
    for line in block.lines() {
        let (label, text) = line.split_at(10);
        name = if label.trim().is_empty() { name } else { label.trim() };
        let text = text.trim();
        *lines.entry(name).or_default() +=
            &if name == "token" { text.to_owned() } else { format!("{text} ") };
    }
    lines
}

fn bytes(digits: &str) -> Vec<u8> {
    digits.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// The bytes of a `hex` block of the document.
fn frame(name: &str) -> Vec<u8> {
    let block = DOCUMENT.split_once(&format!("```hex {name}\n")).unwrap().1.split_once("```").unwrap().0;
    block.lines().flat_map(|line| bytes(line.split('#').next().unwrap_or(""))).collect()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

/// What follows a text key in a frame, as a byte string.
fn byte_string(frame: &[u8], key: &str) -> Vec<u8> {
    let key = [&[0xa0 | u8::try_from(key.len()).unwrap()], key.as_bytes()].concat();
    let at = frame.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    assert_eq!(frame[at], 0xc4, "a byte string of fewer than 256 bytes");
    let length = usize::from(frame[at + 1]);
    frame[at + 2..at + 2 + length].to_vec()
}

#[test]
fn the_worked_proof_is_made_as_the_document_says() {
    let told = worked();
    let part = |name: &str| bytes(&told[name]);
    let csr = byte_string(&frame("join-request"), "csr");
    assert_eq!(part("csr hash"), sha256(&csr));
    assert_eq!(part("key"), sha256(&[b"lineside join token v1\0", &part("secret")[..]].concat()));
    let message = [b"lineside join proof v1\0", &part("exporter")[..], b"node\0", b"press\0", &sha256(&csr)];
    assert_eq!(part("message"), message.concat());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &part("key"));
    assert_eq!(part("proof"), hmac::sign(&key, &part("message")).as_ref());
}

#[test]
fn the_worked_proof_is_the_one_that_joiners_send() {
    let told = worked();
    let part = |name: &str| bytes(&told[name]);
    let token: Token = told["token"].parse().unwrap();
    assert_eq!(token.to_string(), told["token"]);
    assert_eq!((token.authority()[..].to_vec(), token.id().0.to_vec()), (part("authority"), part("id")));
    assert_eq!(token.addresses(), ["192.168.1.20:7443"]);
    let request = frame("join-request");
    let exporter = part("exporter").try_into().unwrap();
    let proof = token.proof(&exporter, Role::Node, "press", &byte_string(&request, "csr"));
    assert_eq!(proof[..], part("proof")[..]);
    assert_eq!(byte_string(&request, "proof"), part("proof"));
    assert_eq!(byte_string(&request, "token"), part("id"));
}

#[test]
fn a_joiner_asks_for_the_authority_as_the_document_says() {
    assert!(
        DOCUMENT
            .contains("first 16 hexadecimal digits (lower case) of authority \".join.lineside.internal\"")
    );
    let token: Token = worked()["token"].parse().unwrap();
    assert_eq!(join_server_name(token.authority()), "c0c1c2c3c4c5c6c7.join.lineside.internal");
}

#[test]
fn the_stamp_of_the_list_in_the_document_is_the_one_that_it_names() {
    let document = byte_string(&frame("trust-response"), "document");
    let hash = u64::from_be_bytes(*sha256(&document).first_chunk().unwrap());
    assert!(DOCUMENT.contains(&format!("`{hash:016x}`, which as an unsigned integer is {hash}.")));
    let told = frame("hello-response");
    assert!(told.windows(8).any(|window| window == hash.to_be_bytes()), "the greeting's stamp is another");
}

#[test]
fn the_limits_of_joining_are_those_of_the_code() {
    let heading = "| limit of joining | value | constant |\n|---|---|---|\n";
    let rows = DOCUMENT.split_once(heading).unwrap().1.lines().take_while(|line| line.starts_with('|'));
    let mut told = 0;
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let value: u64 = cells[1].split(' ').next().unwrap().parse().unwrap();
        assert_eq!(Some(value), constant(cells[2].trim_matches('`')), "{row}");
        told += 1;
    }
    assert!(7 <= told, "{told} rows");
}

/// The value of a numeric constant or a duration in seconds, as the source has it: a product or a shift of numbers.
fn constant(name: &str) -> Option<u64> {
    let definitions = SOURCES.iter().flat_map(|source| source.lines());
    let found: Vec<_> = definitions.filter_map(|line| line.split_once(&format!("const {name}: "))).collect();
    let [(_, definition)] = found[..] else { panic!("{} definitions of {name}", found.len()) };
    let value = definition.split_once(" = ")?.1.trim_end_matches(';');
    let value =
        value.strip_prefix("Duration::from_secs(").map_or(value, |seconds| seconds.trim_end_matches(')'));
    if let Some((number, bits)) = value.split_once(" << ") {
        return Some(number.parse::<u64>().ok()? << bits.parse::<u32>().ok()?);
    }
    value.split(" * ").map(|factor| factor.parse::<u64>().ok()).product()
}
