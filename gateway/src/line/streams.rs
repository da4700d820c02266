//! The requests of one HTTP/2 connection, which run side by side: how many there are, and whether their client reads
//! what it asked for.
//!
//! A socket that takes nothing more says little here: with flow control a client can read its socket and leave one
//! answer lying for ever. Each answer is therefore handed to HTTP/2 in slices that tell when they are written.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::Executor,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::body::{BodyError, OutBody};

/// Longest slice of an answer, in bytes: what a client must take within its time for an answer. A tensor of 600 KB is
/// ten slices.
const SLICE_BYTES_MAX: usize = 64 << 10;

/// Requests that a client may give up before it is looked at whether it gives up more than it waits for. Each has cost
/// a task and a look at the limits, so who does nothing else is sent away.
const GIVEN_UP_MAX: u64 = 200;

tokio::task_local! {
    /// The stream whose request the present task works on.
    static STREAM: Arc<Stream>;
}

/// All streams of one connection. Runs what hyper wants run for them.
#[derive(Clone)]
pub(crate) struct Streams(Arc<Inner>);

struct Inner {
    counts: Mutex<Counts>,
    /// How long a client may leave an answer unread.
    write_max: Duration,
    tasks: TaskTracker,
    /// Set when the connection must end at once.
    cut: CancellationToken,
}

struct Counts {
    open: usize,
    /// Since when no stream has been open.
    idle_since: Instant,
    answered: u64,
    given_up: u64,
}

impl Streams {
    pub(crate) fn new(write_max: Duration) -> Self {
        let counts = Counts { open: 0, idle_since: Instant::now(), answered: 0, given_up: 0 };
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        Self(Arc::new(Inner { counts: Mutex::new(counts), write_max, tasks, cut }))
    }

