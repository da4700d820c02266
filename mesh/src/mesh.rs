//! The mesh as its users see it: call a peer by id, wherever its connection stands.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, TryFutureExt};
use lineside_certs::{Identity, PeerIdentity, peer_identity, server_name_of, server_name_of_any_member};
use lineside_wire::{Greeting, NodeId, decode_part, method};
use quinn::{Connection, Endpoint, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};

use crate::{
    BindError, CallFailure, CloseCode, Destination, DialError, Item, MeshConfig, Outbound, Reply, Service,
    accept,
    bytes::Rooms,
    dial::Dials,
    endpoint, greeting,
    items::Items,
    peer::{OnGreeting, Peer, Surroundings},
    table::Table,
};

/// Longest wait for peers to hear that this process ends.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Who this process is to its peers, and what it hears from them. Every method must return at once.
pub trait Presence: Send + Sync + 'static {
    /// What `hello` says, asking and answering.
    fn greeting(&self) -> Greeting;
    /// A peer and we have greeted each other. `remote` is where its packets come from.
    fn met(&self, peer: &PeerIdentity, greeting: &Greeting, remote: SocketAddr);
    /// The last connection with this peer has ended.
    fn lost(&self, node: NodeId);
    /// A gossip packet; `from` is proven by the certificate.
    fn gossip(&self, from: NodeId, packet: Bytes);
}

/// One QUIC endpoint and the connections on it. Cheap to clone.
///
/// Lives on the tokio runtime that it was bound in. Best on a current-thread runtime: all ready calls then share
/// packets, which halves the cost of each.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Arc<Identity>,
    pub(crate) around: Surroundings,
    pub(crate) table: Table,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
    client: quinn::ClientConfig,
    dials: Dials,
}

/// A peer that greeted us.
#[derive(Clone, Debug)]
pub struct Met {
    /// Proven by its certificate.
    pub identity: PeerIdentity,
    /// What it says of itself.
    pub greeting: Greeting,
    /// Where it was reached.
    pub address: SocketAddr,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo {
    /// Where the peer's packets come from.
    pub remote: SocketAddr,
    /// The round trip, as QUIC estimates it.
    pub rtt: Duration,
    /// The largest packet that the path takes, in bytes.
    pub mtu: u16,
    /// Packets that were lost.
    pub lost_packets: u64,
}

impl Mesh {
    /// Opens the endpoint and begins to accept peers, if the configuration listens.
    ///
    /// # Errors
    /// The address is taken, or the identity cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(
        config: MeshConfig,
        identity: Arc<Identity>,
        presence: Arc<dyn Presence>,
        service: Arc<dyn Service>,
    ) -> Result<Self, BindError> {
        let client = endpoint::client(&config, &identity)?;
        let endpoint = endpoint::open(&config, &identity)?;
        let listens = config.listen.is_some();
        let mesh = Self(Arc::new(Inner {
            endpoint,
            identity,
            around: Surroundings { config: Arc::new(config), presence, service, rooms: Rooms::default() },
            table: Table::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            client,
            dials: Dials::default(),
        }));
        if listens {
            mesh.0.tasks.spawn(accept::run(Arc::clone(&mesh.0)));
        }
        Ok(mesh)
    }

