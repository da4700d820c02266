//! One WebSocket from its first message to its end: reads, hands over, writes.

use std::{future::pending, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    Out,
    meter::{Meter, Metered},
    session::{Asking, Session},
};
use crate::{Cluster, GatewayConfig};

/// Messages that are written one after another, and wait for it: enough that no call waits for a client that reads.
const OUTBOX_MAX: usize = 16;

/// How often a client is asked whether it is still there: well within what home routers and proxies forget.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long nothing at all may come, the answer to a ping included: a ping's interval, and ten seconds for the answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long a client has to read the last words and close its side.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// What is read and written at a time, in bytes. An idle connection holds as much of each.
const BUFFER_BYTES: usize = 16 << 10;

/// Everything that wakes a connection.
enum Event {
    /// A message came, or there will be none any more.
    Read(Option<Result<Message, Error>>),
    /// The calls of the last message have their places, so the next one can be read.
    Begun,
    /// A message is answered, or its task ended by a defect.
    Ended(Result<(), JoinError>),
    /// Nothing came for as long as that is allowed; or it seemed so.
    Silence,
    /// Nothing can be written any more.
    Deaf,
    /// The order to leave came, and the notice of it is over.
    Leave,
}

/// How a connection ends.
enum End {
    /// Nobody is there to be told.
    Gone,
    /// The client is told why, at once.
    Broken(CloseCode, String),
    /// The door leaves: what runs is finished first.
    Leaving,
}

/// The sink that the writer has, and gives back after the last words.
type Sink<S> = SplitSink<WebSocketStream<Metered<S>>, Message>;

/// Serves one WebSocket to its end. Dropping the future cancels all its calls.
pub(super) async fn serve<C: Cluster, S>(asking: Asking<C>, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let door = Arc::clone(&asking.door);
    let Ok(meter) = Meter::new(&door.shared.bodies, Instant::now()) else { return };
    let io = Metered { io, meter: meter.clone() };
    let settings = settings(&door.shared.config);
    let (sink, stream) = WebSocketStream::from_raw_socket(io, Role::Server, Some(settings)).await.split();
    let (outbox, inbox) = mpsc::channel(OUTBOX_MAX);
    let session = Arc::new(Session::new(asking, outbox));
    let _counted = door.shared.metrics.socket();
    let mut writer = std::pin::pin!(write(sink, inbox));
    let mut leave = std::pin::pin!(async {
        door.leaving.cancelled().await;
        sleep(door.shared.config.notice).await;
    });
    let mut driver = Driver { session, stream, meter, calls: JoinSet::new(), beginning: None };
    let end = loop {
        let reads = driver.beginning.is_none();
        let silent_at = driver.meter.heard() + SILENCE_MAX;
        let event = tokio::select! {
            _ = &mut writer => Event::Deaf,
            Some(ended) = driver.calls.join_next() => Event::Ended(ended),
            () = begun(&mut driver.beginning) => Event::Begun,
            read = driver.stream.next(), if reads => Event::Read(read),
            () = sleep_until(silent_at), if reads => Event::Silence,
            () = &mut leave => Event::Leave,
        };
        if let Some(end) = driver.handle(event) {
            break end;
        }
    };
    driver.finish(end, writer).await;
}

/// One connection, but for its writer.
struct Driver<C, S> {
    session: Arc<Session<C>>,
    stream: SplitStream<WebSocketStream<Metered<S>>>,
    meter: Meter,
    calls: JoinSet<()>,
    /// Rings when the calls of the last message have their places.
    beginning: Option<oneshot::Receiver<()>>,
}

impl<C: Cluster, S: AsyncRead + AsyncWrite + Unpin> Driver<C, S> {
    fn handle(&mut self, event: Event) -> Option<End> {
        let shared = &self.session.asking.door.shared;
        match event {
            Event::Read(Some(Ok(message))) => {
                if let Some(text) = text(message, &self.meter) {
                    shared.metrics.socket_messages.inc();
                    let (begins, begun) = oneshot::channel();
                    self.calls.spawn(Arc::clone(&self.session).answer(text, self.meter.take(), begins));
                    self.beginning = Some(begun);
                }
            }
            Event::Read(Some(Err(error))) => return Some(broken(error, &shared.config)),
            Event::Begun => {
                self.beginning = None;
                self.meter.hears_again(Instant::now());
            }
            Event::Ended(Err(error)) if error.is_panic() => {
                tracing::error!(%error, "a message's task panicked; its connection is closed");
                return Some(End::Broken(
                    CloseCode::Error,
                    "a defect of the gateway; see its log".to_owned(),
                ));
            }
            Event::Ended(_) => {}
            // Something came meanwhile.
            Event::Silence if Instant::now() < self.meter.heard() + SILENCE_MAX => {}
            Event::Silence => {
                return Some(End::Broken(CloseCode::Policy, format!("nothing came for {SILENCE_MAX:?}")));
            }
            Event::Read(None) | Event::Deaf => return Some(End::Gone),
            Event::Leave => return Some(End::Leaving),
        }
        None
    }

