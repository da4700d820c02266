//! The calling side of the stream that small calls share: requests out, answers matched by id.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lineside_wire::{CancelParams, EncodedFrame, RequestId, method};
use quinn::SendStream;
use tokio::sync::{mpsc, oneshot};

use crate::{
    call::{Answer, read_answer},
    config::REQUESTS_QUEUED_MAX,
    frames::{FrameReader, write_frames},
};

/// Requests that are written together.
const WRITE_TOGETHER_MAX: usize = 64;

/// Why a call on the shared stream has no answer.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) sent: bool,
    pub(crate) reason: String,
}

/// The calls that wait for their answers.
///
/// The lock is held for one insertion or removal, and a connection's calls live on one runtime thread, so nobody
/// ever waits for it.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<PendingCalls>);

#[derive(Debug, Default)]
struct PendingCalls {
    open: HashMap<RequestId, oneshot::Sender<Answer>>,
    /// Why the stream takes no more calls.
    broken: Option<String>,
}

impl Pending {
    fn calls(&self) -> MutexGuard<'_, PendingCalls> {
        // The map is whole between any two statements, also when a thread panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every open call and refuses all later ones. The first reason stays.
    pub(crate) fn fail(&self, reason: &str) {
        let mut calls = self.calls();
        calls.broken.get_or_insert_with(|| reason.to_owned());
        calls.open.clear();
    }

    fn reason(&self) -> String {
        self.calls().broken.clone().unwrap_or_else(|| "the connection ended".to_owned())
    }
}

/// Makes calls over the shared stream; its two halves are run by [`write`] and [`read`].
#[derive(Debug)]
pub(crate) struct SharedStream {
    queue: mpsc::Sender<EncodedFrame>,
    pending: Arc<Pending>,
    next_id: AtomicU64,
}

impl SharedStream {
    pub(crate) fn new() -> (Self, mpsc::Receiver<EncodedFrame>, Arc<Pending>) {
        let (queue, requests) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let pending = Arc::new(Pending::default());
        (Self { queue, pending: Arc::clone(&pending), next_id: AtomicU64::new(1) }, requests, pending)
    }

    /// The id of the next call.
    pub(crate) fn next_id(&self) -> RequestId {
        RequestId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a request and waits for its answer. Dropped before that, it tells the peer to forget the call.
    pub(crate) async fn call(&self, id: RequestId, frame: EncodedFrame) -> Result<Answer, Broken> {
        let (place, answer) = oneshot::channel();
        {
            let mut calls = self.pending.calls();
            if let Some(reason) = &calls.broken {
                return Err(Broken { sent: false, reason: reason.clone() });
            }
            calls.open.insert(id, place);
        }
        let mut open = OpenCall { stream: self, id, sent: false };
        if self.queue.send(frame).await.is_err() {
            return Err(Broken { sent: false, reason: self.pending.reason() });
        }
        open.sent = true;
        answer.await.map_err(|_| Broken { sent: true, reason: self.pending.reason() })
    }
}

impl SharedStream {
    /// Sends what nobody answers. Gives the reason when it could not even be queued.
    pub(crate) async fn notify(&self, frame: EncodedFrame) -> Result<(), String> {
        self.queue.send(frame).await.map_err(|_| self.pending.reason())
    }
}

/// A call whose caller still waits.
struct OpenCall<'a> {
    stream: &'a SharedStream,
    id: RequestId,
    sent: bool,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        let unanswered = self.stream.pending.calls().open.remove(&self.id).is_some();
        if unanswered && self.sent {
            // When the queue is full the peer does the work for nothing, which costs it but harms nobody.
            drop(
                self.stream
                    .queue
                    .try_send(EncodedFrame::notification(method::CANCEL, &CancelParams { id: self.id })),
            );
        }
    }
}

/// Writes queued requests until the stream or the connection ends.
pub(crate) async fn write(
    mut stream: SendStream,
    mut requests: mpsc::Receiver<EncodedFrame>,
    pending: Arc<Pending>,
) {
    let mut frames = Vec::with_capacity(WRITE_TOGETHER_MAX);
    while requests.recv_many(&mut frames, WRITE_TOGETHER_MAX).await != 0 {
        if let Err(error) = write_frames(&mut stream, frames.drain(..)).await {
            return pending.fail(&error.to_string());
        }
    }
}

/// Hands answers to the calls that wait for them, until the stream ends or breaks the protocol.
pub(crate) async fn read(mut frames: FrameReader, pending: Arc<Pending>) {
    loop {
        let broken = match frames.next().await {
            Ok(Some(frame)) => match read_answer(&frame) {
                // An answer that nobody waits for belongs to a call that was cancelled.
                Ok(Some((id, answer))) => {
                    let waiting = pending.calls().open.remove(&id);
                    if let Some(waiting) = waiting {
                        // Fails only when the caller went away meanwhile.
                        drop(waiting.send(answer));
                    }
                    continue;
                }
                Ok(None) => continue,
                Err(reason) => reason,
            },
            Ok(None) => "the peer finished the stream".to_owned(),
            Err(error) => error.to_string(),
        };
        return pending.fail(&broken);
    }
}