    /// Where the endpoint is bound. With port 0 asked for, this is the port that was given.
    ///
    /// # Panics
    /// Never: the socket is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.0.endpoint.local_addr().expect("a bound socket has an address")
    }

    /// Makes one call over the connection that exists or is dialled now.
    ///
    /// There is no deadline here but that of dialling; wrap it in the caller's. Dropping the future cancels the
    /// call at the peer.
    ///
    /// # Errors
    /// No connection, a broken one, a fault, or an answer that breaks the protocol; each says what became of the
    /// work.
    pub async fn call<P: serde::Serialize>(
        &self,
        to: Destination,
        call: Outbound<P>,
    ) -> Result<Reply, CallFailure> {
        self.peer(to).await?.call(call).await
    }

    /// Sends a notification, which is never answered, over the connection that exists or is dialled now. It is on its
    /// way when this returns, and may still be lost with the connection.
    ///
    /// # Errors
    /// No connection, or one that is broken: nothing was sent. A notification over 16 KiB is refused.
    pub async fn notify<P: serde::Serialize>(
        &self,
        to: Destination,
        method: &'static str,
        params: &P,
    ) -> Result<(), CallFailure> {
        self.peer(to).await?.notify(method, params).await
    }

    /// Makes one call whose result comes in parts, on a stream of its own. The stream of items ends with the result,
    /// or with one error.
    ///
    /// Nothing happens before it is polled, and nothing is read ahead: a reader that pauses makes the peer's service
    /// wait. Dropping it cancels the call at the peer. There is no deadline here but that of dialling. It has to be
    /// pinned, for example with [`Box::pin`].
    ///
    /// The errors are those of [`Mesh::call`]; an item out of its order is an answer that breaks the protocol.
    pub fn call_streaming<P: serde::Serialize + Send + 'static>(
        &self,
        to: Destination,
        call: Outbound<P>,
    ) -> impl Stream<Item = Result<Item, CallFailure>> + Send + use<P> {
        let mesh = self.clone();
        let items = async move { mesh.peer(to).await?.call_streaming(call).await };
        items.map_ok(Items::into_stream).try_flatten_stream()
    }

    /// The connection that exists or is dialled now.
    async fn peer(&self, to: Destination) -> Result<Arc<Peer>, CallFailure> {
        match self.0.table.find(to.node) {
            Some(peer) => Ok(peer),
            None => Inner::connect(&self.0, to.address, Some(to.node))
                .await
                .map_err(|error| CallFailure::Unreachable { node: to.node, error }),
        }
    }

    /// Connects with whoever is at an address and exchanges greetings; a connection that stands is used again.
    ///
    /// # Errors
    /// No connection, or not with the one who was expected.
    pub async fn greet(&self, address: SocketAddr, expect: Option<NodeId>) -> Result<Met, DialError> {
        let known = match expect {
            Some(node) => self.0.table.find(node),
            None => self.0.table.find_at(address),
        };
        let peer = match known.filter(|peer| peer.greeting().is_some()) {
            Some(peer) => peer,
            None => Inner::connect(&self.0, address, expect).await?,
        };
        let greeting = peer.greeting().ok_or(DialError::Closed)?.clone();
        Ok(Met { identity: PeerIdentity::clone(&peer.identity), greeting, address })
    }

    /// Sends one gossip packet: at most [`crate::GOSSIP_BYTES_MAX`] bytes, lossy, without waiting. Without a
    /// connection one is dialled in the background and the packet goes with it.
    pub fn send_gossip(&self, to: Destination, packet: Bytes) {
        if let Some(peer) = self.0.table.find(to.node) {
            return peer.send_gossip(packet);
        }
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            if let Ok(peer) = Inner::connect(&inner, to.address, Some(to.node)).await {
                peer.send_gossip(packet);
            }
        });
    }

    /// The connection with a peer, if there is one.
    #[must_use]
    pub fn connected(&self, node: NodeId) -> Option<ConnectionInfo> {
        let peer = self.0.table.find(node)?;
        let stats = peer.connection.stats();
        Some(ConnectionInfo {
            remote: peer.remote,
            rtt: peer.connection.rtt(),
            mtu: stats.path.current_mtu,
            lost_packets: stats.path.lost_packets,
        })
    }

    /// Closes every connection with a peer.
    pub fn close_peer(&self, node: NodeId, code: CloseCode) {
        for peer in self.0.table.all() {
            if peer.identity.node == node {
                peer.close(code);
            }
        }
    }

    /// Closes all connections and waits, at most a second, until the peers were told.
    pub async fn shutdown(&self) {
        self.0.closing.cancel();
        self.0.endpoint.close(VarInt::from(CloseCode::Bye), b"bye");
        let told = async {
            self.0.endpoint.wait_idle().await;
            self.0.tasks.close();
            self.0.tasks.wait().await;
        };
        if timeout(GOODBYE_MAX, told).await.is_err() {
            debug!("not every peer heard the goodbye");
        }
    }
}

impl Inner {
    /// Joins the dial that is running, or begins one. The dial goes on when its callers lose interest.
    async fn connect(
        self: &Arc<Self>,
        address: SocketAddr,
        expect: Option<NodeId>,
    ) -> Result<Arc<Peer>, DialError> {
        if self.closing.is_cancelled() {
            return Err(DialError::Closed);
        }
        let target = (address, expect);
        let dial = self.dials.join(target, Instant::now(), || {
            let inner = Arc::clone(self);
            let task = self.tasks.spawn(async move {
                let timing = inner.around.config.timing;
                let result = match timeout(timing.connect, inner.dial(address, expect)).await {
                    Ok(result) => result,
                    Err(_) => Err(DialError::Timeout { address, within: timing.connect }),
                };
                inner.dials.ended(target, result.is_err(), &timing, Instant::now());
                result
            });
            async move { task.await.unwrap_or(Err(DialError::Closed)) }.boxed().shared()
        })?;
        dial.await
    }

