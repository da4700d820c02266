//! What serves the calls that peers send, and how it answers.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use lineside_certs::PeerIdentity;
use lineside_wire::{CallContext, EncodedFrame, Fault, FaultCode, PayloadBuilder, RequestId, RunReport};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

/// Answers the calls of peers. One for the whole process; called on the network's thread.
pub trait Service: Send + Sync + 'static {
    /// Takes one call. Must return at once: long work goes to a thread of its own, or into the future that is
    /// given back, which runs on the network's runtime and is dropped when the peer goes or cancels.
    ///
    /// A panic ends the connection of this peer and nothing else.
    fn serve(&self, call: Incoming) -> Served;
}

/// What became of a call by the time [`Service::serve`] returns.
pub enum Served {
    /// Answered, or handed to something that will answer.
    Done,
    /// To be run by the mesh.
    Later(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// A call from a peer.
#[derive(Debug)]
pub struct Incoming {
    /// Who calls: proven by its certificate.
    pub peer: Arc<PeerIdentity>,
    /// Which method. The role table has already allowed it.
    pub method: String,
    /// Attempt, trace, priority.
    pub context: CallContext,
    /// When the caller no longer wants an answer; from the context's timeout and the arrival.
    pub deadline: Option<Instant>,
    /// When the frame was complete.
    pub arrived: Instant,
    /// The params: strict MessagePack, not yet decoded.
    pub params: Bytes,
    /// The tensor bytes, aligned.
    pub payload: Bytes,
    /// Where the answer goes.
    pub reply: Responder,
}

/// A flag that says the caller no longer wants its answer.
#[derive(Clone, Debug, Default)]
pub struct Cancelled(Arc<CancelState>);

#[derive(Debug, Default)]
struct CancelState {
    set: AtomicBool,
    changed: Notify,
}

impl Cancelled {
    /// Whether the caller went away or took the call back.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Marks the call as no longer wanted.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Waits until the flag is set. Cancel-safe.
    pub async fn wait(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.is_set() {
                return;
            }
            changed.await;
        }
    }
}

/// Answers one call, from any thread, without waiting: its place in the answers' queue is already reserved.
///
/// Dropped without an answer, it says [`FaultCode::Internal`], so that no caller waits for ever. The answer to a
/// notification goes nowhere.
#[derive(Debug)]
pub struct Responder {
    place: Option<(RequestId, mpsc::OwnedPermit<Outgoing>)>,
    cancelled: Cancelled,
}

/// An answer on its way to the stream it belongs to.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: RequestId,
    pub(crate) frame: EncodedFrame,
}

impl Responder {
    pub(crate) fn to_request(id: RequestId, place: mpsc::OwnedPermit<Outgoing>) -> Self {
        Self { place: Some((id, place)), cancelled: Cancelled::default() }
    }

    pub(crate) fn to_notification() -> Self {
        Self { place: None, cancelled: Cancelled::default() }
    }

    /// The flag that is set when the caller goes away or cancels.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        self.cancelled.clone()
    }

    /// Answers with a result and its tensors.
    pub fn answer<R: serde::Serialize>(
        mut self,
        result: &R,
        report: Option<&RunReport>,
        payload: PayloadBuilder,
    ) {
        self.send(|id| EncodedFrame::response(id, result, report, payload));
    }

    /// Answers with a fault.
    pub fn fail(mut self, fault: &Fault, report: Option<&RunReport>) {
        self.send(|id| EncodedFrame::error(Some(id), fault, report));
    }

    fn send(&mut self, frame: impl FnOnce(RequestId) -> EncodedFrame) {
        if let Some((id, place)) = self.place.take() {
            drop(place.send(Outgoing { id, frame: frame(id) }));
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let fault = match self.cancelled.is_set() {
            true => Fault::new(FaultCode::Cancelled, "the caller cancelled the call"),
            false => Fault::new(
                FaultCode::Internal,
                "the call was dropped without an answer; see this member's log",
            ),
        };
        self.send(|id| EncodedFrame::error(Some(id), &fault, None));
    }
}
