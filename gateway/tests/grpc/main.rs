//! The gRPC service over real sockets, with the door's made-up cluster behind it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[allow(dead_code, reason = "the door's own tests use all of it")]
#[path = "../door/caller.rs"]
mod caller;
#[allow(dead_code, reason = "the door's own tests use all of it")]
#[path = "../door/gate.rs"]
mod gate;
#[allow(dead_code, reason = "the door's own tests use all of it")]
#[path = "../door/line.rs"]
mod line;
#[allow(dead_code, reason = "the door's own tests use all of it")]
#[path = "../door/mesh.rs"]
mod mesh;
#[allow(dead_code, reason = "the door's own tests use all of it")]
#[path = "../door/tasks.rs"]
mod tasks;

#[allow(
    clippy::all,
    clippy::semicolon_if_nothing_returned,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "made by `just grpc-code`, by rules of its own"
)]
#[rustfmt::skip]
#[path = "generated/inference.rs"]
mod inference;

mod client;
mod infer;
mod limits;
mod models;
mod permissions;
mod stream;
mod tools;
mod wires;