    /// Connects, checks who answers, and says hello.
    async fn dial(
        self: &Arc<Self>,
        address: SocketAddr,
        expect: Option<NodeId>,
    ) -> Result<Arc<Peer>, DialError> {
        let unreachable = |reason: String| DialError::Unreachable { address, reason };
        let within = self.around.config.timing.connect;
        let from_connection = |error| DialError::from_connection(&error, address, within);
        let cluster = self.identity.cluster();
        let server_name = match expect {
            Some(node) => server_name_of(node, cluster),
            None => server_name_of_any_member(cluster),
        };
        let connecting = self
            .endpoint
            .connect_with(self.client.clone(), address, &server_name)
            .map_err(|error| unreachable(error.to_string()))?;
        let connection = connecting.await.map_err(from_connection)?;
        let identity = identify(&connection).map_err(|error| DialError::NoIdentity { address, error })?;
        if let Some(expected) = expect.filter(|expected| *expected != identity.node) {
            return Err(DialError::WrongNode { address, expected, found: identity.node });
        }
        let (peer, run) = Peer::start(&self.around, connection, identity, self.on_greeting())
            .await
            .map_err(from_connection)?;
        self.supervise(&peer, run);
        // Also when the time for this dial is over while the peer says nothing: a connection that nobody has would
        // stay for as long as the peer keeps it alive.
        let unless_greeted = CloseUnlessKept(Some(Arc::clone(&peer)));
        let own = self.around.presence.greeting();
        let theirs = self.hello(&peer, &own, address).await?;
        unless_greeted.keep();
        self.greeted(&peer, &theirs);
        Ok(peer)
    }

    async fn hello(
        &self,
        peer: &Arc<Peer>,
        own: &Greeting,
        address: SocketAddr,
    ) -> Result<Greeting, DialError> {
        let silent = |reason: String| DialError::NoGreeting { address, reason };
        let reply = match peer.call(Outbound::new(method::HELLO, own)).await {
            Ok(reply) => reply,
            Err(failure) => {
                // The stream breaks a moment before the connection says why.
                let reason = timeout(Duration::from_millis(50), peer.connection.closed()).await;
                let within = self.around.config.timing.connect;
                return Err(match (failure, reason) {
                    (CallFailure::Fault { fault, .. }, _) => silent(fault.message),
                    (_, Ok(error)) => DialError::from_connection(&error, address, within),
                    (failure, Err(_)) => silent(failure.to_string()),
                });
            }
        };
        let theirs: Greeting = decode_part(&reply.result).map_err(|fault| silent(fault.message))?;
        if theirs.cluster != own.cluster {
            return Err(DialError::OtherCluster { address, found: theirs.cluster, own: own.cluster });
        }
        greeting::check(theirs, own, &peer.identity).map_err(|fault| silent(fault.message))
    }

    /// What happens when a peer greets us.
    pub(crate) fn on_greeting(self: &Arc<Self>) -> OnGreeting {
        let inner = Arc::downgrade(self);
        Box::new(move |peer, greeting| {
            if let Some(inner) = inner.upgrade() {
                inner.greeted(&peer, &greeting);
            }
        })
    }

    /// Takes in the first greeting on a connection. Later ones are answered and change nothing.
    fn greeted(&self, peer: &Arc<Peer>, greeting: &Greeting) {
        if !peer.set_greeting(greeting.clone()) {
            return;
        }
        self.around.presence.met(&peer.identity, greeting, peer.remote);
        self.table.add(peer);
        if !peer.is_open() {
            // It ended before it was in the table: whoever cleans up behind it may have found nothing to remove.
            self.lost(peer);
        }
    }

    /// Takes a connection that ended out of the table. Said again, it does nothing.
    fn lost(&self, peer: &Arc<Peer>) {
        if self.table.remove(peer) {
            let reason = peer.connection.close_reason().map(|reason| reason.to_string()).unwrap_or_default();
            let (node, remote) = (peer.identity.node, peer.remote);
            match peer.is_member() {
                true => info!(%node, %remote, reason, "peer disconnected"),
                // Programs and commands come and go as they please.
                false => debug!(%node, %remote, reason, "client disconnected"),
            }
            self.around.presence.lost(peer.identity.node);
        }
    }

    /// Runs a connection in a task of its own, and cleans up behind it.
    pub(crate) fn supervise(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        run: impl Future<Output = quinn::ConnectionError> + Send + 'static,
    ) {
        let (inner, peer) = (Arc::clone(self), Arc::clone(peer));
        self.tasks.spawn(async move {
            run.await;
            inner.lost(&peer);
        });
    }
}

/// Closes a connection when it is dropped, unless it was kept.
struct CloseUnlessKept(Option<Arc<Peer>>);

impl CloseUnlessKept {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseUnlessKept {
    fn drop(&mut self) {
        if let Some(peer) = &self.0 {
            peer.close(CloseCode::Bye);
        }
    }
}

/// Who is at the other end of a connection.
pub(crate) fn identify(connection: &Connection) -> Result<PeerIdentity, lineside_certs::PeerIdentityError> {
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    peer_identity(chain.as_deref().map_or(&[], Vec::as_slice))
}
