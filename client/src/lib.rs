//! Calling a cluster.

mod call;

pub use call::{CallError, InferCall, InferReply};
