//! The accepting side: handshakes in, peers out. Nothing that one stranger does ends the loop.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use quinn::{Incoming, VarInt};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::{
    CloseCode,
    config::{CONNECTIONS_MAX, HANDSHAKES_BEFORE_RETRY, HANDSHAKES_MAX},
    mesh::{Inner, identify},
    peer::Peer,
};

/// Handshakes that run now; counted by guards, so that a panic cannot leak one.
#[derive(Clone, Default)]
struct Handshakes(Arc<AtomicUsize>);

struct Handshake(Arc<AtomicUsize>);

impl Handshakes {
    fn running(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self) -> Handshake {
        self.0.fetch_add(1, Ordering::Relaxed);
        Handshake(Arc::clone(&self.0))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts connections until the endpoint closes. Each runs in a task of its own.
pub(crate) async fn run(inner: Arc<Inner>) {
    let handshakes = Handshakes::default();
    while let Some(incoming) = inner.endpoint.accept().await {
        let (running, remote) = (handshakes.running(), incoming.remote_address());
        if HANDSHAKES_MAX <= running || CONNECTIONS_MAX <= inner.endpoint.open_connections() {
            warn!(%remote, running, "connection refused: too many at once");
            incoming.refuse();
            continue;
        }
        if HANDSHAKES_BEFORE_RETRY <= running && incoming.may_retry() && !incoming.remote_address_validated()
        {
            // An address that was not forged comes back with the token.
            drop(incoming.retry());
            continue;
        }
        let task = handshake(Arc::clone(&inner), incoming, handshakes.begin());
        inner.tasks.spawn(task);
    }
}

/// Completes one handshake and hands the peer to its supervisor.
async fn handshake(inner: Arc<Inner>, incoming: Incoming, running: Handshake) {
    let (remote, progress) = (incoming.remote_address(), inner.around.config.timing.progress);
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => return debug!(%remote, %error, "handshake failed"),
    };
    let connection = match timeout(progress, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return warn!(%remote, %error, "connection refused: the handshake failed"),
        Err(_) => return debug!(%remote, "handshake took too long"),
    };
    drop(running);
    let identity = match identify(&connection) {
        Ok(identity) if identity.cluster == inner.identity.cluster() => identity,
        Ok(identity) => {
            warn!(%remote, cluster = %identity.cluster, "connection refused: another cluster");
            return connection.close(VarInt::from(CloseCode::NotAMember), b"another cluster");
        }
        Err(error) => {
            warn!(%remote, %error, "connection refused: the certificate names no member");
            return connection.close(VarInt::from(CloseCode::NotAMember), b"the certificate names no member");
        }
    };
    let Ok((peer, run)) = Peer::start(&inner.around, connection, identity, inner.on_greeting()).await else {
        return;
    };
    inner.supervise(&peer, run);
    // Whoever has a certificate and says nothing does not keep a connection.
    tokio::select! {
        () = tokio::time::sleep(progress) => {}
        () = inner.closing.cancelled() => return,
    }
    if peer.greeting().is_none() && peer.is_open() {
        debug!(%remote, "no hello in time");
        peer.close(CloseCode::NoHello);
    }
}
