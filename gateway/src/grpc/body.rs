//! Both directions of a call's body: what comes in is watched and has its room, what goes out is counted.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use lineside_wire::{Fault, FaultCode};
use tokio::time::{Instant, Sleep};

use super::status;
use crate::{
    body::{BodyError, Reserved, Room},
    metrics::CLIENT_GONE,
    route,
    shared::Shared,
};

/// Bytes before each message: a flag, and a length of 32 bits, the highest byte first.
const PREFIX_BYTES: usize = 5;

/// The room of one call.
pub(super) struct Held {
    room: Arc<Room>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reserved: Option<Reserved>,
    /// Bytes that came since the last [`Held::take`].
    received: u64,
}

impl Held {
    pub(super) fn new(room: &Arc<Room>) -> Arc<Self> {
        Arc::new(Self { room: Arc::clone(room), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for bytes that have come.
    fn received(&self, bytes: usize) -> Result<(), Fault> {
        let mut state = self.state();
        state.received += bytes as u64;
        match &mut state.reserved {
            Some(reserved) => reserved.grow(bytes),
            none => {
                *none = Some(self.room.reserve(bytes)?);
                Ok(())
            }
        }
    }

    /// Hands over the room of what has come so far, and how many bytes that is.
    ///
    /// # Errors
    /// Never in practice: nothing more is reserved.
    pub(super) fn take(&self) -> Result<(Reserved, u64), Fault> {
        let mut state = self.state();
        let reserved = state.reserved.take().map_or_else(|| self.room.reserve(0), Ok)?;
        Ok((reserved, std::mem::take(&mut state.received)))
    }

    /// Keeps room until the call is over.
    pub(super) fn keep(&self, more: Reserved) {
        let mut state = self.state();
        match &mut state.reserved {
            Some(reserved) => reserved.join(more),
            none => *none = Some(more),
        }
    }
}

/// What one call's body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest message, as it is sent.
    pub(super) message_bytes_max: usize,
    /// Most messages.
    pub(super) messages_max: u64,
    /// Longest pause within a message, or before the only one.
    pub(super) pause_max: Duration,
    /// Longest pause between messages.
    pub(super) between_max: Duration,
    /// When all of it must be there.
    pub(super) deadline: Option<Instant>,
}

/// Where a body stands: within a prefix, or within a message.
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    left: usize,
    messages: u64,
}

impl Framing {
    fn is_between(&self) -> bool {
        self.prefix_bytes == 0 && self.left == 0
    }

