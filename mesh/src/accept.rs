//! The accepting side: handshakes in, peers out. Nothing that one stranger does ends the loop.

use std::{
    collections::HashMap,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::FutureExt as _;
use lineside_certs::{PeerIdentity, PeerIdentityError, Refusal};
use lineside_wire::NodeId;
use quinn::{Connection, ConnectionError, Incoming, VarInt, crypto::rustls::HandshakeData};
use tokio::{sync::Notify, time::timeout};
use tracing::{debug, error, warn};

use crate::{
    CloseCode, JOIN_ALPN,
    config::{CONNECTIONS_MAX, HANDSHAKES_BEFORE_RETRY},
    connect::identify,
    defect,
    enrol::Joins,
    error::{close_of, tls_alert},
    handshakes::{Handshake, Handshakes},
    mesh::Inner,
    peer::Peer,
    table::connections_max,
};

/// Accepts connections until the endpoint closes, and goes on after a panic: a member that nobody can reach any more
/// looks as if it were well.
pub(crate) async fn run(inner: Arc<Inner>) {
    while let Err(panic) = AssertUnwindSafe(accept(Arc::clone(&inner))).catch_unwind().await {
        let panic = defect::words(&*panic);
        error!(panic, "accepting a connection panicked; that one is lost");
    }
}

/// Accepts connections until the endpoint closes. Each runs in a task of its own.
async fn accept(inner: Arc<Inner>) {
    let (handshakes, strangers) = (Handshakes::default(), Arc::new(Strangers::default()));
    while let Some(incoming) = inner.endpoint.accept().await {
        let (running, remote) = (handshakes.running(), incoming.remote_address());
        let proved = incoming.remote_address_validated().then(|| remote.ip());
        if !handshakes.has_room(proved) || CONNECTIONS_MAX <= inner.endpoint.open_connections() {
            if let Some(times) = strangers.crowded.count() {
                let open = inner.endpoint.open_connections();
                warn!(%remote, running, open, times, "connection refused: too many at once");
            }
            incoming.refuse();
            continue;
        }
        if HANDSHAKES_BEFORE_RETRY <= running && incoming.may_retry() && !incoming.remote_address_validated()
        {
            // An address that was not forged comes back with the token.
            drop(incoming.retry());
            continue;
        }
        let task = handshake(Arc::clone(&inner), incoming, handshakes.begin(proved), Arc::clone(&strangers));
        inner.tasks.spawn(task);
    }
}

/// Completes one handshake and hands the peer to its supervisor.
async fn handshake(inner: Arc<Inner>, incoming: Incoming, running: Handshake, strangers: Arc<Strangers>) {
    let (remote, progress) = (incoming.remote_address(), inner.around.config.timing.progress);
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => return debug!(%remote, %error, "handshake failed"),
    };
    let connection = match timeout(progress, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return strangers.failed(remote, &error),
        Err(_) => return debug!(%remote, "handshake took too long"),
    };
    drop(running);
    if protocol(&connection).as_deref() == Some(JOIN_ALPN) {
        return Box::pin(strangers.joins.answer(&inner, connection)).await;
    }
    let Some(identity) = strangers.judge(&inner, &connection) else { return };
    let Some(stranger) = strangers.admit(&identity) else {
        debug!(%remote, node = %identity.node, "connection refused: too many of one peer without a hello");
        return connection
            .close(VarInt::from(CloseCode::TooManyConnections), b"say hello on the others first");
    };
    // Whoever has a certificate and says nothing, or lets us open no stream, does not keep a connection.
    let greeted = timeout(progress, hello(&inner, connection.clone(), identity));
    let is_up = tokio::select! {
        up = greeted => up.unwrap_or(false),
        () = inner.closing.cancelled() => return,
    };
    drop(stranger);
    if !is_up && connection.close_reason().is_none() {
        debug!(%remote, "no hello in time");
        connection.close(VarInt::from(CloseCode::NoHello), b"NoHello");
    }
}

/// What the two sides agreed to speak.
fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Serves the connection and waits for the peer's hello; false when it ended before.
async fn hello(inner: &Arc<Inner>, connection: Connection, identity: PeerIdentity) -> bool {
    let greeted = Arc::new(Notify::new());
    let (tell, on_greeting) = (Arc::clone(&greeted), inner.on_greeting());
    let on_greeting = Box::new(move |peer, greeting| {
        on_greeting(peer, greeting);
        tell.notify_one();
    });
    let own_not_after = inner.around.credentials.identity().not_after();
    let started = Peer::start(&inner.around, connection, identity, own_not_after, on_greeting).await;
    let Ok((peer, run)) = started else { return false };
    inner.supervise(&peer, run);
    tokio::select! {
        () = greeted.notified() => true,
        _ = peer.connection.closed() => false,
    }
}

/// Peers that are not up yet, or that could not come in. Anybody can knock: what is kept and told of them is bounded.
#[derive(Default)]
struct Strangers {
    /// Connections of each peer that has proved who it is and has not said hello. The lock is held for a look-up.
    waiting: Mutex<HashMap<NodeId, usize>>,
    /// Handshakes that one side's certificate ended, and connections for which there was no room.
    refused: Seldom,
    crowded: Seldom,
    /// Those that have no certificate yet and come for one.
    joins: Joins,
}

/// Says when to tell of something that may happen at any rate: at every power of two.
#[derive(Default)]
struct Seldom(AtomicU64);

impl Seldom {
    /// Counts one; gives the count when it should be told.
    fn count(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        count.is_power_of_two().then_some(count)
    }
}

impl Strangers {
    /// Who is at the other end, if it may stay. Nothing that it sent has been read.
    fn judge(&self, inner: &Inner, connection: &Connection) -> Option<PeerIdentity> {
        let remote = connection.remote_address();
        let refusal = match identify(connection) {
            Ok(identity) => match inner.judge(&identity, connection).refusal() {
                None => return Some(identity),
                Some(refusal) => refusal,
            },
            Err(PeerIdentityError::NoCertificate) => Refusal::Missing,
            Err(
                PeerIdentityError::Unreadable(_)
                | PeerIdentityError::UriCount(_)
                | PeerIdentityError::NotAMember(_),
            ) => Refusal::NotAMember,
        };
        if let Some(times) = self.refused.count() {
            warn!(%remote, reason = %refusal, times, "connection refused");
        }
        let (code, reason) = close_of(refusal);
        connection.close(VarInt::from(code), reason.as_bytes());
        None
    }

    /// Counts a connection until the guard is dropped; `None` when its peer has too many that say nothing.
    fn admit(self: &Arc<Self>, identity: &PeerIdentity) -> Option<Stranger> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(identity.node).or_default();
        if connections_max(identity.role) <= *count {
            return None;
        }
        *count += 1;
        Some(Stranger { node: identity.node, of: Arc::clone(self) })
    }

    /// Tells of a handshake that failed: a refused certificate concerns a person, a line that broke does not.
    fn failed(&self, remote: SocketAddr, error: &ConnectionError) {
        let told =
            tls_alert(error).and_then(|alert| Some((Refusal::from_alert(alert), self.refused.count()?)));
        match told {
            Some((reason, times)) => {
                warn!(%remote, %reason, times, "connection refused: the handshake failed");
            }
            None => debug!(%remote, %error, "the handshake failed"),
        }
    }
}

struct Stranger {
    node: NodeId,
    of: Arc<Strangers>,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut waiting = self.of.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.node);
            }
        }
    }
}