    /// Ends when no stream has been open for so long, counted from now at the earliest.
    pub(crate) async fn idle(&self, max: Duration) {
        let from = Instant::now();
        loop {
            let (open, idle_since) = {
                let counts = self.0.counts();
                (counts.open, counts.idle_since)
            };
            let now = Instant::now();
            let until = if open == 0 { idle_since.max(from) + max } else { now + max };
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Ends when the client has lost its connection: it floods, or leaves the end of an answer unread.
    pub(crate) async fn cut(&self) {
        self.0.cut.cancelled().await;
    }

    /// Waits until nothing runs for this connection any more.
    pub(crate) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        let open = Open::new(&self.0);
        let (stream, cut, write_max) = (Arc::clone(&open.stream), self.0.cut.clone(), self.0.write_max);
        let work = async move {
            let stream = &open.stream;
            tokio::select! {
                () = request => {}
                // Dropping the request resets its stream; the others go on.
                () = stream.stalls(write_max) => return,
            }
            // hyper is done, but HTTP/2 may hold the last slice until its client makes room.
            tokio::select! {
                () = stream.is_written() => {}
                () = stream.stalls(write_max) => cut.cancel(),
            }
        };
        drop(self.0.tasks.spawn(STREAM.scope(stream, work)));
    }
}

/// Counts as one stream until dropped, however its request ends.
struct Open {
    inner: Arc<Inner>,
    stream: Arc<Stream>,
}

impl Open {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.counts().open += 1;
        Self { inner: Arc::clone(inner), stream: Arc::default() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let answered = self.stream.progress().answered;
        let mut counts = self.inner.counts();
        counts.open -= 1;
        if counts.open == 0 {
            counts.idle_since = Instant::now();
        }
        match answered {
            true => counts.answered += 1,
            false => counts.given_up += 1,
        }
        if GIVEN_UP_MAX < counts.given_up && counts.answered < counts.given_up {
            self.inner.cut.cancel();
        }
    }
}

/// How the answer on one stream gets on.
#[derive(Default)]
pub(crate) struct Stream {
    progress: Mutex<Progress>,
    written: Notify,
}

#[derive(Default)]
struct Progress {
    /// Whether there is an answer.
    answered: bool,
    /// Slices that HTTP/2 holds.
    unwritten: usize,
    /// When it last took or wrote one.
    moved: Option<Instant>,
}

impl Stream {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when nothing of what waits to be written was written for so long.
    async fn stalls(&self, max: Duration) {
        loop {
            let waits_since = {
                let progress = self.progress();
                progress.moved.filter(|_| 0 < progress.unwritten)
            };
            let now = Instant::now();
            let until = waits_since.unwrap_or(now) + max;
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    async fn is_written(&self) {
        loop {
            let written = self.written.notified();
            if self.progress().unwritten == 0 {
                return;
            }
            written.await;
        }
    }

    /// The same bytes, which tell when they are written.
    fn slice(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let mut progress = self.progress();
        progress.unwritten += 1;
        progress.moved = Some(Instant::now());
        drop(progress);
        Bytes::from_owner(Slice { bytes, stream: Arc::clone(self) })
    }
}

struct Slice {
    bytes: Bytes,
    stream: Arc<Stream>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let mut progress = self.stream.progress();
        progress.unwritten -= 1;
        progress.moved = Some(Instant::now());
        if progress.unwritten == 0 {
            self.stream.written.notify_one();
        }
    }
}

/// The body of an answer on its way into a stream.
pub(crate) struct Sliced {
    body: OutBody,
    /// What is left of its last piece.
    rest: Bytes,
    stream: Arc<Stream>,
}

impl Sliced {
    /// The body of the answer to the request that the present task works on.
    pub(crate) fn new(body: OutBody) -> Self {
        let stream = STREAM.try_with(Arc::clone).unwrap_or_default();
        stream.progress().answered = true;
        Self { body, rest: Bytes::new(), stream }
    }
}

impl Body for Sliced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(SLICE_BYTES_MAX);
        let slice = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(self.stream.slice(slice)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Asked for before the first slice is cut.
        match self.rest.is_empty() {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::body::Pieces;

    const MAX: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_stream_stalls_only_while_something_waits_to_be_written() {
        let stream = Arc::new(Stream::default());
        let stalls = async |stream: &Stream| tokio::time::timeout(2 * MAX, stream.stalls(MAX)).await.is_ok();
        assert!(!stalls(&stream).await);
        let slice = stream.slice(Bytes::from_static(b"tensor"));
        assert!(stalls(&stream).await);
        let second = stream.slice(Bytes::from_static(b"tensor"));
        drop(slice);
        let began = Instant::now();
        stream.stalls(MAX).await;
        assert_eq!(began.elapsed(), MAX, "writing one slice gives time for the next");
        drop(second);
        stream.is_written().await;
        assert!(!stalls(&stream).await);
    }

    #[tokio::test]
    async fn a_body_is_cut_into_slices_and_stays_the_same() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let mut body = Sliced::new(Pieces::new("json", vec![bytes.clone().into()]).into());
        assert_eq!(body.size_hint().exact(), Some(200_004));
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= SLICE_BYTES_MAX);
            seen.extend_from_slice(&data);
        }
        assert!(body.is_end_stream());
        assert_eq!(seen, [b"json".as_slice(), &bytes].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_stream() {
        let streams = Streams::new(MAX);
        let began = Instant::now();
        streams.execute(tokio::time::sleep(2 * MAX));
        streams.idle(MAX).await;
        assert_eq!(began.elapsed(), 3 * MAX);
        // It then has time to take leave.
        streams.idle(MAX).await;
        assert_eq!(began.elapsed(), 4 * MAX);
        streams.ended().await;
    }

    #[tokio::test]
    async fn who_gives_up_nearly_everything_loses_the_connection() {
        let streams = Streams::new(MAX);
        for _ in 0..GIVEN_UP_MAX {
            streams.execute(async {});
        }
        streams.execute(async { drop(Sliced::new(Pieces::default().into())) });
        while streams.0.counts().open != 0 {
            tokio::task::yield_now().await;
        }
        assert!(!streams.0.cut.is_cancelled());
        streams.execute(async {});
        streams.cut().await;
    }
}
