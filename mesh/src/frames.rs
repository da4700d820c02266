//! Frames on quinn's streams.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use lineside_wire::{
    AlignedBuffer, EncodedFrame, FRAME_HEAD_BYTES, Fault, FaultCode, FrameHead, FrameKind, InvalidFrame,
    Limits,
};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

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
    buffered: BytesMut,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head,
    Document(FrameHead),
    Payload(FrameKind, Bytes, AlignedBuffer),
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, limits: Limits, progress: Duration) -> Self {
        Self { stream, limits, progress, buffered: BytesMut::new(), stage: Stage::Head }
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
        if let Stage::Payload(_, _, payload) = &mut self.stage {
            bytes.advance(payload.fill(bytes));
        }
        self.buffered.extend_from_slice(bytes);
    }

    /// Advances through the stages as far as the buffered bytes go.
    fn take(&mut self) -> Result<Option<Frame>, FrameError> {
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
                    let mut payload = AlignedBuffer::with_length(head.payload_length as usize);
                    let taken = payload.fill(&self.buffered);
                    self.buffered.advance(taken);
                    self.stage = Stage::Payload(head.kind, document, payload);
                }
                Stage::Payload(kind, document, payload) => {
                    if payload.missing() == 0 {
                        return Ok(Some(Frame { kind, document, payload: payload.freeze() }));
                    }
                    self.stage = Stage::Payload(kind, document, payload);
                    return Ok(None);
                }
            }
        }
    }
}

/// The fault of a frame that no peer would take. It must not be written: the peer would give up the whole stream,
/// and with it every other call there.
pub(crate) fn oversize(frame: &EncodedFrame, limits: &Limits) -> Option<Fault> {
    let document = frame.start.len() - FRAME_HEAD_BYTES;
    let payload = frame.len() - frame.start.len();
    let rows =
        [("document", document, limits.document_bytes_max), ("payload", payload, limits.payload_bytes_max)];
    let (part, length, max) = rows.into_iter().find(|(_, length, max)| (*max as usize) < *length)?;
    let text = format!("a {part} of {length} bytes: at most {max} are allowed between members");
    Some(Fault::new(FaultCode::LimitExceeded, text))
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
