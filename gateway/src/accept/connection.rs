//! One connection, from its first bytes to its end.
//!
//! ```text
//!  first bytes    0x16 ─► handshake ─ ALPN ─┬─ h2 ───────► HTTP/2
//!                 "PRI" ────────────────────┘
//!                 anything else ─────────────── http/1.1 ─► HTTP/1.1
//! ```

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

use super::turn_away;
use crate::{
    Cluster,
    body::OutBody,
    door::Door,
    errors::Refusal,
    gate::Origin,
    grpc,
    head::request_id,
    line::{
        HEAD_BYTES_MAX, Line, Patience, Protocol, SILENT_AT_CLOSE, Socket, WatchedStream,
        streams::{Sliced, Streams},
    },
    shared::Connection,
    tls,
};

/// Most headers of a request: twice what browsers send.
const HEADERS_MAX: usize = 64;

/// The buffer of a connection: a whole head, and pieces of a body. It bounds what an idle attacker can hold.
const BUFFER_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// The pause before a second look at a connection whose first bytes say too little: `P` begins `POST` and HTTP/2's
/// preface. Clients send either at once, so hardly anybody ever waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Requests that run side by side on one connection. More wait at the client, which knows it.
const STREAMS_MAX: u32 = 128;

/// What a client may send on one stream before it is read, in bytes: a tensor of 600 KB comes in one go.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same for all streams of a connection together: two such tensors. It is what a connection can make the door hold
/// that nobody has read yet, beside what counts as bodies.
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Longest frame that is taken, in bytes: four times the least, and so a quarter of the frames of a tensor.
const FRAME_BYTES_MAX: u32 = 64 << 10;

/// What one stream holds of its answer beside the answer itself, in bytes: a few slices, so that writing never waits
/// for the next one.
const SEND_BYTES_MAX: usize = 256 << 10;

/// Streams that were reset before the door has even seen them. Above it the connection ends (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// Streams that the door itself resets for errors of the client. Above it the connection ends.
const ERRORS_MAX: usize = 128;

/// How often an HTTP/2 client must show that it is there. A machine that lost its cable is noticed after this and
/// [`PING_MAX`], whether or not a request runs.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long it may take for that.
const PING_MAX: Duration = Duration::from_secs(10);

/// How long a client has to take leave after it was told that the connection ends and nothing of its runs.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// What a port serves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Serves {
    /// Everything.
    All,
    /// Only gRPC; everything is at this port.
    Grpc {
        /// The port of `listen`.
        http: u16,
    },
}

/// A client that has just connected.
pub(super) struct Visitor<C> {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) serves: Serves,
    pub(super) door: Arc<Door<C>>,
    /// The order to close, after the notice.
    pub(super) closing: CancellationToken,
    pub(super) place: Connection,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Tls,
    Http2,
    Http1,
}

impl Opening {
    /// What these bytes begin; `None` when they are too few to say.
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [] | [b'P'] | [b'P', b'R'] => None,
            // The type of a record that holds a handshake.
            [0x16, ..] => Some(Self::Tls),
            [b'P', b'R', b'I', ..] => Some(Self::Http2),
            _ => Some(Self::Http1),
        }
    }
}