    /// Follows the next bytes.
    fn feed(&mut self, mut bytes: &[u8], bounds: &Bounds) -> Result<(), Fault> {
        while let [first, rest @ ..] = bytes {
            if 0 < self.left {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            self.prefix[self.prefix_bytes] = *first;
            self.prefix_bytes += 1;
            bytes = rest;
            if self.prefix_bytes == PREFIX_BYTES {
                self.begin(bounds)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, bounds: &Bounds) -> Result<(), Fault> {
        let [_, length @ ..] = self.prefix;
        let length = u32::from_be_bytes(length) as usize;
        let max = bounds.message_bytes_max;
        if max < length {
            let text = format!("the message has {length} bytes: this method takes at most {max}");
            return Err(Fault::new(FaultCode::LimitExceeded, text));
        }
        self.messages += 1;
        if bounds.messages_max < self.messages {
            return Err(Fault::new(
                FaultCode::InvalidRequest,
                "this method takes one message, and there are more",
            ));
        }
        (self.prefix_bytes, self.left) = (0, length);
        Ok(())
    }
}

/// A request's body under watch.
pub(super) struct WatchedBody<B> {
    inner: B,
    held: Arc<Held>,
    bounds: Bounds,
    framing: Framing,
    /// Since when nothing has come, while somebody waits for it.
    quiet_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<B> WatchedBody<B> {
    pub(super) fn new(inner: B, held: Arc<Held>, bounds: Bounds) -> Self {
        Self { inner, held, bounds, framing: Framing::default(), quiet_since: None, alarm: None }
    }

    fn came(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.quiet_since = None;
        self.held.received(bytes.len())?;
        self.framing.feed(bytes, &self.bounds)
    }

    /// Nothing came: is that still allowed?
    fn wait(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let bounds = self.bounds;
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        let pause = if self.framing.is_between() { bounds.between_max } else { bounds.pause_max };
        let quiet_until = since + pause;
        let until = bounds.deadline.map_or(quiet_until, |deadline| deadline.min(quiet_until));
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if alarm.deadline() != until {
            alarm.as_mut().reset(until);
        }
        if alarm.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        let text = match until == quiet_until {
            true => format!("the request stopped for {pause:?}"),
            false => "the time for the request ran out before all of it was there".to_owned(),
        };
        Err(Fault::new(FaultCode::DeadlineExceeded, text))
    }
}

fn ended(fault: Fault) -> Option<Result<Frame<Bytes>, BodyError>> {
    Some(Err(Box::new(status::of_fault(fault))))
}

impl<B> Body for WatchedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let came = frame.data_ref().map_or(Ok(()), |data| this.came(data));
                Poll::Ready(came.map_or_else(ended, |()| Some(Ok(frame))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => match this.wait(cx) {
                Ok(()) => Poll::Pending,
                Err(fault) => Poll::Ready(ended(fault)),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Counts one call, once: when its end is known, or when it is dropped before.
pub(super) struct Record {
    shared: Arc<Shared>,
    arrived: Instant,
    is_told: bool,
}

impl Record {
    pub(super) fn new(shared: &Arc<Shared>, arrived: Instant) -> Self {
        Self { shared: Arc::clone(shared), arrived, is_told: false }
    }

    pub(super) fn tell(&mut self, status: u16) {
        if !std::mem::replace(&mut self.is_told, true) {
            self.shared.metrics.answered(route::GRPC, status, self.arrived.elapsed());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.tell(CLIENT_GONE);
    }
}

/// An answer's body: its trailers say how the call is counted, and its end gives the call's room back.
pub(super) struct CountedBody {
    inner: tonic::body::Body,
    record: Record,
    _held: Option<Arc<Held>>,
}

impl CountedBody {
    pub(super) fn new(inner: tonic::body::Body, record: Record, held: Option<Arc<Held>>) -> Self {
        Self { inner, record, _held: held }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                frame.trailers_ref().iter().for_each(|trailers| this.record.tell(status::counted(trailers)));
            }
            Some(Err(_)) => this.record.tell(500),
            None => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        message_bytes_max: 10,
        messages_max: 2,
        pause_max: Duration::from_secs(1),
        between_max: Duration::from_secs(60),
        deadline: None,
    };

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let stream = [0, 0, 0, 0, 3, 7, 8, 9, 1, 0, 0, 0, 0];
        for cut in 1..stream.len() {
            let mut framing = Framing::default();
            for piece in stream.chunks(cut) {
                framing.feed(piece, &BOUNDS).expect("within bounds");
            }
            assert!(framing.is_between());
            assert_eq!(framing.messages, 2);
            assert!(framing.feed(&[0, 0, 0, 0], &BOUNDS).is_ok());
            assert!(!framing.is_between());
            assert_eq!(framing.feed(&[1], &BOUNDS).expect_err("a third").code, FaultCode::InvalidRequest);
        }
    }

    #[test]
    fn a_message_is_refused_by_its_length_alone() {
        let fault = Framing::default().feed(&[0, 0, 0, 0, 11], &BOUNDS).expect_err("too long");
        assert_eq!(fault.code, FaultCode::LimitExceeded);
        assert!(Framing::default().feed(&[0, 255, 255, 255, 255], &BOUNDS).is_err());
    }

    #[test]
    fn room_goes_with_the_message_that_was_taken() {
        let room = Room::new(10);
        let held = Held::new(&room);
        held.received(6).expect("room");
        assert!(held.received(5).is_err());
        let (first, bytes) = held.take().expect("room");
        assert_eq!(bytes, 11);
        assert!(held.received(4).is_ok());
        drop(first);
        assert!(held.received(6).is_ok());
        let (second, _) = held.take().expect("room");
        held.keep(second);
        assert!(room.reserve(1).is_err());
        drop(held);
        assert!(room.reserve(10).is_ok());
    }

    /// A body of which nothing ever comes, or no more than its beginning.
    struct Stuck(Option<Bytes>);

    impl Body for Stuck {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_message_ends_soon_and_a_quiet_stream_late() {
        use http_body_util::BodyExt as _;

        let within = Bytes::from_static(&[0, 0, 0, 0, 3, 7]);
        let between = Bytes::from_static(&[0, 0, 0, 0, 1, 7]);
        for (came, after) in [(within, BOUNDS.pause_max), (between, BOUNDS.between_max)] {
            let mut body = WatchedBody::new(Stuck(Some(came)), Held::new(&Room::new(100)), BOUNDS);
            assert!(body.frame().await.expect("bytes").is_ok());
            let since = Instant::now();
            let error = body.frame().await.expect("an end").expect_err("a fault");
            assert!(
                error
                    .downcast::<tonic::Status>()
                    .is_ok_and(|status| status.code() == tonic::Code::DeadlineExceeded)
            );
            let took = since.elapsed();
            assert!(after <= took && took <= after + Duration::from_millis(10), "{took:?}");
        }
    }
}
