//! One client's connection below HTTP: what hyper does not watch.
//!
//! * every wait for the client ends: silence, a head that never ends, an idle connection, an answer left unread;
//! * the raw head is kept until it is judged, because hyper drops `Content-Length` beside `Transfer-Encoding`;
//! * what hyper refuses by itself gets the same JSON body as any other error;
//! * a connection closed while its client still sends is closed slowly, so that the client can read why.
//!
//! Most of this is HTTP/1.1's. HTTP/2 watches its own heads, and what it does not watch is in [`streams`].

mod socket;
pub(crate) mod streams;
mod words;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use self::words::own_words;
pub(crate) use self::{
    socket::{Encrypted, Socket},
    words::plain_response,
};
use crate::{
    GatewayConfig,
    body::{BodyError, OutBody},
    shared::Connection,
};

/// Longest head of a request, in bytes: four times what browsers send with many cookies.
pub(crate) const HEAD_BYTES_MAX: usize = 32 << 10;

/// Bytes read and thrown away after a refusal, so that its text arrives: one body of the default limit.
const LINGER_BYTES_MAX: usize = 64 << 20;

/// How long that may take.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// How long a closing door waits for the first byte of a new connection: it may be on its way.
pub(crate) const SILENT_AT_CLOSE: Duration = Duration::from_millis(200);

/// Bytes read from one connection before the others of its shard get their turn: a client that sends small things as fast
/// as it can makes thousands of them, and a tensor of 600 KB hardly notices.
const TURN_BYTES: usize = 128 << 10;

/// The bytes that begin an HTTP/2 connection: its preface, and the head of the settings after it.
const PREFACE_BYTES: usize = 24 + 9;

/// How long each phase of a connection may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) first_byte: Duration,
    pub(crate) head: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) write: Duration,
}

impl From<&GatewayConfig> for Patience {
    fn from(config: &GatewayConfig) -> Self {
        Self {
            first_byte: config.first_byte_max,
            head: config.head_max,
            keep_alive: config.keep_alive_max,
            write: config.write_idle_max,
        }
    }
}

/// Where a connection stands between its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has come yet.
    Silent,
    /// A head is coming.
    Head,
    /// A request is being worked on; its body and deadline are watched there.
    Busy,
    /// Answered; the next request may come.
    Idle,
    /// Requests come and go side by side (HTTP/2), or there are none any more (WebSocket): silence is watched elsewhere.
    Left,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 and 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

struct State {
    protocol: Protocol,
    phase: Phase,
    /// Counts phases, so that a wait knows whether it is still the same one.
    turn: u64,
    head: Vec<u8>,
    linger: bool,
}

/// What the connection and its requests know of each other.
#[derive(Clone)]
pub(crate) struct Line(Arc<Mutex<State>>);

impl Line {
    fn new(protocol: Protocol) -> Self {
        let (phase, head) = (Phase::Silent, Vec::new());
        Self(Arc::new(Mutex::new(State { protocol, phase, turn: 0, head, linger: false })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's head is complete.
    pub(crate) fn begin(&self) {
        self.state().enter(Phase::Busy);
    }

    /// A request is answered. `linger` when its client may still be sending, and the connection will close.
    pub(crate) fn end(&self, linger: bool) {
        let mut state = self.state();
        state.enter(Phase::Idle);
        state.head.clear();
        state.linger |= linger;
    }

    /// The connection left HTTP behind: what comes from now on is no head, and its client may be silent for as long as
    /// whoever took it over allows.
    pub(crate) fn upgraded(&self) {
        let mut state = self.state();
        state.enter(Phase::Left);
        state.head = Vec::new();
    }

    /// The body of an answer, on whose end the connection waits: one that comes bit by bit may take longer than an idle
    /// connection is kept.
    pub(crate) fn outgoing(&self, body: OutBody) -> Outgoing {
        let comes = matches!(body, OutBody::Stream(_)).then(|| {
            self.begin();
            Comes(self.clone())
        });
        Outgoing { body, _comes: comes }
    }

    /// Ends when the door may give up a connection that has never said anything; never for any other.
    pub(crate) async fn stays_silent(&self) {
        tokio::time::sleep(SILENT_AT_CLOSE).await;
        if self.state().phase != Phase::Silent {
            std::future::pending::<()>().await;
        }
    }

    /// Looks at the raw head of the present request: everything that came since the last answer, cut at 32 KiB.
    /// Empty when the client sent the request before it had the last answer.
    pub(crate) fn raw_head<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.state().head)
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        if self.phase == Phase::Left {
            return;
        }
        self.phase = phase;
        self.turn += 1;
    }

    fn received(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || matches!(self.phase, Phase::Busy | Phase::Left) {
            return;
        }
        if self.phase != Phase::Head {
            self.enter(Phase::Head);
        }
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.protocol == Protocol::Http2 && PREFACE_BYTES <= self.head.len() {
            self.enter(Phase::Left);
            self.head = Vec::new();
        }
    }
}

/// A body that still comes.
struct Comes(Line);

impl Drop for Comes {
    fn drop(&mut self) {
        self.0.end(false);
    }
}

/// The body of an answer on its way into HTTP/1.1.
pub(crate) struct Outgoing {
    body: OutBody,
    _comes: Option<Comes>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A timer that is only touched when somebody really waits.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether `deadline` has passed. Wakes the task when it does.
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        // A timer set for later than needed is set anew; one set for earlier rings, and is set on then.
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}

/// A client's socket under watch.
pub(crate) struct WatchedStream {
    stream: Socket,
    line: Line,
    patience: Patience,
    read_alarm: Alarm,
    /// Bytes read since others had their turn.
    in_turn: usize,
    /// The turn that is being waited in, and until when.
    reading: Option<(u64, Instant)>,
    write_alarm: Alarm,
    writing_until: Option<Instant>,
    /// Our own words in the place of hyper's.
    words: Bytes,
    closing: Option<Closing>,
    /// The connection's place, which it keeps when it leaves HTTP behind.
    _place: Connection,
}

/// A close that waits for the client to finish.
struct Closing {
    until: Instant,
    bytes_left: usize,
}

impl WatchedStream {
    pub(crate) fn new(stream: Socket, protocol: Protocol, patience: Patience, place: Connection) -> Self {
        Self {
            stream,
            line: Line::new(protocol),
            patience,
            read_alarm: Alarm::default(),
            in_turn: 0,
            reading: None,
            write_alarm: Alarm::default(),
            writing_until: None,
            words: Bytes::new(),
            closing: None,
            _place: place,
        }
    }

