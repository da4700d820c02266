//! Bodies: taking in a request's within limits, giving out an answer's without copying.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use lineside_wire::{Fault, FaultCode};
use tokio::time::Instant;

use crate::errors::Refusal;

/// What all bodies together, of requests and of answers, may take in memory.
#[derive(Debug)]
pub(crate) struct Room {
    taken: AtomicUsize,
    max: usize,
}

impl Room {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max })
    }

    /// Room for so many bytes, until it is dropped.
    ///
    /// # Errors
    /// There is not that much.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reserved, Fault> {
        let mut reserved = Reserved { room: Arc::clone(self), bytes: 0 };
        reserved.grow(bytes)?;
        Ok(reserved)
    }

    /// Takes room for `bytes` more, or leaves everything as it was.
    fn take(&self, bytes: usize) -> bool {
        let add = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= self.max);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }
}

/// The room of one body, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    room: Arc<Room>,
    bytes: usize,
}

impl Reserved {
    /// Takes over the room of another body, which goes on in this one.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// All of it on its own, so that something else begins here.
    pub(crate) fn split(&mut self) -> Self {
        Self { room: Arc::clone(&self.room), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Room for so many bytes at least.
    ///
    /// # Errors
    /// There is not that much; it keeps what it has.
    pub(crate) fn cover(&mut self, bytes: usize) -> Result<(), Fault> {
        self.grow(bytes.saturating_sub(self.bytes))
    }

    /// Gives back as much as is no longer held.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.room.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Room for more of the same body.
    ///
    /// # Errors
    /// There is not that much; it keeps what it has.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        if !self.room.take(bytes) {
            let text = "the gateway holds as many bytes of requests and answers as it may; try again shortly";
            return Err(Fault::new(FaultCode::Busy, text).retry_after_ms(1_000));
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What one body may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) bytes_max: usize,
    pub(crate) idle_max: Duration,
    pub(crate) deadline: Instant,
}

/// Memory that is taken for an announcement alone, in bytes: an image fits, and a thousand that never come do no harm.
const AHEAD_BYTES_MAX: usize = 1 << 20;

/// Longest body that is read although nobody wants it, in bytes: what one segment or two bring along.
const SKIM_BYTES_MAX: u64 = 16 << 10;

/// How long its last bytes may take.
const SKIM_FOR: Duration = Duration::from_millis(50);

/// Reads the small body of a request that is answered without it, so that its connection can go on. Says whether it
/// can.
pub(crate) async fn skim(body: &mut Incoming) -> bool {
    if body.size_hint().exact().is_none_or(|left| SKIM_BYTES_MAX < left) {
        return false;
    }
    let rest = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(SKIM_FOR, rest).await.unwrap_or(false)
}

/// Reads a whole body. One that came in one piece is not copied.
///
/// # Errors
/// Too long, too slow, no room, or broken off. The caller then answers without having read the rest.
pub(crate) async fn collect(
    body: &mut Incoming,
    limits: BodyLimits,
    room: &Arc<Room>,
) -> Result<(Bytes, Reserved), Refusal> {
    let announced = body.size_hint().exact().unwrap_or(0);
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if limits.bytes_max < announced {
        return Err(too_long(limits.bytes_max));
    }
    // Room is taken for what has come, not for what was announced: an announcement costs its sender nothing.
    let mut reserved = room.reserve(0)?;
    let Some(first) = next(body, limits).await? else { return Ok((Bytes::new(), reserved)) };
    if first.len() == announced && !first.is_empty() {
        reserved.grow(first.len())?;
        return Ok((first, reserved));
    }
    let mut bytes = BytesMut::with_capacity(announced.min(AHEAD_BYTES_MAX).max(first.len()));
    let mut piece = first;
    loop {
        if limits.bytes_max < bytes.len() + piece.len() {
            return Err(too_long(limits.bytes_max));
        }
        reserved.grow(piece.len())?;
        bytes.extend_from_slice(&piece);
        match next(body, limits).await? {
            Some(more) => piece = more,
            None => return Ok((bytes.freeze(), reserved)),
        }
    }
}

/// Bodies, and parts of them, up to this length, in bytes, are copied out of the read buffer: cheaper than a new buffer
/// for the connection's next request.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// The same bytes, which keep nothing large that is not theirs from being used again.
pub(crate) fn detached(bytes: Bytes) -> Bytes {
    if bytes.len() <= COPIED_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// The next piece; trailers are passed over.
pub(crate) async fn next(body: &mut Incoming, limits: BodyLimits) -> Result<Option<Bytes>, Refusal> {
    let idle = Instant::now() + limits.idle_max;
    loop {
        match tokio::time::timeout_at(idle.min(limits.deadline), body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                return Err(Refusal::bad_request(format!("the body of the request is broken: {error}")));
            }
            Err(_) if limits.deadline <= idle => {
                let text = "the time for the request ran out before its body was complete";
                return Err(Fault::new(FaultCode::DeadlineExceeded, text).into());
            }
            Err(_) => {
                let text = format!("the body of the request stopped for {:?}", limits.idle_max);
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", text));
            }
        }
    }
}

pub(crate) fn too_long(max: usize) -> Refusal {
    let text = format!("the body is longer than {max} bytes, the limit of this gateway (body_bytes_max)");
    Fault::new(FaultCode::LimitExceeded, text).into()
}

/// The body of an answer: pieces that lie where they lie, with an exact length.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    first: Bytes,
    more: std::vec::IntoIter<Bytes>,
    left: u64,
}

