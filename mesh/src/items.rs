//! The calling side of a streamed result: numbered items on a stream of the call's own, then the end or a fault.
//!
//! Nothing reads ahead: items that were not taken yet wait in the stream's flow-control window, and past that at the
//! peer, whose service then waits. Dropping the reader stops the stream, which is the cancellation.

use bytes::Bytes;
use futures_util::{Stream, stream};
use lineside_wire::{Fault, Message, NodeId, RequestId, RunReport};

use crate::{
    CallFailure,
    frames::{Frame, FrameError, FrameReader},
};

/// One part of a streamed result.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number, from 0 without gaps.
    pub number: u64,
    /// The part: strict MessagePack; [`lineside_wire::decode_part`] reads it.
    pub item: Bytes,
    /// Its tensors' bytes, aligned.
    pub payload: Bytes,
}

/// What a frame on the call's stream means.
#[derive(Debug)]
enum Part {
    Item(Item),
    End,
    Fault(Fault, Option<RunReport>),
}

/// Reads one frame of a streamed result.
///
/// # Errors
/// It breaks the protocol: another call's id, a gap in the numbers, a frame that is no answer. The text says how.
fn read_part(frame: &Frame, call: RequestId, expected: u64) -> Result<Part, String> {
    let message = Message::decode(frame.kind, &frame.document).map_err(|error| error.to_string())?;
    let (id, part) = match message {
        Message::Item { id, number, .. } if id == call && number != expected => {
            return Err(format!("item {number} came in the place of item {expected}"));
        }
        Message::Item { id, number, item } => {
            let item = frame.document.slice_ref(item);
            (id, Part::Item(Item { number, item, payload: frame.payload.clone() }))
        }
        Message::Response { id, .. } => (id, Part::End),
        Message::Error { id: Some(id), fault, report } => (id, Part::Fault(fault, report)),
        Message::Error { id: None, fault, .. } => {
            return Err(format!("the peer could not read the request: {fault}"));
        }
        Message::Request { .. } | Message::Notification { .. } | Message::Batch(_) => {
            return Err("a frame that answers nothing came in the place of an item".to_owned());
        }
    };
    match id == call {
        true => Ok(part),
        false => Err(format!("an answer to the call {} came on the stream of the call {}", id.0, call.0)),
    }
}

/// Reads the items of one call.
pub(crate) struct Items {
    node: NodeId,
    call: RequestId,
    frames: FrameReader,
    expected: u64,
}

impl Items {
    /// Reads what answers `call`, which has been written.
    pub(crate) const fn new(node: NodeId, call: RequestId, frames: FrameReader) -> Self {
        Self { node, call, frames, expected: 0 }
    }

    /// The items as they come; the end of the stream is the end of the result.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Item, CallFailure>> + Send {
        stream::try_unfold(self, |mut items| async move { Ok(items.next().await?.map(|item| (item, items))) })
    }

    async fn next(&mut self) -> Result<Option<Item>, CallFailure> {
        let node = self.node;
        let lost = |reason: String| CallFailure::Lost { node, sent: true, reason };
        let invalid = |reason: String| CallFailure::Invalid { node, reason };
        let frame = match self.frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(lost("the peer finished the stream before the result's end".to_owned())),
            Err(FrameError::Invalid(error)) => return Err(invalid(error.to_string())),
            Err(error @ (FrameError::Read(_) | FrameError::Truncated | FrameError::Stalled(_))) => {
                return Err(lost(error.to_string()));
            }
        };
        match read_part(&frame, self.call, self.expected).map_err(invalid)? {
            Part::Item(item) => {
                self.expected += 1;
                Ok(Some(item))
            }
            Part::End => Ok(None),
            Part::Fault(fault, report) => Err(CallFailure::Fault { node, fault, report }),
        }
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{CancelParams, EncodedFrame, FRAME_HEAD_BYTES, FaultCode, FrameKind, PayloadBuilder};

    use super::*;

    const CALL: RequestId = RequestId(7);

    fn frame(kind: FrameKind, encoded: &EncodedFrame) -> Frame {
        let document = encoded.start.slice(FRAME_HEAD_BYTES..);
        Frame { kind, document, payload: encoded.payload.concat().into(), is_without_payload: false }
    }

    fn item(id: RequestId, number: u64) -> Frame {
        let mut payload = PayloadBuilder::new();
        payload.push(Bytes::from_static(b"tensor"));
        frame(FrameKind::Item, &EncodedFrame::item(id, number, &"part", payload))
    }

    #[test]
    fn items_are_read_in_their_order_with_their_tensors() {
        let Ok(Part::Item(read)) = read_part(&item(CALL, 3), CALL, 3) else { panic!("no item") };
        assert_eq!((read.number, &read.item[..], &read.payload[..]), (3, &b"\xa4part"[..], &b"tensor"[..]));
    }

    #[test]
    fn a_gap_or_a_repetition_in_the_numbers_breaks_the_protocol() {
        for number in [0, 2, 4, u64::MAX] {
            let error = read_part(&item(CALL, number), CALL, 3).unwrap_err();
            assert!(error.contains("in the place of item 3"), "{error}");
        }
    }

    #[test]
    fn answers_to_other_calls_and_frames_that_answer_nothing_break_the_protocol() {
        let other = RequestId(8);
        let end = EncodedFrame::response(other, &(), None, PayloadBuilder::new());
        let notification = EncodedFrame::notification("$/cancelRequest", &CancelParams { id: CALL });
        let unread = EncodedFrame::error(None, &Fault::new(FaultCode::ParseError, "what?"), None);
        for frame in [
            item(other, 0),
            frame(FrameKind::Response, &end),
            frame(FrameKind::Notification, &notification),
            frame(FrameKind::Error, &unread),
        ] {
            assert!(read_part(&frame, CALL, 0).is_err(), "{:?}", frame.kind);
        }
    }

    #[test]
    fn a_response_ends_the_result_and_a_fault_breaks_it_off() {
        let end = EncodedFrame::response(CALL, &(), None, PayloadBuilder::new());
        assert!(matches!(read_part(&frame(FrameKind::Response, &end), CALL, 5), Ok(Part::End)));
        let fault = EncodedFrame::error(Some(CALL), &Fault::new(FaultCode::Draining, "bye"), None);
        let read = read_part(&frame(FrameKind::Error, &fault), CALL, 5);
        assert!(matches!(read, Ok(Part::Fault(fault, None)) if fault.code == FaultCode::Draining));
    }
}
