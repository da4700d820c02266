//! One shard's loop: takes connections, serves them, and at the end lets them finish.

mod connection;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use lineside_wire::{Fault, FaultCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::connection::{Serves, Visitor};
use crate::{Cluster, door::Door, errors::Refusal, limit::FORGET_EVERY, line::plain_response};

/// Connections beyond the limit that are told so, at one time; further ones are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// How long such a one gets to read why.
const TURNED_AWAY_FOR: Duration = Duration::from_secs(1);

/// The pause after the system had no socket to give: long enough for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything that wakes a shard.
enum Event {
    /// A client connected, or the system says why none can.
    Accepted(io::Result<(TcpStream, SocketAddr)>, Serves),
    /// A connection is over.
    Ended(Result<(), tokio::task::JoinError>),
    /// Clients that were quiet can be forgotten.
    Forget,
    /// The order to leave came, and the notice of it is over.
    Leave,
}

/// The sockets of a shard.
pub(crate) struct Listeners {
    /// Where everything is served.
    pub(crate) http: TcpListener,
    /// Where only gRPC is.
    pub(crate) grpc: Option<TcpListener>,
    /// The port of the first.
    pub(crate) http_port: u16,
}

/// Serves until the door's order to leave and for the notice after it, then until every request has ended or
/// `drain_max` has passed.
pub(crate) async fn serve<C: Cluster>(listeners: Listeners, door: Arc<Door<C>>, forgets: bool) {
    let mut connections = JoinSet::new();
    let mut turned_away = JoinSet::new();
    let mut forget = tokio::time::interval_at(Instant::now() + FORGET_EVERY, FORGET_EVERY);
    let closing = CancellationToken::new();
    let mut left = std::pin::pin!(leave(&door));
    let only_grpc = Serves::Grpc { http: listeners.http_port };
    loop {
        let event = tokio::select! {
            accepted = listeners.http.accept() => Event::Accepted(accepted, Serves::All),
            accepted = accept(listeners.grpc.as_ref()) => Event::Accepted(accepted, only_grpc),
            Some(ended) = connections.join_next() => Event::Ended(ended),
            Some(ended) = turned_away.join_next() => Event::Ended(ended),
            _ = forget.tick(), if forgets => Event::Forget,
            () = &mut left => Event::Leave,
        };
        match event {
            Event::Accepted(Ok((stream, peer)), serves) => match door.shared.connect(peer.ip()) {
                Ok(place) => {
                    let (door, closing) = (Arc::clone(&door), closing.clone());
                    let visitor = Visitor { stream, peer, serves, door, closing, place };
                    connections.spawn(connection::serve(visitor));
                }
                Err(why) if turned_away.len() < TURNED_AWAY_MAX => {
                    turned_away.spawn(async move { turn_away(stream, &too_many(why)).await });
                }
                Err(_) => {}
            },
            // The client was gone before it was its turn: nobody is short of anything.
            Event::Accepted(Err(error), _) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Event::Accepted(Err(error), _) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Event::Ended(ended) => report(ended),
            Event::Forget => door.shared.forget_idle(),
            Event::Leave => break,
        }
    }
    drop(listeners);
    closing.cancel();
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
        // Connections that left HTTP behind have the same time.
        door.sockets.close();
        door.sockets.wait().await;
    };
    let drain_max = door.shared.settings().drain_max;
    if tokio::time::timeout(drain_max, drained).await.is_err() {
        tracing::warn!("requests were still running at the end of drain_max and were cut off");
    }
}

/// Waits for the order to leave, tells it, and gives those who look a moment to see it.
async fn leave<C>(door: &Door<C>) {
    door.leaving.cancelled().await;
    door.shared.leave();
    tokio::time::sleep(door.shared.config.notice).await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; the others go on");
    }
}

/// The next connection; never one where nothing listens.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn too_many(why: &'static str) -> Refusal {
    let text = format!("{why}; try again shortly");
    Fault::new(FaultCode::Busy, text).retry_after_ms(1_000).into()
}

/// Tells a client why it is not served, before it has said what it wants.
async fn turn_away(mut stream: TcpStream, refusal: &Refusal) {
    let told = async {
        stream.write_all(&plain_response(refusal)).await?;
        stream.shutdown().await?;
        // Closing while bytes wait to be read would take the answer away from the client.
        let mut waste = [0; 1024];
        while 0 < stream.read(&mut waste).await? {}
        io::Result::Ok(())
    };
    drop(tokio::time::timeout(TURNED_AWAY_FOR, told).await);
}
