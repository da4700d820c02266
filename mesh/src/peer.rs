//! One connection with one peer: calls out, calls in, gossip, and its end.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use lineside_certs::{Credentials, PeerIdentity, Refusal};
use lineside_wire::{Greeting, RequestId};
use quinn::{Connection, ConnectionError, VarInt};
use tokio::task::JoinSet;
use tracing::{debug, error, info, trace};

use crate::{
    CallFailure, MeshConfig, Outbound, Presence, Reply, Service,
    bytes::{ByteCount, Rooms},
    call::{Answer, read_answer},
    config::{CONNECTION_WINDOW, SHARED_STREAM_BYTES_MAX},
    connect::shown,
    defect,
    error::{CloseCode, close_of},
    frames::{FrameReader, oversize, write_frames},
    items::Items,
    knock,
    serve::Serving,
    shared::{self, Broken, SharedStream},
    standing::{Due, Standing},
};

/// A peer that is connected.
pub(crate) struct Peer {
    pub(crate) identity: Arc<PeerIdentity>,
    pub(crate) connection: Connection,
    pub(crate) remote: SocketAddr,
    config: Arc<MeshConfig>,
    shared: SharedStream,
    /// What the peer said of itself; set once it is up.
    greeting: OnceLock<Greeting>,
    /// A certificate on this connection ends soon.
    retired: AtomicBool,
}

/// What a connection needs of its process.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) config: Arc<MeshConfig>,
    pub(crate) credentials: Credentials,
    pub(crate) presence: Arc<dyn Presence>,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) rooms: Rooms,
}

/// Told that the peer has greeted us, with what it said.
pub(crate) type OnGreeting = Box<dyn Fn(Arc<Peer>, Greeting) + Send + Sync>;

