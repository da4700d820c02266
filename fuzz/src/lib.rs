//! What the fuzz targets do with the bytes they are given.
//!
//! Tests of the packages include these files, so that the seeds and some thousand neighbours of them are tried wherever
//! the tests run; only the search for new inputs needs the fuzzer.

mod certs;
mod gateway;
mod node;
mod parts;
mod wire;

pub use certs::{enrolment, identity, token};
pub use gateway::{jsonrpc, oip};
pub use node::model;
pub use wire::{frame, message};
