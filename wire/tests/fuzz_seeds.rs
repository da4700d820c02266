//! The fuzz targets of the wire, on stable: see `fuzz/src/stable.rs`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;

use lineside_wire::FRAME_HEAD_BYTES;

#[path = "../../fuzz/src/parts.rs"]
mod parts;
mod samples;
#[path = "../../fuzz/src/stable.rs"]
mod stable;
#[expect(unreachable_pub, reason = "the fuzzer has it as a library")]
#[path = "../../fuzz/src/wire.rs"]
mod wire;

/// Neighbours that each target tries: a second or two in an unoptimised build.
const NEIGHBOURS: usize = 20_000;

#[test]
fn every_seed_and_its_neighbours_pass_the_frame_target() {
    stable::try_all("frame", NEIGHBOURS, wire::frame);
}

#[test]
fn every_seed_and_its_neighbours_pass_the_message_target() {
    stable::try_all("message", NEIGHBOURS, wire::message);
}

#[test]
fn the_seeds_are_the_frames_that_members_send() {
    for target in ["frame", "message"] {
        let wanted = wanted(target);
        stable::write_if_wished(target, &wanted);
        let there = stable::seeds(target);
        for (name, bytes) in wanted {
            assert_eq!(
                there.get(&name),
                Some(&bytes),
                "fuzz/seeds/{target}/{name} is not the sample; {}=1 writes it anew",
                stable::WRITE
            );
        }
    }
}

/// The samples in the form that a target reads.
fn wanted(target: &str) -> BTreeMap<String, Vec<u8>> {
    let all = [samples::examples(), samples::broken(), samples::further()].concat();
    let seed = |(name, frame): (&str, Vec<u8>)| {
        let seed = if target == "frame" { Some(frame) } else { as_message(&frame) };
        seed.map(|seed| (name.to_owned(), seed))
    };
    all.into_iter().filter_map(seed).collect()
}

/// A frame's document, led by its length, and its payload. `None` when the head announces what is not there.
fn as_message(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, rest) = frame.split_at(FRAME_HEAD_BYTES);
    let length = u16::try_from(u32::from_le_bytes(head[4..8].try_into().unwrap())).ok()?;
    Some([&length.to_le_bytes()[..], rest].concat())
}