impl Peer {
    /// Takes over a connection whose handshake is complete, on which a certificate was shown that ends at
    /// `own_not_after`. The second value runs it, until it ends.
    pub(crate) async fn start(
        around: &Surroundings,
        connection: Connection,
        identity: PeerIdentity,
        own_not_after: SystemTime,
        on_greeting: OnGreeting,
    ) -> Result<(Arc<Self>, impl Future<Output = ConnectionError> + Send + 'static), ConnectionError> {
        let identity = Arc::new(identity);
        let grace = around.config.timing.expired_grace;
        let chain = shown(&connection);
        let standing = Standing::new(&around.credentials, &identity, chain, own_not_after, grace);
        // A socket of both families gives IPv4 addresses as IPv6 ones.
        let remote = connection.remote_address();
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW));
        let (send, recv) = connection.open_bi().await?;
        let (shared, requests, pending) = SharedStream::new();
        let peer = Arc::new(Self {
            identity,
            connection: connection.clone(),
            remote,
            config: Arc::clone(&around.config),
            shared,
            greeting: OnceLock::new(),
            retired: AtomicBool::new(false),
        });
        let serving = peer.serving(around, on_greeting);
        let answers = FrameReader::new(recv, around.config.limits, around.config.timing.progress);
        let (presence, of) = (Arc::clone(&around.presence), Arc::clone(&peer));
        let run = async move {
            let mut tasks = JoinSet::new();
            let (writing, reading) = (Arc::clone(&pending), Arc::clone(&pending));
            tasks.spawn(until_broken(connection.clone(), shared::write(send, requests, writing)));
            tasks.spawn(until_broken(connection.clone(), shared::read(answers, reading)));
            let reason = tokio::select! {
                reason = run(&connection, &mut tasks, serving, presence) => reason,
                () = knock::until_deserted(&connection, || of.listens()) => {
                    debug!(peer = %of.identity.node, %remote, "nobody listens there any more: its process has ended");
                    pending.fail("nobody listens at its port any more: its process has ended");
                    connection.close(VarInt::from(CloseCode::Deserted), b"nobody listens");
                    connection.closed().await
                }
                refusal = of.stands(standing) => {
                    info!(peer = %of.identity.node, remote = %of.remote, %refusal, "connection closed");
                    of.refuse(refusal);
                    connection.closed().await
                }
            };
            tasks.shutdown().await;
            pending.fail(&reason.to_string());
            reason
        };
        Ok((peer, run))
    }

    /// What serves the peer's calls on this connection.
    fn serving(self: &Arc<Self>, around: &Surroundings, on_greeting: OnGreeting) -> Arc<Serving> {
        let greeted = Arc::downgrade(self);
        Arc::new(Serving {
            config: Arc::clone(&around.config),
            peer: Arc::clone(&self.identity),
            remote: self.remote,
            service: Arc::clone(&around.service),
            presence: Arc::clone(&around.presence),
            // Whoever we dialled proved who it is, and calls back only when it has taken our hello; its answer to that
            // may still be on its way when the first call arrives on another stream.
            greeted: AtomicBool::new(self.connection.side().is_client()),
            unwritten: ByteCount::default(),
            room: around.rooms.of(&self.identity),
            on_greeting: Box::new(move |greeting| {
                if let Some(peer) = greeted.upgrade() {
                    on_greeting(peer, greeting);
                }
            }),
        })
    }

    /// Whether calls can be tried.
    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.get()
    }

    /// Whether it said that it is a member, which serves calls.
    pub(crate) fn is_member(&self) -> bool {
        self.greeting().is_some_and(|greeting| greeting.member.is_some())
    }

    /// Whether it can be reached at the address that this connection is with: it was dialled there, or tells it.
    fn listens(&self) -> bool {
        let told = || self.greeting()?.member.as_ref().map(|member| member.address);
        self.connection.side().is_client() || told() == Some(self.remote)
    }

    /// Keeps what the peer said of itself first. False when it has said it before.
    pub(crate) fn set_greeting(&self, greeting: Greeting) -> bool {
        self.greeting.set(greeting).is_ok()
    }

    /// Whether a new call may go over it: one that greeted as a member, and whose certificates last.
    pub(crate) fn takes_calls(&self) -> bool {
        self.is_open() && self.is_member() && !self.retired.load(Ordering::Relaxed)
    }

    /// Waits until the peer may stay no longer, and retires the connection before its certificates end.
    async fn stands(&self, mut standing: Standing) -> Refusal {
        loop {
            match standing.due().await {
                Due::Retire => {
                    debug!(peer = %self.identity.node, "a certificate ends soon: new calls dial anew");
                    self.retired.store(true, Ordering::Relaxed);
                }
                Due::Close(refusal) => return refusal,
            }
        }
    }

    /// Closes the connection with what the peer has to know of it.
    fn refuse(&self, refusal: Refusal) {
        let (code, reason) = close_of(refusal);
        self.connection.close(VarInt::from(code), reason.as_bytes());
    }

    pub(crate) fn close(&self, code: CloseCode) {
        self.connection.close(VarInt::from(code), format!("{code:?}").as_bytes());
    }

    /// Sends one datagram; lost when there is no room for it.
    pub(crate) fn send_gossip(&self, packet: Bytes) {
        if let Err(error) = self.connection.send_datagram(packet) {
            trace!(peer = %self.identity.node, %error, "gossip not sent");
        }
    }

    /// Makes one call: on the shared stream when it is small, else on its own. Dropped, it cancels the call.
    pub(crate) async fn call<P: serde::Serialize>(&self, call: Outbound<P>) -> Result<Reply, CallFailure> {
        let id = self.shared.next_id();
        let frame = call.frame(id);
        let node = self.identity.node;
        if let Some(fault) = oversize(&frame, &self.config.limits) {
            return Err(CallFailure::Fault { node, fault, report: None });
        }
        let answer = match frame.len() <= SHARED_STREAM_BYTES_MAX {
            true => self.shared.call(id, frame).await,
            false => self.call_alone(id, frame).await,
        };
        match answer {
            Ok(Answer::Reply(reply)) => Ok(reply),
            Ok(Answer::Fault(fault, report)) => Err(CallFailure::Fault { node, fault, report }),
            Err(Broken { sent, reason }) => Err(CallFailure::Lost { node, sent, reason }),
        }
    }

    /// Sends a notification, on the shared stream: a stream of its own would end before anybody could know that it was
    /// read.
    pub(crate) async fn notify<P: serde::Serialize>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<(), CallFailure> {
        let frame = lineside_wire::EncodedFrame::notification(method, params);
        let node = self.identity.node;
        if SHARED_STREAM_BYTES_MAX < frame.len() {
            let text = format!(
                "a notification of {} bytes: at most {SHARED_STREAM_BYTES_MAX} are sent; make it a call",
                frame.len()
            );
            let fault = lineside_wire::Fault::new(lineside_wire::FaultCode::LimitExceeded, text);
            return Err(CallFailure::Fault { node, fault, report: None });
        }
        let sent = self.shared.notify(frame).await;
        sent.map_err(|reason| CallFailure::Lost { node, sent: false, reason })
    }

    /// Makes one call on a stream of its own. Dropping both halves of the stream is the cancellation.
    async fn call_alone(&self, id: RequestId, frame: lineside_wire::EncodedFrame) -> Result<Answer, Broken> {
        let mut frames = self.open_stream(frame).await?;
        let broken = |reason: String| Broken { sent: true, reason };
        loop {
            let frame = frames.next().await.map_err(|e| broken(e.to_string()))?;
            let frame = frame.ok_or_else(|| broken("the peer finished the stream".to_owned()))?;
            match read_answer(&frame).map_err(broken)? {
                Some((answered, answer)) if answered == id => return Ok(answer),
                Some(_) | None => {}
            }
        }
    }

    /// Makes a call whose result is streamed: always on a stream of its own, so that its items hold up nobody.
    pub(crate) async fn call_streaming<P: serde::Serialize>(
        &self,
        call: Outbound<P>,
    ) -> Result<Items, CallFailure> {
        let (id, node) = (self.shared.next_id(), self.identity.node);
        let frame = call.frame(id);
        if let Some(fault) = oversize(&frame, &self.config.limits) {
            return Err(CallFailure::Fault { node, fault, report: None });
        }
        match self.open_stream(frame).await {
            Ok(frames) => Ok(Items::new(node, id, frames)),
            Err(Broken { sent, reason }) => Err(CallFailure::Lost { node, sent, reason }),
        }
    }

    /// Opens a stream for one request, writes it and finishes: what is read from it answers that request.
    async fn open_stream(&self, request: lineside_wire::EncodedFrame) -> Result<FrameReader, Broken> {
        let broken = |sent| move |reason: String| Broken { sent, reason };
        let (mut send, recv) = self.connection.open_bi().await.map_err(|e| broken(false)(e.to_string()))?;
        write_frames(&mut send, std::iter::once(request)).await.map_err(|e| broken(true)(e.to_string()))?;
        send.finish().map_err(|e| broken(true)(e.to_string()))?;
        Ok(FrameReader::new(recv, self.config.limits, self.config.timing.progress))
    }
}

