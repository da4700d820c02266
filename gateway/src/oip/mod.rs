//! The Open Inference Protocol, version 2, over REST: bodies to calls, answers to bodies. Pure.
//!
//! A body is JSON, or JSON with the tensors' raw bytes behind it (the binary tensor data extension). Tensors of the
//! second kind are never copied: they are slices of the body on the way in, and of the node's payload on the way out.

mod json_data;
mod metadata;
mod raw;
mod request;
mod response;

pub(crate) use metadata::{ModelMetadata, ModelReady, ServerMetadata, find};
pub(crate) use raw::raw_request;
pub(crate) use request::{InferRequest, Wants, parse, parse_named};
pub(crate) use response::write;

use lineside_wire::{Fault, FaultCode};

/// Longest name of a tensor, in bytes. ONNX exporters write paths of modules, which stay well below.
const NAME_BYTES_MAX: usize = 256;

fn invalid(text: impl Into<String>) -> Fault {
    Fault::new(FaultCode::InvalidParams, text)
}

/// The start of a text that a client sent, short enough to repeat in a message.
fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut start: String = text.chars().take(CHARS_MAX).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}