    /// Ends it as is due. What still runs at the end of this is cancelled.
    async fn finish(
        mut self,
        end: End,
        mut writer: Pin<&mut (impl Future<Output = Option<Sink<S>>> + Send)>,
    ) {
        let (code, reason) = match end {
            End::Gone => return,
            End::Broken(code, reason) => {
                self.calls.abort_all();
                (code, reason)
            }
            End::Leaving => {
                self.session.leave();
                let drain_max = self.session.asking.door.shared.settings().drain_max;
                let answered = async { while self.calls.join_next().await.is_some() {} };
                tokio::select! {
                    _ = timeout(drain_max.saturating_sub(GOODBYE_MAX), answered) => {}
                    _ = &mut writer => return,
                }
                (CloseCode::Away, "this gateway is leaving: connect to another".to_owned())
            }
        };
        let close = Out::Close(CloseFrame { code, reason: reason.into() });
        let (session, stream) = (self.session, self.stream);
        let goodbye = async {
            let (_, written) = tokio::join!(session.outbox.send(close), writer);
            let Some(io) = written.and_then(|sink| stream.reunite(sink).ok()) else { return };
            linger(io.into_inner().io).await;
        };
        drop(timeout(GOODBYE_MAX, goodbye).await);
    }
}

fn settings(config: &GatewayConfig) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        // One message at a time is in it, and no message is longer than the room of all.
        .max_write_buffer_size(config.bodies_bytes_max.saturating_add(2 * BUFFER_BYTES))
        .max_message_size(Some(config.body_bytes_max))
        .max_frame_size(Some(config.body_bytes_max))
}

/// The text of a message; of anything else only its bytes are given back.
fn text(message: Message, meter: &Meter) -> Option<Bytes> {
    match message {
        Message::Text(text) => Some(text.into()),
        Message::Binary(bytes) => Some(bytes),
        Message::Ping(said) | Message::Pong(said) => {
            meter.passed(said.len());
            None
        }
        // Answered by the library with the next read, which then ends.
        Message::Close(_) | Message::Frame(_) => None,
    }
}

/// Ends when the calls of the last message have their places; never when nobody waits for that.
async fn begun(beginning: &mut Option<oneshot::Receiver<()>>) {
    match beginning {
        Some(begun) => drop(begun.await),
        None => pending().await,
    }
}

/// What a failed read means.
fn broken(error: Error, config: &GatewayConfig) -> End {
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::OutOfMemory => End::Broken(
            CloseCode::Again,
            "the gateway holds as many bytes as it may; try again shortly".to_owned(),
        ),
        Error::Capacity(_) => {
            let max = config.body_bytes_max;
            End::Broken(CloseCode::Size, format!("a message is longer than {max} bytes (body_bytes_max)"))
        }
        Error::Utf8(_) => End::Broken(CloseCode::Invalid, "a text message is not UTF-8".to_owned()),
        Error::Protocol(error) => {
            let reason: String = error.to_string().chars().take(80).filter(char::is_ascii).collect();
            End::Broken(CloseCode::Protocol, reason)
        }
        error => {
            tracing::trace!(%error, "a WebSocket ended early");
            End::Gone
        }
    }
}

/// Writes what is to be written, and pings. Gives the sink back after the last words; nothing when the client is gone.
///
/// A client that does not read is cut by the watched stream below.
async fn write<S>(mut sink: Sink<S>, mut inbox: mpsc::Receiver<Out>) -> Option<Sink<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let out = tokio::select! {
            out = inbox.recv() => Some(out?),
            _ = ping.tick() => None,
        };
        let (message, _room) = match out {
            None => (Message::Ping(Bytes::new()), None),
            Some(Out::Text(json, room)) => {
                (Message::Text(Utf8Bytes::try_from(Bytes::from(json)).expect("JSON is text")), room)
            }
            Some(Out::Close(frame)) => {
                sink.send(Message::Close(Some(frame))).await.ok()?;
                return Some(sink);
            }
        };
        sink.send(message).await.ok()?;
    }
}

/// Ends a connection so that the client can read the last words: bytes that still come must not make the system throw
/// them away.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut io: S) {
    drop(io.shutdown().await);
    let mut waste = [0; 8 << 10];
    while matches!(io.read(&mut waste).await, Ok(read) if 0 < read) {}
}

#[cfg(test)]
mod tests;