/// Runs one half of the shared stream. It has no end but a break, and nothing would ever mend it: the connection is
/// closed, so that the next call dials anew in the place of failing like all before it.
async fn until_broken(connection: Connection, half: impl Future<Output = ()>) {
    half.await;
    // The end of the connection breaks its streams too; closing it again would write over the reason.
    if connection.close_reason().is_none() {
        connection.close(VarInt::from(CloseCode::ProtocolError), b"the shared stream broke");
    }
}

/// Accepts streams and datagrams until the connection ends. A panic in any of its tasks ends this connection only.
async fn run(
    connection: &Connection,
    tasks: &mut JoinSet<()>,
    serving: Arc<Serving>,
    presence: Arc<dyn Presence>,
) -> ConnectionError {
    let peer = Arc::clone(&serving.peer);
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => drop(tasks.spawn(Arc::clone(&serving).stream(send, recv))),
                Err(reason) => return reason,
            },
            packet = connection.read_datagram() => match packet {
                Ok(packet) if peer.role.is_member() => presence.gossip(peer.node, packet),
                Ok(_) => debug!(peer = %peer.node, role = %peer.role, "gossip from a role that takes no part in it"),
                Err(reason) => return reason,
            },
            Some(ended) = tasks.join_next() => if let Some(panic) = ended.err().and_then(|end| end.try_into_panic().ok()) {
                let panic = defect::words(&*panic);
                error!(peer = %peer.node, panic, "a task of this connection panicked; the connection is closed");
                connection.close(VarInt::from(CloseCode::ProtocolError), b"internal error");
            },
        }
    }
}
