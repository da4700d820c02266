//! The raw bytes behind a document: tensors one after another, each at a multiple of 64 bytes.

use bytes::{Buf as _, Bytes, BytesMut};

/// Alignment of every tensor within a payload, and of a payload in memory: a cache line, and what ONNX Runtime
/// and AVX-512 loads like best.
pub const TENSOR_ALIGN: usize = 64;

static PADDING: [u8; TENSOR_ALIGN] = [0; TENSOR_ALIGN];

/// `length` rounded up to the next tensor's place; `None` when that does not fit.
#[must_use]
pub const fn aligned_len(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(TENSOR_ALIGN)
}

/// Gathers tensors into a payload without copying them.
///
/// Padding goes between tensors, never behind the last one.
#[derive(Clone, Debug, Default)]
pub struct PayloadBuilder {
    chunks: Vec<Bytes>,
    length: usize,
}

impl PayloadBuilder {
    /// An empty payload.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one tensor, padded to its place.
    pub fn push(&mut self, tensor: Bytes) {
        self.push_pieces([tensor]);
    }

    /// Appends one tensor that lies in several pieces: the length of a BYTES element can so be put before it without
    /// copying it.
    pub fn push_pieces(&mut self, pieces: impl IntoIterator<Item = Bytes>) {
        let padding = self.length.next_multiple_of(TENSOR_ALIGN) - self.length;
        if 0 < padding {
            self.chunks.push(Bytes::from_static(&PADDING[..padding]));
        }
        self.length += padding;
        for piece in pieces {
            self.length += piece.len();
            if !piece.is_empty() {
                self.chunks.push(piece);
            }
        }
    }

    /// Length of all chunks, in bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// The chunks in order.
    #[must_use]
    pub fn into_chunks(self) -> Vec<Bytes> {
        self.chunks
    }
}

/// A buffer for a payload that is being received: its first byte lies at a multiple of [`TENSOR_ALIGN`].
///
/// Memory is reserved at once but touched only as bytes arrive, so a peer that announces much and sends nothing
/// costs address space and no memory.
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: BytesMut,
    wanted: usize,
}

impl AlignedBuffer {
    /// A buffer for `length` bytes. The caller has checked `length` against its limits.
    #[must_use]
    pub fn with_length(length: usize) -> Self {
        if length == 0 {
            return Self { bytes: BytesMut::new(), wanted: 0 }; // Most messages have no tensors.
        }
        let mut bytes = BytesMut::with_capacity(length + TENSOR_ALIGN - 1);
        let skipped = bytes.as_ptr().align_offset(TENSOR_ALIGN);
        bytes.resize(skipped, 0);
        bytes.advance(skipped);
        Self { bytes, wanted: length }
    }

    /// How many bytes are still missing.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.wanted - self.bytes.len()
    }

    /// Appends what fits of `chunk` and gives back how much that was.
    pub fn fill(&mut self, chunk: &[u8]) -> usize {
        let taken = chunk.len().min(self.missing());
        self.bytes.extend_from_slice(&chunk[..taken]);
        taken
    }

    /// The received bytes.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        self.bytes.freeze()
    }

    /// A copy of `bytes` that lies aligned.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Bytes {
        let mut buffer = Self::with_length(bytes.len());
        buffer.fill(bytes);
        buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_starts_on_a_cache_line() {
        let mut payload = PayloadBuilder::new();
        payload.push(Bytes::from_static(b"four"));
        payload.push(Bytes::from_static(&[7; 64]));
        payload.push(Bytes::new());
        assert_eq!(payload.length(), 128);
        let flat: Vec<u8> = payload.into_chunks().concat();
        assert_eq!((&flat[..4], flat[63], flat[64], flat[127]), (&b"four"[..], 0, 7, 7));
    }

    #[test]
    fn a_tensor_in_pieces_is_the_same_as_one_in_one_piece() {
        let (mut whole, mut pieces) = (PayloadBuilder::new(), PayloadBuilder::new());
        for tensor in [&b"four"[..], b"", b"a longer one"] {
            whole.push(Bytes::copy_from_slice(tensor));
            let (head, tail) = tensor.split_at(tensor.len() / 3);
            pieces.push_pieces([head, tail].map(Bytes::copy_from_slice));
        }
        assert_eq!(pieces.length(), whole.length());
        assert_eq!(pieces.into_chunks().concat(), whole.into_chunks().concat());
    }

    #[test]
    fn a_received_payload_lies_aligned_and_takes_no_more_than_it_should() {
        for length in [0, 1, 63, 64, 65, 100_000] {
            let mut buffer = AlignedBuffer::with_length(length);
            assert_eq!(buffer.fill(&vec![9; length + 5]), length);
            assert_eq!(buffer.missing(), 0);
            let bytes = buffer.freeze();
            assert!(bytes.is_empty() || bytes.as_ptr().align_offset(TENSOR_ALIGN) == 0);
            assert_eq!(bytes.len(), length);
        }
    }
}