/// Looks at the first bytes, and leaves them where they are. `None` when none come in time.
async fn opening(stream: &TcpStream, patience: &Patience) -> Option<Opening> {
    let mut first = [0; 3];
    let mut look_until = Instant::now() + patience.first_byte;
    let mut got = 0;
    loop {
        let looked = tokio::time::timeout_at(look_until, stream.peek(&mut first)).await;
        let seen = looked.ok()?.ok().filter(|seen| 0 < *seen)?;
        if let Some(opening) = Opening::of(&first[..seen]) {
            return Some(opening);
        }
        if got == 0 {
            look_until = Instant::now() + patience.head;
        }
        got = seen;
        if look_until <= Instant::now() {
            return None;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Serves one connection to its end.
pub(super) async fn serve<C: Cluster>(visitor: Visitor<C>) {
    // Small answers must not wait for more to come.
    drop(visitor.stream.set_nodelay(true));
    let config = &visitor.door.shared.config;
    let patience = Patience::from(config);
    let gives_up = async {
        visitor.closing.cancelled().await;
        tokio::time::sleep(SILENT_AT_CLOSE).await;
    };
    let opening = tokio::select! {
        opening = opening(&visitor.stream, &patience) => opening,
        () = gives_up => None,
    };
    let address = visitor.peer.ip();
    let plain = Origin { address, certificate: None };
    match (opening, &config.tls) {
        (None, _) => {}
        (Some(Opening::Tls), Some(_)) => Box::pin(encrypted(visitor, patience)).await,
        (Some(Opening::Tls), None) => {
            tracing::debug!(%address, "a client spoke TLS, and there is no HTTPS here");
        }
        (Some(_), _) if config.tls_only => {
            let text = "this gateway takes only HTTPS: write https:// in the place of http://";
            turn_away(visitor.stream, &Refusal::bad_request(text)).await;
        }
        (Some(Opening::Http1), _) => {
            let (conversation, stream) = Conversation::of(visitor, patience, plain);
            conversation.http1(Socket::Plain(stream)).await;
        }
        (Some(Opening::Http2), _) => {
            let (conversation, stream) = Conversation::of(visitor, patience, plain);
            Box::pin(conversation.http2(Socket::Plain(stream))).await;
        }
    }
}

async fn encrypted<C: Cluster>(visitor: Visitor<C>, patience: Patience) {
    let Some(tls) = &visitor.door.shared.config.tls else { return };
    let tls = Arc::clone(tls);
    let address = visitor.peer.ip();
    let origin = Origin { address, certificate: None };
    let (mut conversation, stream) = Conversation::of(visitor, patience, origin);
    let encrypted = match tls.accept(stream).await {
        Ok(encrypted) => encrypted,
        Err(error) => {
            conversation.door.shared.metrics.handshakes_failed.inc();
            return tracing::debug!(%address, %error, "a TLS handshake failed");
        }
    };
    conversation.origin.certificate = encrypted.shown.as_ref().map(|shown| Arc::clone(&shown.identity));
    let is_h2 = encrypted.stream.get_ref().1.alpn_protocol() == Some(tls::H2);
    let socket = Socket::Tls(Box::new(encrypted));
    match is_h2 {
        true => conversation.http2(socket).await,
        false => conversation.http1(socket).await,
    }
}

/// A connection whose protocol is known.
struct Conversation<C> {
    door: Arc<Door<C>>,
    serves: Serves,
    origin: Origin,
    patience: Patience,
    closing: CancellationToken,
    place: Connection,
}

impl<C: Cluster> Conversation<C> {
    fn of(visitor: Visitor<C>, patience: Patience, origin: Origin) -> (Self, TcpStream) {
        let Visitor { stream, serves, door, closing, place, .. } = visitor;
        (Self { door, serves, origin, patience, closing, place }, stream)
    }

    async fn http1(self, socket: Socket) {
        let stream = WatchedStream::new(socket, Protocol::Http1, self.patience, self.place);
        let line = stream.line();
        let service = service_fn(|request| {
            let (door, line, origin) = (&self.door, &line, &self.origin);
            async move {
                let response = answer(door, self.serves, line, origin, request).await;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    line.upgraded();
                }
                Ok::<_, Infallible>(response.map(|body| line.outgoing(body)))
            }
        });
        // Every wait is watched by `WatchedStream`, so hyper's own time for a head is off.
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut serving = std::pin::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = self.closing.cancelled() => {
                serving.as_mut().graceful_shutdown();
                // hyper lets go of idle connections, but not of those that have never been used.
                tokio::select! {
                    ended = serving => ended,
                    () = line.stays_silent() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::trace!(peer = %self.origin.address, %error, "a connection ended early");
        }
    }

    async fn http2(self, socket: Socket) {
        let Self { door, serves, origin, patience, closing, place } = self;
        let stream = WatchedStream::new(socket, Protocol::Http2, patience, place);
        let (line, streams, address) = (stream.line(), Streams::new(patience.write), origin.address);
        let common = Arc::new((door, line, origin));
        let service = service_fn(move |request| {
            let common = Arc::clone(&common);
            async move {
                let (door, line, origin) = &*common;
                // On the heap: hyper moves this around before it runs it.
                let response = Box::pin(answer(door, serves, line, origin, request)).await;
                Ok::<_, Infallible>(response.map(Sliced::new))
            }
        });
        let serving = http2_settings(streams.clone()).serve_connection(TokioIo::new(stream), service);
        let mut serving = std::pin::pin!(serving);
        let ended = tokio::select! {
            ended = serving.as_mut() => Some(ended),
            () = streams.idle(patience.keep_alive) => None,
            () = closing.cancelled() => None,
            () = streams.cut() => return tracing::debug!(%address, "a client gave up too much, or read too little"),
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                // What runs is finished; then a client that does not take leave is left.
                serving.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = serving => ended,
                    () = streams.idle(GOODBYE_MAX) => return,
                    () = streams.cut() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::trace!(peer = %address, %error, "a connection ended early");
        }
        streams.ended().await;
    }
}

fn http2_settings(streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_MAX);
    builder
}

async fn answer<C: Cluster>(
    door: &Arc<Door<C>>,
    serves: Serves,
    line: &Line,
    origin: &Origin,
    request: Request<Incoming>,
) -> Response<OutBody> {
    match serves {
        Serves::Grpc { http } if !grpc::is_grpc(request.headers()) => elsewhere(line, http, request),
        Serves::All | Serves::Grpc { .. } => door.answer(line, origin, request).await,
    }
}

/// Tells who came to the wrong port where the right one is.
#[expect(clippy::needless_pass_by_value, reason = "its body is dropped unread")]
fn elsewhere(line: &Line, http: u16, request: Request<Incoming>) -> Response<OutBody> {
    line.begin();
    let text = format!("only gRPC is served at this port (grpc_listen): HTTP is served at port {http}");
    let refusal = Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", text);
    let response = refusal.into_last_response(request_id(request.headers()));
    line.end(true);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_is_spoken() {
        assert_eq!(Opening::of(b"\x16\x03\x01"), Some(Opening::Tls));
        assert_eq!(Opening::of(b"\x16"), Some(Opening::Tls));
        assert_eq!(Opening::of(b"PRI"), Some(Opening::Http2));
        for undecided in [&b""[..], b"P", b"PR"] {
            assert_eq!(Opening::of(undecided), None);
        }
        for other in [&b"POS"[..], b"PUT", b"PO", b"PRO", b"GET", b"G", b"\r\n", b"\0"] {
            assert_eq!(Opening::of(other), Some(Opening::Http1));
        }
    }
}