    pub(crate) fn line(&self) -> Line {
        self.line.clone()
    }

    /// Nothing came: is that still allowed?
    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (phase, turn) = {
            let state = self.line.state();
            (state.phase, state.turn)
        };
        let allowed = match phase {
            Phase::Silent => self.patience.first_byte,
            Phase::Head => self.patience.head,
            Phase::Idle => self.patience.keep_alive,
            Phase::Busy | Phase::Left => return Poll::Pending,
        };
        let until = match self.reading {
            Some((known, until)) if known == turn => until,
            _ => Instant::now() + allowed,
        };
        self.reading = Some((turn, until));
        match self.read_alarm.poll(cx, until) {
            true => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent nothing in time")))
            }
            false => Poll::Pending,
        }
    }

    /// Watches a write: the client must take something in time.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writing_until = None;
            return outcome;
        }
        let until = *self.writing_until.get_or_insert_with(|| Instant::now() + self.patience.write);
        match self.write_alarm.poll(cx, until) {
            true => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client left its answer unread")))
            }
            false => Poll::Pending,
        }
    }

    fn poll_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.words.has_remaining() {
            let outcome = Pin::new(&mut self.stream).poll_write(cx, &self.words);
            match ready!(self.watch_write(cx, outcome))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.words.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Puts our own words in the place of a refusal that hyper wrote. Between a head's first byte and its request,
    /// hyper writes nothing else.
    fn replace(&mut self, written: &[u8]) -> bool {
        let mut state = self.line.state();
        if state.phase != Phase::Head || state.protocol != Protocol::Http1 {
            return false;
        }
        let Some(words) = own_words(written) else { return false };
        state.linger = true;
        drop(state);
        self.words = words;
        true
    }

    /// Reads on until the client has finished or has had its chance.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| Closing {
            until: Instant::now() + LINGER_MAX,
            bytes_left: LINGER_BYTES_MAX,
        });
        let mut waste = [0; 8 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let read = buffer.filled().len();
                    if closing.bytes_left < read || closing.until <= Instant::now() {
                        return Poll::Ready(());
                    }
                    closing.bytes_left -= read;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    return match self.read_alarm.poll(cx, closing.until) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    };
                }
            }
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if TURN_BYTES <= self.in_turn {
            self.in_turn = 0;
            // Goes on after the system was asked who else has something to say; waking it here would only put it behind
            // those that are already known.
            let _is_pending = std::pin::pin!(tokio::task::yield_now()).poll(cx);
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let came = &buffer.filled()[before..];
                self.in_turn += came.len();
                self.line.state().received(came);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.in_turn = 0;
                self.wait_to_read(cx)
            }
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_words(cx))?;
        if self.replace(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch_write(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_words(cx))?;
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && self.replace(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_words(cx))?;
        // Under TLS, what was written may wait here for the client.
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch_write(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_words(cx))?;
        if self.closing.is_none() {
            let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.watch_write(cx, outcome))?;
        }
        if self.line.state().linger {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
