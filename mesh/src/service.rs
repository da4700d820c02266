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
use lineside_wire::{
    CallContext, EncodedFrame, Executed, Fault, FaultCode, Limits, PayloadBuilder, RequestId, RunReport,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

use crate::{
    bytes::{ByteCount, Counted},
    config::ITEMS_AHEAD_MAX,
    frames::oversize,
};

/// Answers the calls of peers. One for the whole process; called on the network's thread.
pub trait Service: Send + Sync + 'static {
    /// Takes one call. Must return at once: long work goes to a thread of its own, or into the future that is
    /// given back, which runs on the network's runtime and is dropped when the peer goes or cancels.
    ///
    /// A panic ends the connection of this peer and nothing else.
    fn serve(&self, call: Incoming) -> Served;

    /// Some callers went away or took calls back: whoever holds work for them can look which
    /// ([`Responder::cancelled`]). Must return at once.
    fn abandoned(&self) {}
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
///
/// # Streamed results
///
/// A method whose result comes in parts sends them with [`Responder::item`] from the future that its
/// [`Service::serve`] gives back as [`Served::Later`], and ends with [`Responder::answer`] (an empty map) or
/// [`Responder::fail`]. The caller cancels by dropping its stream: the future is then dropped wherever it waits, so it
/// needs no other end. It must do its waiting in `await`s, because it runs on the network's thread.
///
/// ```
/// # use lineside_mesh::{Incoming, NotSent, Served};
/// # use lineside_wire::{Fault, FaultCode, PayloadBuilder};
/// # use tokio::sync::watch;
/// /// Sends a value at once and at each change, until the caller goes or the values end.
/// fn serve(mut call: Incoming, mut values: watch::Receiver<u64>) -> Served {
///     Served::Later(Box::pin(async move {
///         loop {
///             let value = *values.borrow_and_update();
///             match call.reply.item(&value, PayloadBuilder::new()).await {
///                 Ok(()) => {}
///                 Err(NotSent::Gone) => return,
///                 Err(NotSent::TooLong(fault)) => return call.reply.fail(&fault, None),
///             }
///             if values.changed().await.is_err() {
///                 return call.reply.fail(&Fault::new(FaultCode::Draining, "this member is leaving"), None);
///             }
///         }
///     }))
/// }
/// # drop(serve);
/// ```
#[derive(Debug)]
pub struct Responder {
    place: Option<Place>,
    cancelled: Cancelled,
}

/// Where the answer to a request goes.
#[derive(Debug)]
struct Place {
    id: RequestId,
    answer: mpsc::OwnedPermit<Outgoing>,
    stream: mpsc::Sender<Outgoing>,
    limits: Limits,
    unwritten: ByteCount,
    /// Made with the first item: most results have none.
    items: Option<Items>,
}

/// The items of one streamed result.
#[derive(Debug)]
struct Items {
    next: u64,
    ahead: Arc<Semaphore>,
}

/// An answer, or an item before it, on its way to the stream it belongs to.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: RequestId,
    pub(crate) frame: EncodedFrame,
    /// An item's place among those not yet written; an answer has none.
    pub(crate) ahead: Option<OwnedSemaphorePermit>,
    /// Counts until this is dropped.
    pub(crate) bytes: Counted,
}

/// Why an item of a streamed result was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The caller cancelled or went away, or never wanted an answer.
    #[error("nobody waits for the result any more")]
    Gone,
    /// No peer would take it. The result can go on without it, or end with this fault.
    #[error("{}", .0.message)]
    TooLong(Fault),
}

impl Responder {
    pub(crate) fn to_request(
        id: RequestId,
        answer: mpsc::OwnedPermit<Outgoing>,
        stream: mpsc::Sender<Outgoing>,
        limits: Limits,
        unwritten: ByteCount,
    ) -> Self {
        let place = Place { id, answer, stream, limits, unwritten, items: None };
        Self { place: Some(place), cancelled: Cancelled::default() }
    }

    pub(crate) fn to_notification() -> Self {
        Self { place: None, cancelled: Cancelled::default() }
    }

    /// The flag that is set when the caller goes away or cancels.
    #[must_use]
    pub fn cancelled(&self) -> Cancelled {
        self.cancelled.clone()
    }

    /// Sends the next item of a streamed result. Waits while the caller does not read: at most a few items are made
    /// and not written.
    ///
    /// Cancel-safe: dropped before it returns, nothing was sent and no number is missing.
    ///
    /// # Errors
    /// Nobody waits for it, or it is too long for any peer.
    pub async fn item<I: serde::Serialize + Sync>(
        &mut self,
        item: &I,
        payload: PayloadBuilder,
    ) -> Result<(), NotSent> {
        let place = self.place.as_mut().ok_or(NotSent::Gone)?;
        let items = place
            .items
            .get_or_insert_with(|| Items { next: 0, ahead: Arc::new(Semaphore::new(ITEMS_AHEAD_MAX)) });
        let room = async {
            let ahead = Arc::clone(&items.ahead).acquire_owned().await.ok()?;
            Some((ahead, place.stream.reserve().await.ok()?))
        };
        let (ahead, room) = tokio::select! {
            biased;
            () = self.cancelled.wait() => return Err(NotSent::Gone),
            room = room => room.ok_or(NotSent::Gone)?,
        };
        let frame = EncodedFrame::item(place.id, items.next, item, payload);
        if let Some(fault) = oversize(&frame, &place.limits) {
            return Err(NotSent::TooLong(fault));
        }
        items.next += 1;
        let bytes = place.unwritten.count(frame.len());
        room.send(Outgoing { id: place.id, frame, ahead: Some(ahead), bytes });
        Ok(())
    }

    /// Answers with a result and its tensors.
    ///
    /// One that is too long for any peer becomes the fault [`FaultCode::LimitExceeded`].
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
        if let Some(Place { id, answer, limits, unwritten, .. }) = self.place.take() {
            let mut frame = frame(id);
            if let Some(fault) = oversize(&frame, &limits) {
                frame = EncodedFrame::error(Some(id), &Fault { executed: Executed::Yes, ..fault }, None);
            }
            let bytes = unwritten.count(frame.len());
            drop(answer.send(Outgoing { id, frame, ahead: None, bytes }));
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
