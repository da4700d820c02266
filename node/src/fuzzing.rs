//! What the fuzz targets reach of this crate. No part of its interface.

#![doc(hidden)]

/// Longest reason, in bytes: it is written into lists and logs.
const REASON_BYTES_MAX: usize = 2048;

/// The bytes of a model's file, as a node reads them before ONNX Runtime does. Says whether they are taken.
///
/// # Panics
/// A reason repeats what the file says without measure.
pub fn model(bytes: &[u8]) -> bool {
    let Some(reason) = crate::scan::refusal(bytes) else { return true };
    assert!(reason.len() <= REASON_BYTES_MAX, "a reason of {} bytes", reason.len());
    false
}
