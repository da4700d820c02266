//! What a client has sent of a message that is not complete yet: counted against the room of all bodies as it comes, and
//! when something came last.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use lineside_wire::Fault;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::body::{Reserved, Room};

/// Bytes of a control frame beside what it says: its head and its mask.
const CONTROL_HEAD_BYTES: usize = 6;

/// The counts of one connection.
#[derive(Clone)]
pub(super) struct Meter(Arc<Mutex<State>>);

struct State {
    /// Of everything that came since the last whole message.
    room: Reserved,
    heard: Instant,
}

impl Meter {
    /// # Errors
    /// The door has no room at all.
    pub(super) fn new(bodies: &Arc<Room>, now: Instant) -> Result<Self, Fault> {
        Ok(Self(Arc::new(Mutex::new(State { room: bodies.reserve(0)?, heard: now }))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When something came last, or reading went on.
    pub(super) fn heard(&self) -> Instant {
        self.state().heard
    }

    /// Reading goes on: the client could not be heard before.
    pub(super) fn hears_again(&self, now: Instant) {
        self.state().heard = now;
    }

    fn received(&self, bytes: usize, now: Instant) -> Result<(), Fault> {
        let mut state = self.state();
        state.heard = now;
        state.room.grow(bytes)
    }

    /// A message is complete: its room goes on with it. What was read ahead of the next one, less than a buffer, goes
    /// along.
    pub(super) fn take(&self) -> Reserved {
        self.state().room.split()
    }

    /// A ping or pong is complete, and gone.
    pub(super) fn passed(&self, said: usize) {
        self.state().room.shrink(said + CONTROL_HEAD_BYTES);
    }
}

/// A connection under its meter.
pub(super) struct Metered<S> {
    pub(super) io: S,
    pub(super) meter: Meter,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        // The one error of this kind here: the driver tells the client.
        let full = |fault: Fault| io::Error::new(io::ErrorKind::OutOfMemory, fault);
        Poll::Ready(self.meter.received(read, Instant::now()).map_err(full))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
