//! The mesh as its users see it: call a peer by id, wherever its connection stands.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{Stream, TryFutureExt};
use lineside_certs::{Credentials, PeerIdentity};
use lineside_wire::{Greeting, NodeId};
use quinn::{Endpoint, VarInt};
use tokio::{sync::watch, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::debug;

use crate::{
    BindError, CallFailure, CloseCode, Destination, DialError, Enrolment, Item, MeshConfig, Outbound, Reply,
    Service, accept,
    bytes::Rooms,
    dial::Dials,
    endpoint,
    items::Items,
    peer::{Peer, Surroundings},
    settings::{self, Dialling},
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
    pub(crate) around: Surroundings,
    pub(crate) table: Table,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
    pub(crate) dials: Dials,
    /// With what the next connection is dialled.
    pub(crate) dialling: ArcSwap<Dialling>,
    /// Who answers joiners.
    pub(crate) enrolment: watch::Sender<Option<Arc<dyn Enrolment>>>,
    /// Held while settings are made, so that the last ones made are the newest.
    pub(crate) making_settings: Mutex<()>,
    /// Ends what only looks on when nobody holds the mesh any more.
    _dropped: DropGuard,
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

/// Signs of life of a peer: numbers that change when it gives one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Packets that came from it: it lives, and what it sends arrives.
    pub packets: u64,
    /// Another number once it has acknowledged something that it had not before: what is sent to it arrives, too. A peer
    /// that hears nothing still sends, for as long as QUIC waits. One time in a thousand or less, it stays as it was.
    pub acknowledged: u64,
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
        credentials: impl Into<Credentials>,
        presence: Arc<dyn Presence>,
        service: Arc<dyn Service>,
    ) -> Result<Self, BindError> {
        let credentials = credentials.into();
        let changes = credentials.changes();
        let dialling = Dialling::new(&config, &credentials)?;
        let endpoint = endpoint::open(&config, &credentials)?;
        let (config, rooms, closing) = (Arc::new(config), Rooms::default(), CancellationToken::new());
        let listens = config.listen.is_some();
        let mesh = Self(Arc::new(Inner {
            endpoint,
            around: Surroundings { config, credentials, presence, service, rooms },
            table: Table::default(),
            tasks: TaskTracker::new(),
            dials: Dials::default(),
            dialling: ArcSwap::from_pointee(dialling),
            enrolment: watch::Sender::new(None),
            making_settings: Mutex::new(()),
            _dropped: closing.clone().drop_guard(),
            closing,
        }));
        mesh.0.tasks.spawn(settings::follow(Arc::downgrade(&mesh.0), changes, mesh.0.closing.clone()));
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
        if let Some(peer) = self.0.table.find_for(to) {
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
        let peer = self.0.table.find_any(node)?;
        let stats = peer.connection.stats();
        Some(ConnectionInfo {
            remote: peer.remote,
            rtt: peer.connection.rtt(),
            mtu: stats.path.current_mtu,
            lost_packets: stats.path.lost_packets,
        })
    }

    /// What has come from a peer so far, on all connections with it; `None` while there is none. A call that began while
    /// there was none is not sent before there is one.
    #[must_use]
    pub fn signs(&self, node: NodeId) -> Option<Signs> {
        self.0.table.signs(node)
    }

    /// The longest that a live peer is quiet on a connection with nothing to do, beside the time of one round trip.
    #[must_use]
    pub fn quiet_max(&self) -> Duration {
        self.0.around.config.timing.keep_alive
    }

    /// Lets strangers join from now on, or no longer. On a mesh that does not listen this does nothing.
    pub fn set_enrolment(&self, enrolment: Option<Arc<dyn Enrolment>>) {
        self.0.enrolment.send_replace(enrolment);
        self.0.make_settings();
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
        // Who answers joiners may hold this mesh.
        self.0.enrolment.send_replace(None);
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
