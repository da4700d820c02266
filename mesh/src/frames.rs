//! Frames on quinn's streams.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use lineside_wire::{
    AlignedBuffer, EncodedFrame, FRAME_HEAD_BYTES, Fault, FaultCode, FrameHead, FrameKind, InvalidFrame,
    Limits,
};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

use crate::bytes::{Counted, Room};

/// Bytes taken from a stream at once.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Pieces up to this length are copied together before writing; longer ones go as they are.
const GATHER_BYTES_MAX: usize = 16 << 10;

/// A complete frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) document: Bytes,
    pub(crate) payload: Bytes,
    /// It had one, and there was no room for it: it was read and is gone.
    pub(crate) is_without_payload: bool,
}

/// Why a stream gives no more frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Invalid(#[from] InvalidFrame),
    #[error("the stream ended within a frame")]
    Truncated,
    #[error("nothing came for {0:?} in the middle of a frame")]
    Stalled(Duration),
}

/// Reads frames one after another. Cancel-safe: what was read stays here.
#[derive(Debug)]
pub(crate) struct FrameReader {
    stream: RecvStream,
    limits: Limits,
    progress: Duration,
    room: Room,
    buffered: BytesMut,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head,
    Document(FrameHead),
    Payload(FrameKind, Bytes, AlignedBuffer, Counted),
    /// A payload without room, of which so many bytes are still to come. It is read all the same: left in the
    /// connection's window, it would hold up the payloads that have room.
    Passing(FrameKind, Bytes, usize),
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, limits: Limits, progress: Duration) -> Self {
        let room = Room::unbounded();
        Self { stream, limits, progress, room, buffered: BytesMut::new(), stage: Stage::Head }
    }

    /// Takes no more payload at once than there is room for.
    pub(crate) fn within(self, room: Room) -> Self {
        Self { room, ..self }
    }

    /// The next frame; `None` when the peer has finished the stream between two frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            let between_frames = matches!(self.stage, Stage::Head) && self.buffered.is_empty();
            let chunk = match between_frames {
                true => self.stream.read_chunk(CHUNK_BYTES_MAX, true).await?,
                false => timeout(self.progress, self.stream.read_chunk(CHUNK_BYTES_MAX, true))
                    .await
                    .map_err(|_| FrameError::Stalled(self.progress))??,
            };
            match chunk {
                Some(chunk) => self.accept(&chunk.bytes),
                None if between_frames => return Ok(None),
                None => return Err(FrameError::Truncated),
            }
        }
    }

    /// Puts received bytes where they belong: into the open payload, else into the buffer.
    fn accept(&mut self, mut bytes: &[u8]) {
        match &mut self.stage {
            Stage::Payload(_, _, payload, _) => bytes.advance(payload.fill(bytes)),
            Stage::Passing(_, _, rest) => {
                let passed = bytes.len().min(*rest);
                *rest -= passed;
                bytes.advance(passed);
            }
            Stage::Head | Stage::Document(_) => {}
        }
        self.buffered.extend_from_slice(bytes);
    }

    /// Advances through the stages as far as the buffered bytes go.
    pub(crate) fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Head) {
                Stage::Head => {
                    let Some(head) = self.buffered.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
                    let head = FrameHead::decode(head, &self.limits)?;
                    self.buffered.advance(FRAME_HEAD_BYTES);
                    self.stage = Stage::Document(head);
                }
                Stage::Document(head) => {
                    let length = head.document_length as usize;
                    if self.buffered.len() < length {
                        self.stage = Stage::Document(head);
                        return Ok(None);
                    }
                    let document = self.buffered.split_to(length).freeze();
                    let length = head.payload_length as usize;
                    let Some(counted) = self.room.take(length) else {
                        let passed = self.buffered.len().min(length);
                        self.buffered.advance(passed);
                        self.stage = Stage::Passing(head.kind, document, length - passed);
                        continue;
                    };
                    let mut payload = AlignedBuffer::with_length(length);
                    let taken = payload.fill(&self.buffered);
                    self.buffered.advance(taken);
                    self.stage = Stage::Payload(head.kind, document, payload, counted);
                }
                Stage::Payload(kind, document, payload, _counted) if payload.missing() == 0 => {
                    let payload = payload.freeze();
                    return Ok(Some(Frame { kind, document, payload, is_without_payload: false }));
                }
                Stage::Passing(kind, document, 0) => {
                    let payload = Bytes::new();
                    return Ok(Some(Frame { kind, document, payload, is_without_payload: true }));
                }
                unfinished @ (Stage::Payload(..) | Stage::Passing(..)) => {
                    self.stage = unfinished;
                    return Ok(None);
                }
            }
        }
    }
}

/// The fault of a frame that no peer would take. It must not be written: the peer would give up the whole stream,
/// and with it every other call there.
pub(crate) fn oversize(frame: &EncodedFrame, limits: &Limits) -> Option<Fault> {
    let head = frame.start.first_chunk::<FRAME_HEAD_BYTES>()?;
    let refusal = FrameHead::decode(head, limits).err()?;
    Some(Fault::new(FaultCode::LimitExceeded, format!("{refusal} between members")))
}

/// Writes frames in order: small pieces together, large ones uncopied.
///
/// Not cancel-safe: dropped in the middle, the stream must be reset.
pub(crate) async fn write_frames(
    stream: &mut SendStream,
    frames: impl Iterator<Item = EncodedFrame>,
) -> Result<(), WriteError> {
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut gathered = BytesMut::new();
    for frame in frames {
        for piece in std::iter::once(frame.start).chain(frame.payload) {
            if piece.len() <= GATHER_BYTES_MAX {
                gathered.extend_from_slice(&piece);
            } else {
                if !gathered.is_empty() {
                    chunks.push(gathered.split().freeze());
                }
                chunks.push(piece);
            }
        }
    }
    if chunks.is_empty() {
        return stream.write_all(&gathered).await;
    }
    if !gathered.is_empty() {
        chunks.push(gathered.freeze());
    }
    stream.write_all_chunks(&mut chunks).await
}
