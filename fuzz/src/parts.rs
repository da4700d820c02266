//! What all targets do with a part of a document, and with an error.

use std::fmt::Debug;

use lineside_wire::{EncodedFrame, FRAME_HEAD_BYTES, FrameKind, Message, decode_part};
use serde::{Serialize, de::DeserializeOwned};

/// What was refused is told shortly: it is written into logs and sent back.
pub(crate) fn told(error: &dyn std::error::Error) {
    let told = error.to_string();
    assert!(told.len() < 4096, "an error of {} bytes repeats what it was sent", told.len());
}

/// Reads a part as one type; what can be read comes back as it went.
pub(crate) fn one_part<T: Serialize + DeserializeOwned + PartialEq + Debug>(part: &[u8]) -> Option<T> {
    let value: T = decode_part(part).ok()?;
    let again = EncodedFrame::notification("again", &value);
    let read = Message::decode(FrameKind::Notification, &again.start[FRAME_HEAD_BYTES..]);
    let Ok(Message::Notification { params, .. }) = read else { panic!("{value:?} was written as {read:?}") };
    let back: T = decode_part(params).expect("what was written can be read");
    // The one number that differs from itself is the only excuse.
    #[expect(clippy::eq_op, reason = "not a number")]
    let is_ordinary = value == value;
    assert!(!is_ordinary || back == value, "{value:?} came back as {back:?}");
    Some(value)
}
