//! The serving side of one stream: frames in, calls to the service, answers out.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lineside_certs::{PeerIdentity, roles};
use lineside_wire::{
    CallContext, CancelParams, EncodedFrame, Fault, FaultCode, Greeting, Message, PayloadBuilder, RequestId,
    decode_part, method,
};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::{sync::mpsc, time::Instant};
use tracing::debug;

use crate::{
    Cancelled, Incoming, MeshConfig, Presence, Responder, Served, Service,
    bytes::{ByteCount, Room},
    call::not_allowed,
    config::ANSWERS_MAX,
    error::CloseCode,
    frames::{Frame, FrameError, FrameReader, write_frames},
    greeting,
    service::Outgoing,
};

/// Answers that are written together.
const WRITE_TOGETHER_MAX: usize = 64;

/// Bytes of answers to one connection that may be made and not be written, for lack of a reader. Past it the next call
/// is told "busy": two answers of the largest size, and a second of a gigabit link.
const UNWRITTEN_BYTES_MAX: usize = 128 << 20;

/// Calls of one stream that the service may have left to be run. Requests have their own, smaller bound; what is above
/// it are notifications, which nobody answers: the stream is not read on until some have ended.
const LATER_MAX: usize = 2 * ANSWERS_MAX;

/// Calls that are taken together before their answers are written: as many as are written together.
const FRAMES_TOGETHER_MAX: usize = WRITE_TOGETHER_MAX;

/// What every stream of one connection shares.
pub(crate) struct Serving {
    pub(crate) config: Arc<MeshConfig>,
    pub(crate) peer: Arc<PeerIdentity>,
    pub(crate) remote: SocketAddr,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) presence: Arc<dyn Presence>,
    /// Whether the peer has said hello, or answers ours: nothing else is served before.
    pub(crate) greeted: AtomicBool,
    /// Of answers on all streams of the connection.
    pub(crate) unwritten: ByteCount,
    /// For the payloads that the peer sends.
    pub(crate) room: Room,
    /// Told what the peer said of itself.
    pub(crate) on_greeting: Box<dyn Fn(Greeting) + Send + Sync>,
}

impl Serving {
    /// Serves one stream until the peer has finished it, every request on it is answered, and no notification is
    /// worked on.
    ///
    /// Dropped or ended early, it cancels the calls that are still open.
    pub(crate) async fn stream(self: Arc<Self>, send: SendStream, recv: RecvStream) {
        // A caller sends no answers.
        let limits = self.config.limits.without_answers();
        let reader = FrameReader::new(recv, limits, self.config.timing.progress).within(self.room.clone());
        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        let open = OpenCalls { calls: HashMap::new(), service: Arc::clone(&self.service) };
        let calls = Calls { serving: self, answers, refused: Vec::new(), open };
        Stream { calls, reader, send, outgoing, later: FuturesUnordered::new() }.run().await;
    }
}

/// The calls of one stream that are not answered yet; told when nobody waits any more.
struct OpenCalls {
    calls: HashMap<RequestId, Cancelled>,
    service: Arc<dyn Service>,
}

impl OpenCalls {
    fn cancel(&self, id: RequestId) {
        if let Some(cancelled) = self.calls.get(&id) {
            cancelled.set();
            self.service.abandoned();
        }
    }
}

impl Drop for OpenCalls {
    fn drop(&mut self) {
        self.calls.values().for_each(Cancelled::set);
        if !self.calls.is_empty() {
            self.service.abandoned();
        }
    }
}

