//! One call to one peer: what goes out and what comes back.

use std::net::SocketAddr;

use bytes::Bytes;
use lineside_wire::{
    CallContext, EncodedFrame, Fault, FaultCode, Message, NodeId, PayloadBuilder, RequestId, RunReport,
};

use crate::frames::Frame;

/// Whom to call, and where it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Who; proven by its certificate.
    pub node: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A call that is ready to be sent, more than once if need be.
#[derive(Clone, Debug)]
pub struct Outbound<P> {
    /// Which method.
    pub method: &'static str,
    /// Time left, attempt, trace.
    pub context: CallContext,
    /// The params.
    pub params: P,
    /// The tensors.
    pub payload: PayloadBuilder,
}

impl<P: serde::Serialize> Outbound<P> {
    /// A call without tensors.
    pub fn new(method: &'static str, params: P) -> Self {
        Self { method, context: CallContext::default(), params, payload: PayloadBuilder::new() }
    }

    pub(crate) fn frame(self, id: RequestId) -> EncodedFrame {
        EncodedFrame::request(id, self.method, &self.context, &self.params, self.payload)
    }
}

/// A peer's answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The result: strict MessagePack; [`lineside_wire::decode_part`] reads it.
    pub result: Bytes,
    /// The tensors' bytes, aligned.
    pub payload: Bytes,
    /// Who did the work and how long it took.
    pub report: Option<RunReport>,
}

/// An answer as it came off a stream.
#[derive(Debug)]
pub(crate) enum Answer {
    Reply(Reply),
    Fault(Fault, Option<RunReport>),
}

/// Reads an answering frame. `Ok(None)` is a kind of frame that is no answer, to be passed over.
///
/// # Errors
/// The document breaks the protocol; the text says how.
pub(crate) fn read_answer(frame: &Frame) -> Result<Option<(RequestId, Answer)>, String> {
    let message = Message::decode(frame.kind, &frame.document).map_err(|error| error.to_string())?;
    Ok(match message {
        Message::Response { id, result, report } => {
            let result = frame.document.slice_ref(result);
            Some((id, Answer::Reply(Reply { result, payload: frame.payload.clone(), report })))
        }
        Message::Error { id: Some(id), fault, report } => Some((id, Answer::Fault(fault, report))),
        // The peer could not even read which call failed: whoever waits on this stream will see it end.
        Message::Error { id: None, fault, .. } => {
            return Err(format!("the peer could not read a request: {fault}"));
        }
        Message::Item { .. } | Message::Request { .. } | Message::Notification { .. } | Message::Batch(_) => {
            None
        }
    })
}

/// The fault for a call that was refused because of the caller's role.
pub(crate) fn not_allowed(role: lineside_wire::Role, method: &str) -> Fault {
    Fault::new(
        FaultCode::PermissionDenied,
        format!("the role {role} may not call {method}; `lineside certs roles` lists what each role may do"),
    )
}