impl Pieces {
    pub(crate) fn new(first: impl Into<Bytes>, more: Vec<Bytes>) -> Self {
        let first = first.into();
        let left = first.len() as u64 + more.iter().map(|piece| piece.len() as u64).sum::<u64>();
        Self { first, more: more.into_iter(), left }
    }

    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The same, keeping its room until its last piece is written: a client may read slowly, or not at all.
    pub(crate) fn holding(mut self, room: Reserved) -> Self {
        let mut more: Vec<_> = self.more.collect();
        let last = more.last_mut().unwrap_or(&mut self.first);
        *last = Bytes::from_owner(Held { bytes: std::mem::take(last), _room: room });
        Self { more: more.into_iter(), ..self }
    }

    /// The next piece.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let first = std::mem::take(&mut self.first);
        let piece = std::iter::once(first).chain(&mut self.more).find(|piece| !piece.is_empty())?;
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

/// The last piece of a body, and the room of all.
struct Held {
    bytes: Bytes,
    _room: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What ends a body early.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
pub(crate) enum OutBody {
    /// All of it is there.
    Pieces(Pieces),
    /// It comes bit by bit: events, gRPC, what is compressed on its way.
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl From<Pieces> for OutBody {
    fn from(pieces: Pieces) -> Self {
        Self::Pieces(pieces)
    }
}

impl hyper::body::Body for OutBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Pieces(pieces) => Poll::Ready(pieces.next().map(|piece| Ok(Frame::data(piece)))),
            Self::Stream(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pieces(pieces) => pieces.left == 0,
            Self::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pieces(pieces) => SizeHint::with_exact(pieces.left),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_and_never_overdrawn() {
        let room = Room::new(10);
        let body = room.reserve(6).expect("room");
        assert!(room.reserve(5).is_err());
        let mut other = room.reserve(0).expect("room");
        assert!(other.grow(5).is_err());
        assert!(other.grow(usize::MAX).is_err());
        assert!(other.grow(4).is_ok());
        assert!(other.cover(3).is_ok() && other.cover(5).is_err());
        other.shrink(1);
        let rest = other.split();
        other.shrink(9);
        assert_eq!((room.taken.load(Ordering::Relaxed), other.bytes, rest.bytes), (9, 0, 3));
        drop((body, other, rest));
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_answer_keeps_its_room_until_its_last_piece_is_gone() {
        for more in [vec![], vec![Bytes::from_static(b"tensor")]] {
            let room = Room::new(10);
            let mut reserved = room.reserve(4).expect("room");
            reserved.join(room.reserve(3).expect("room"));
            let mut body = Pieces::new("json", more).holding(reserved);
            let pieces: Vec<_> = std::iter::from_fn(|| body.next()).collect();
            drop(body);
            assert_eq!(pieces[0], "json");
            assert_eq!(room.taken.load(Ordering::Relaxed), 7);
            drop(pieces);
            assert_eq!(room.taken.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn pieces_come_in_their_order_and_the_length_says_what_is_left() {
        let more = ["", "b", "", "cd", ""].map(|text| Bytes::from_static(text.as_bytes()));
        let mut body = Pieces::new("", more.to_vec());
        assert_eq!(body.left, 3);
        assert_eq!(body.next().as_deref(), Some(&b"b"[..]));
        assert_eq!(body.next().as_deref(), Some(&b"cd"[..]));
        assert_eq!(body.left, 0);
        assert_eq!(body.next(), None);
        assert!(OutBody::from(Pieces::default()).is_end_stream());
    }
}