struct Stream {
    calls: Calls,
    reader: FrameReader,
    send: SendStream,
    outgoing: mpsc::Receiver<Outgoing>,
    later: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Stream {
    async fn run(mut self) {
        let mut finished = false;
        let mut written = Vec::with_capacity(WRITE_TOGETHER_MAX);
        let stopped = self.send.stopped();
        tokio::pin!(stopped);
        while !(finished && self.calls.open.calls.is_empty()) {
            tokio::select! {
                frame = self.reader.next(), if !finished && self.later.len() < LATER_MAX => match self.take(frame) {
                    Ok(goes_on) => finished = !goes_on,
                    Err(error) => {
                        debug!(%error, "stream ended early");
                        drop(self.send.reset(VarInt::from(CloseCode::ProtocolError)));
                        return;
                    }
                },
                _ = self.outgoing.recv_many(&mut written, WRITE_TOGETHER_MAX) => {}
                Some(()) = self.later.next(), if !self.later.is_empty() => {}
                // The caller no longer reads: none of its calls on this stream is wanted.
                _ = &mut stopped => return,
            }
            if !self.write(&mut written).await {
                return;
            }
        }
        drop(self.send.finish());
        while self.later.next().await.is_some() {}
    }

    /// Serves a frame, and those that came with it: calls that arrive together are answered together. Says whether the
    /// stream goes on.
    fn take(&mut self, first: Result<Option<Frame>, FrameError>) -> Result<bool, FrameError> {
        let Some(frame) = first? else { return Ok(false) };
        self.later.extend(self.calls.frame(&frame));
        for _ in 1..FRAMES_TOGETHER_MAX {
            if LATER_MAX <= self.later.len() {
                break;
            }
            let Some(frame) = self.reader.take()? else { break };
            self.later.extend(self.calls.frame(&frame));
        }
        Ok(true)
    }

    /// Writes answers and refusals; false when the stream is gone.
    async fn write(&mut self, written: &mut Vec<Outgoing>) -> bool {
        if written.is_empty() && self.calls.refused.is_empty() {
            return true;
        }
        for answer in written.iter().filter(|outgoing| outgoing.ahead.is_none()) {
            self.calls.open.calls.remove(&answer.id);
        }
        // Items give their places back once they are written: until then their service waits. Bytes count until then.
        let mut places = Vec::new();
        let outgoing = written.drain(..).map(|outgoing| {
            places.push((outgoing.ahead, outgoing.bytes));
            outgoing.frame
        });
        write_frames(&mut self.send, self.calls.refused.drain(..).chain(outgoing)).await.is_ok()
    }
}

/// Dispatches the frames of one stream.
struct Calls {
    serving: Arc<Serving>,
    answers: mpsc::Sender<Outgoing>,
    /// Answers that were given without the service.
    refused: Vec<EncodedFrame>,
    open: OpenCalls,
}

impl Calls {
    /// Handles one frame and gives back what the service left to be run.
    fn frame(&mut self, frame: &Frame) -> Vec<BoxFuture<'static, ()>> {
        let mut later = Vec::new();
        match Message::decode(frame.kind, &frame.document) {
            Ok(Message::Batch(messages)) if !frame.payload.is_empty() || frame.is_without_payload => {
                let text = format!(
                    "a batch of {} calls with a payload: tensors go in frames of their own",
                    messages.len()
                );
                self.refuse(None, &Fault::new(FaultCode::InvalidRequest, text));
            }
            Ok(Message::Batch(messages)) => {
                later.extend(messages.into_iter().filter_map(|message| self.message(message, frame)));
            }
            Ok(message) => later.extend(self.message(message, frame)),
            Err(error) => self.refuse(None, &Fault::new(error.fault_code(), error.to_string())),
        }
        later
    }

