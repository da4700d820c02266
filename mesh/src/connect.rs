//! Making connections: from a dial to the first greeting, and cleaning up behind them.

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use lineside_certs::{PeerIdentity, Verdict, peer_identity, server_name_of, server_name_of_any_member};
use lineside_wire::{Greeting, NodeId, decode_part, method};
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info};

use crate::{
    CallFailure, CloseCode, DialError, Outbound, Refuser, defect,
    error::close_of,
    greeting,
    mesh::Inner,
    peer::{OnGreeting, Peer},
};

impl Inner {
    /// Joins the dial that is running, or begins one. The dial goes on when its callers lose interest.
    pub(crate) async fn connect(
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
        let dialling = self.dialling.load_full();
        let cluster = dialling.own.cluster();
        let server_name = match expect {
            Some(node) => server_name_of(node, cluster),
            None => server_name_of_any_member(cluster),
        };
        let connecting = self
            .endpoint
            .connect_with(dialling.config.clone(), address, &server_name)
            .map_err(|error| unreachable(error.to_string()))?;
        let connection = connecting.await.map_err(from_connection)?;
        let identity = identify(&connection).map_err(|error| DialError::NoIdentity { address, error })?;
        if let Some(expected) = expect.filter(|expected| *expected != identity.node) {
            return Err(DialError::WrongNode { address, expected, found: identity.node });
        }
        if let Some(refusal) = self.judge(&identity, &connection).refusal() {
            let (code, reason) = close_of(refusal);
            connection.close(code.into(), reason.as_bytes());
            return Err(DialError::Refused { address, by: Refuser::Us, refusal });
        }
        let own_not_after = dialling.own.not_after();
        let (peer, run) = Peer::start(&self.around, connection, identity, own_not_after, self.on_greeting())
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

    /// Whether a peer may stay, by what is trusted now. Its handshake may have begun before the last change.
    pub(crate) fn judge(&self, peer: &PeerIdentity, connection: &Connection) -> Verdict {
        self.around.credentials.identity().trust().judge_shown(peer, &shown(connection))
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

    /// Runs a connection in a task of its own, and cleans up behind it, also after a panic there: a connection that nobody
    /// runs would look alive for ever.
    pub(crate) fn supervise(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        run: impl Future<Output = quinn::ConnectionError> + Send + 'static,
    ) {
        let (inner, peer) = (Arc::clone(self), Arc::clone(peer));
        self.tasks.spawn(async move {
            if let Err(panic) = AssertUnwindSafe(run).catch_unwind().await {
                let panic = defect::words(&*panic);
                error!(peer = %peer.identity.node, panic, "a connection panicked; it is closed");
                peer.close(CloseCode::ProtocolError);
            }
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
    peer_identity(&shown(connection))
}

/// The certificates that the other end showed, its own first; none of one that has none.
pub(crate) fn shown(connection: &Connection) -> Vec<CertificateDer<'static>> {
    let chain = connection.peer_identity().and_then(|any| any.downcast().ok());
    chain.map_or_else(Vec::new, |chain| *chain)
}
