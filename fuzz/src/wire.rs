//! The targets of `lineside-wire`. Its tests include this file, which therefore names nothing else of ours.

use bytes::Bytes;
use lineside_wire::{
    BATCH_ENTRIES_MAX, CallContext, CancelParams, ClusterStatus, Empty, EncodedFrame, Enrolled,
    FRAME_HEAD_BYTES, FrameHead, FrameKind, Greeting, Health, InferParams, InferResult, JoinParams, Limits,
    MemberState, MembersResult, Message, ModelInfo, ModelParams, ModelsResult, Parameters, RenewParams,
    RunReport, SignedTrust, TensorHeader, TrustList, check_document, split_tensors,
};

use crate::parts::{one_part, told};

const KINDS: [FrameKind; 6] = [
    FrameKind::Request,
    FrameKind::Notification,
    FrameKind::Response,
    FrameKind::Error,
    FrameKind::Item,
    FrameKind::Batch,
];

/// Bytes as they come off a stream: a head, then what it announces, as far as there is of it.
pub fn frame(bytes: &[u8]) {
    let Some((head_bytes, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() else { return };
    let limits = Limits::default();
    let Ok(head) = FrameHead::decode(head_bytes, &limits) else { return };
    assert_eq!(head.encode(), *head_bytes, "a head has exactly one spelling");
    let answers = matches!(head.kind, FrameKind::Response | FrameKind::Item);
    let document_max = if answers { limits.answer_bytes_max } else { limits.document_bytes_max };
    assert!(head.document_length <= document_max);
    assert!(head.payload_length <= limits.payload_bytes_max);
    let (document, rest) = rest.split_at(rest.len().min(head.document_length as usize));
    let payload = &rest[..rest.len().min(head.payload_length as usize)];
    one_kind(head.kind, document, &Bytes::copy_from_slice(payload));
}

/// A document, read as every kind of message: two bytes with its length, the document, a payload.
pub fn message(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (document, payload) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
    let payload = Bytes::copy_from_slice(payload);
    for kind in KINDS {
        one_kind(kind, document, &payload);
    }
    if check_document(document).is_ok() {
        every_part(document, &payload);
    }
}

fn one_kind(kind: FrameKind, document: &[u8], payload: &Bytes) {
    match Message::decode(kind, document) {
        Ok(message) => {
            assert_eq!(check_document(document), Ok(()), "a message is strict MessagePack");
            one_message(&message, payload);
        }
        Err(error) => told(&error),
    }
}

fn one_message(message: &Message<'_>, payload: &Bytes) {
    match message {
        Message::Request { params: part, .. }
        | Message::Notification { params: part, .. }
        | Message::Response { result: part, .. }
        | Message::Item { item: part, .. } => every_part(part, payload),
        Message::Error { id, fault, report } => {
            let again = EncodedFrame::error(*id, fault, report.as_ref());
            let read = Message::decode(FrameKind::Error, &again.start[FRAME_HEAD_BYTES..]);
            assert!(matches!(read, Ok(Message::Error { fault: read, .. }) if read.code == fault.code));
        }
        Message::Batch(messages) => {
            assert!((1..=BATCH_ENTRIES_MAX).contains(&messages.len()));
            messages.iter().for_each(|message| one_message(message, payload));
        }
    }
}

/// Reads a part as everything that a part can be.
fn every_part(part: &[u8], payload: &Bytes) {
    one_part::<Greeting>(part);
    one_part::<Empty>(part);
    one_part::<Health>(part);
    one_part::<ModelParams>(part);
    one_part::<ModelsResult>(part);
    one_part::<ModelInfo>(part);
    one_part::<MemberState>(part);
    one_part::<MembersResult>(part);
    one_part::<ClusterStatus>(part);
    one_part::<CancelParams>(part);
    one_part::<CallContext>(part);
    one_part::<RunReport>(part);
    one_part::<Parameters>(part);
    one_part::<JoinParams>(part);
    one_part::<RenewParams>(part);
    one_part::<Enrolled>(part);
    one_part::<TrustList>(part);
    one_part::<SignedTrust>(part);
    if let Some(params) = one_part::<InferParams>(part) {
        tensors(params.inputs, payload);
    }
    if let Some(result) = one_part::<InferResult>(part) {
        tensors(result.outputs, payload);
    }
}

fn tensors(headers: Vec<TensorHeader>, payload: &Bytes) {
    if let Ok(tensors) = split_tensors(headers, payload) {
        let bytes: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        assert!(bytes <= payload.len(), "tensors of {bytes} bytes out of {}", payload.len());
    }
}