    fn message(&mut self, message: Message<'_>, frame: &Frame) -> Option<BoxFuture<'static, ()>> {
        match message {
            Message::Request { id, method: method::HELLO, params, .. } => {
                self.hello(id, params);
                None
            }
            Message::Request { id, method, context, params } => {
                if let Err(fault) = self.admit(id, method) {
                    self.refuse(Some(id), &fault);
                    return None;
                }
                if frame.is_without_payload {
                    let text = "this peer sends more tensors at once than there is room for";
                    self.refuse(Some(id), &Fault::new(FaultCode::Busy, text).retry_after_ms(50));
                    return None;
                }
                if UNWRITTEN_BYTES_MAX <= self.serving.unwritten.bytes() {
                    let text = "the answers to earlier calls of this connection are not read";
                    self.refuse(Some(id), &Fault::new(FaultCode::Busy, text).retry_after_ms(50));
                    return None;
                }
                let Ok(place) = self.answers.clone().try_reserve_owned() else {
                    let text = format!("{ANSWERS_MAX} calls wait on this stream");
                    self.refuse(Some(id), &Fault::new(FaultCode::Busy, text).retry_after_ms(50));
                    return None;
                };
                let limits = self.serving.config.limits;
                let unwritten = self.serving.unwritten.clone();
                let reply = Responder::to_request(id, place, self.answers.clone(), limits, unwritten);
                self.open.calls.insert(id, reply.cancelled());
                self.serve(method, context, frame.document.slice_ref(params), frame.payload.clone(), reply)
            }
            Message::Notification { method: method::CANCEL, params } => {
                if let Ok(CancelParams { id }) = decode_part(params) {
                    self.open.cancel(id);
                }
                None
            }
            Message::Notification { method, params } => {
                // A notification is never answered, not even when it is refused.
                self.admit(RequestId(u64::MAX), method).ok().filter(|()| !frame.is_without_payload)?;
                let params = frame.document.slice_ref(params);
                self.serve(
                    method,
                    CallContext::default(),
                    params,
                    frame.payload.clone(),
                    Responder::to_notification(),
                )
            }
            Message::Response { .. } | Message::Error { .. } | Message::Item { .. } | Message::Batch(_) => {
                let text =
                    "only requests, notifications and batches are served on a stream that the caller opened";
                self.refuse(None, &Fault::new(FaultCode::InvalidRequest, text));
                None
            }
        }
    }

    /// Whether the peer may make this call now.
    fn admit(&self, id: RequestId, method: &str) -> Result<(), Fault> {
        let serving = &self.serving;
        if self.open.calls.contains_key(&id) {
            let text = format!("the id {} belongs to a call that is not answered yet", id.0);
            return Err(Fault::new(FaultCode::InvalidRequest, text));
        }
        if !serving.greeted.load(Ordering::Acquire) {
            return Err(Fault::new(FaultCode::InvalidRequest, "the first call of a connection is hello"));
        }
        if !roles::is_known(method) {
            let method: String = method.chars().take(64).collect();
            return Err(Fault::new(FaultCode::MethodNotFound, format!("there is no method {method:?}")));
        }
        match roles::may(serving.peer.role, method) {
            true => Ok(()),
            false => Err(not_allowed(serving.peer.role, method)),
        }
    }

    fn serve(
        &self,
        method: &str,
        context: CallContext,
        params: Bytes,
        payload: Bytes,
        reply: Responder,
    ) -> Option<BoxFuture<'static, ()>> {
        let arrived = Instant::now();
        let deadline = context.timeout_us.and_then(|us| arrived.checked_add(Duration::from_micros(us)));
        let cancelled = reply.cancelled();
        let call = Incoming {
            peer: Arc::clone(&self.serving.peer),
            method: method.to_owned(),
            context,
            deadline,
            arrived,
            params,
            payload,
            reply,
        };
        match self.serving.service.serve(call) {
            Served::Done => None,
            Served::Later(work) => Some(Box::pin(async move {
                tokio::select! {
                    () = work => {}
                    () = cancelled.wait() => {}
                }
            })),
        }
    }

    fn hello(&mut self, id: RequestId, params: &[u8]) {
        let own = self.serving.presence.greeting();
        let greeting =
            match decode_part(params).and_then(|theirs| greeting::check(theirs, &own, &self.serving.peer)) {
                Ok(greeting) => greeting,
                Err(fault) => return self.refuse(Some(id), &fault),
            };
        debug!(peer = %self.serving.peer.node, remote = %self.serving.remote, "greeted");
        self.refused.push(EncodedFrame::response(id, &own, None, PayloadBuilder::new()));
        (self.serving.on_greeting)(greeting);
        self.serving.greeted.store(true, Ordering::Release);
    }

    fn refuse(&mut self, id: Option<RequestId>, fault: &Fault) {
        self.refused.push(EncodedFrame::error(id, fault, None));
    }
}
