//! One shard's loop: takes connections, serves them, and at the end lets them finish.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::StatusCode;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lineside_wire::FaultCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Cluster,
    door::Door,
    errors::Refusal,
    limit::FORGET_EVERY,
    line::{HEAD_BYTES_MAX, Patience, WatchedStream, plain_response},
    shared::Connection,
};

/// Most headers of a request: twice what browsers send.
const HEADERS_MAX: usize = 64;

/// The buffer of a connection: a whole head, and pieces of a body. It bounds what an idle attacker can hold.
const BUFFER_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// Connections beyond the limit that are told so, at one time; further ones are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// How long such a one gets to read why.
const TURNED_AWAY_FOR: Duration = Duration::from_secs(1);

/// The pause after the system had no socket to give: long enough for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything that wakes a shard.
enum Event {
    /// A client connected, or the system says why none can.
    Accepted(io::Result<(TcpStream, SocketAddr)>),
    /// A connection is over.
    Ended(Result<(), tokio::task::JoinError>),
    /// Clients that were quiet can be forgotten.
    Forget,
    /// The order to leave came, and the notice of it is over.
    Leave,
}

/// Serves until the door's order to leave and for the notice after it, then until every request has ended or
/// `drain_max` has passed.
pub(crate) async fn serve<C: Cluster>(listener: TcpListener, door: Arc<Door<C>>, forgets: bool) {
    let mut connections = JoinSet::new();
    let mut turned_away = JoinSet::new();
    let mut forget = tokio::time::interval_at(Instant::now() + FORGET_EVERY, FORGET_EVERY);
    let closing = CancellationToken::new();
    let mut left = std::pin::pin!(leave(&door));
    loop {
        let event = tokio::select! {
            accepted = listener.accept() => Event::Accepted(accepted),
            Some(ended) = connections.join_next() => Event::Ended(ended),
            Some(ended) = turned_away.join_next() => Event::Ended(ended),
            _ = forget.tick(), if forgets => Event::Forget,
            () = &mut left => Event::Leave,
        };
        match event {
            Event::Accepted(Ok((stream, peer))) => match door.shared.connect(peer.ip()) {
                Ok(place) => {
                    let serving = connection(stream, peer, Arc::clone(&door), closing.clone(), place);
                    connections.spawn(serving);
                }
                Err(why) if turned_away.len() < TURNED_AWAY_MAX => {
                    drop(turned_away.spawn(turn_away(stream, why)));
                }
                Err(_) => {}
            },
            // The client was gone before it was its turn: nobody is short of anything.
            Event::Accepted(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Event::Accepted(Err(error)) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Event::Ended(ended) => report(ended),
            Event::Forget => door.shared.limiter.iter().for_each(crate::limit::Limiter::forget_idle),
            Event::Leave => break,
        }
    }
    drop(listener);
    closing.cancel();
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(door.shared.config.drain_max, drained).await.is_err() {
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

/// Serves one connection to its end.
async fn connection<C: Cluster>(
    stream: TcpStream,
    peer: SocketAddr,
    door: Arc<Door<C>>,
    closing: CancellationToken,
    _place: Connection,
) {
    // Small answers must not wait for more to come.
    drop(stream.set_nodelay(true));
    let stream = WatchedStream::new(stream, Patience::from(&door.shared.config));
    let line = stream.line();
    let service = service_fn(|request| {
        let (door, line) = (&door, &line);
        async move { Ok::<_, Infallible>(door.answer(line, peer.ip(), request).await) }
    });
    // Every wait is watched by `WatchedStream`, so hyper's own time for a head is off.
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            // hyper lets go of idle connections, but not of those that have never been used.
            tokio::select! {
                ended = serving => ended,
                () = line.stays_silent() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%peer, %error, "a connection ended early");
    }
}

/// Tells a client that there are too many.
async fn turn_away(mut stream: TcpStream, why: &'static str) {
    let text = format!("{why}; try again shortly");
    let fault = lineside_wire::Fault::new(FaultCode::Busy, text).retry_after_ms(1_000);
    let refusal = Refusal::from(fault);
    debug_assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
    let told = async {
        stream.write_all(&plain_response(&refusal)).await?;
        stream.shutdown().await?;
        // Closing while bytes wait to be read would take the answer away from the client.
        let mut waste = [0; 1024];
        while 0 < stream.read(&mut waste).await? {}
        io::Result::Ok(())
    };
    drop(tokio::time::timeout(TURNED_AWAY_FOR, told).await);
}
