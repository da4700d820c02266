//! The Open Inference Protocol, version 2, over REST: bodies to calls, answers to bodies. Pure.
//!
//! A body is JSON, or JSON with the tensors' raw bytes behind it (the binary tensor data extension). Tensors of the
//! second kind are never copied: they are slices of the body on the way in, and of the node's payload on the way out.
//! A third form is ours, for JSON that can carry nothing else: `"encoding":"base64"`, with a tensor's bytes in `data`.

mod cursor;
mod generate;
mod input;
mod json_data;
mod metadata;
mod number;
mod raw;
mod request;
mod response;

pub(crate) use generate::{parse as parse_generate, write as write_generated};
pub(crate) use input::dims_of;
pub(crate) use json_data::parse as parse_data;
pub(crate) use metadata::{
    EXTENSIONS, ModelMetadata, ModelReady, ServerMetadata, find, not_ready, takes_requests,
};
pub(crate) use raw::raw_request;
pub(crate) use request::{Form, InferRequest, Settings, Wants, parse, parse_named};
pub(crate) use response::write;

use lineside_wire::{Fault, FaultCode};

/// Longest name of a tensor, in bytes. ONNX exporters write paths of modules, which stay well below.
const NAME_BYTES_MAX: usize = 256;

/// Checks the name of a tensor.
pub(crate) fn check_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() || NAME_BYTES_MAX < name.len() {
        let text =
            format!("the name {:?} has {} bytes: use 1 to {NAME_BYTES_MAX}", excerpt(name), name.len());
        return Err(invalid(text));
    }
    Ok(())
}

/// What is wrong with a request.
pub(crate) fn invalid(text: impl Into<String>) -> Fault {
    Fault::new(FaultCode::InvalidParams, text)
}

/// The start of a text that a client sent, short enough to repeat in a message.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut start: String = text.chars().take(CHARS_MAX).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}
