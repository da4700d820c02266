//! The fuzz target of a node, on stable: see `fuzz/src/stable.rs`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[expect(unreachable_pub, reason = "the fuzzer has it as a library")]
#[path = "../../fuzz/src/node.rs"]
mod node;
#[expect(dead_code, reason = "these seeds are models")]
#[path = "../../fuzz/src/stable.rs"]
mod stable;

use lineside_node::fuzzing::model;

/// Neighbours that the target tries: a second or two in an unoptimised build.
const NEIGHBOURS: usize = 5_000;

#[test]
fn every_seed_and_its_neighbours_pass_the_model_target() {
    stable::try_all("model", NEIGHBOURS, node::model);
}

#[test]
fn seeds_are_models_but_for_those_that_say_what_is_wrong_with_them() {
    for (name, bytes) in stable::seeds("model") {
        assert_eq!(model(&bytes), !name.starts_with("refused-"), "{name}");
    }
}
