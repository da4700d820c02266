//! The fuzz targets of the door, on stable: see `fuzz/src/stable.rs`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[expect(unreachable_pub, reason = "the fuzzer has it as a library")]
#[path = "../../fuzz/src/gateway.rs"]
mod gateway;
#[expect(dead_code, reason = "these seeds are written by hand")]
#[path = "../../fuzz/src/stable.rs"]
mod stable;

/// Neighbours that each target tries: a second or two in an unoptimised build.
const NEIGHBOURS: usize = 20_000;

#[test]
fn every_seed_and_its_neighbours_pass_the_jsonrpc_target() {
    stable::try_all("jsonrpc", NEIGHBOURS, gateway::jsonrpc);
}

#[test]
fn every_seed_and_its_neighbours_pass_the_oip_target() {
    stable::try_all("oip", NEIGHBOURS, gateway::oip);
}
