//! The head of a frame: twelve bytes that say how much follows.
//!
//! ```text
//! byte  0        1      2..4         4..8               8..12
//!      | version | kind | 0 (later) | document length | payload length |      all little-endian
//! ```

/// Bytes of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 12;

/// The version of the frames, the first byte of every head.
const VERSION: u8 = 1;

/// What the document behind a head is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A call that wants an answer.
    Request = 1,
    /// A call that wants none.
    Notification = 2,
    /// The answer to a request; for a streamed result, its end.
    Response = 3,
    /// The typed error that answers a request.
    Error = 4,
    /// One numbered part of a streamed result.
    Item = 5,
    /// An array of requests and notifications, each answered by itself.
    Batch = 6,
}

impl FrameKind {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Notification),
            3 => Some(Self::Response),
            4 => Some(Self::Error),
            5 => Some(Self::Item),
            6 => Some(Self::Batch),
            _ => None,
        }
    }
}

/// What a receiver takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest document of a request, in bytes: of whatever a peer sends unasked. Holds names, shapes and parameters,
    /// never tensor data.
    pub document_bytes_max: u32,
    /// Longest document of an answer, in bytes: of a response or an item, which only a peer sends that was called. Holds
    /// the models of all members.
    pub answer_bytes_max: u32,
    /// Longest payload, in bytes. Worst-case memory is this times the calls in flight.
    pub payload_bytes_max: u32,
}

impl Default for Limits {
    /// 64 KiB of document (a model with 256 named inputs fits twice), 2 MiB of an answer's (256 members with ten models
    /// each fit twice) and 64 MiB of tensors (Triton's own default for a request).
    fn default() -> Self {
        Self { document_bytes_max: 64 << 10, answer_bytes_max: 2 << 20, payload_bytes_max: 64 << 20 }
    }
}

impl Limits {
    /// The limits of a side that is called and asks nothing itself: what looks like an answer is then no longer than a
    /// request.
    #[must_use]
    pub const fn without_answers(self) -> Self {
        Self { answer_bytes_max: self.document_bytes_max, ..self }
    }

    const fn document_bytes_max_of(&self, kind: FrameKind) -> u32 {
        match kind {
            FrameKind::Response | FrameKind::Item => self.answer_bytes_max,
            FrameKind::Request | FrameKind::Notification | FrameKind::Error | FrameKind::Batch => {
                self.document_bytes_max
            }
        }
    }
}

/// Why twelve bytes are no head. The stream cannot be read further: its frames' borders are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    /// The first byte is no version that we know.
    #[error("frame version {0} is not supported: this side speaks version {VERSION}")]
    UnknownVersion(u8),
    /// The second byte names no kind.
    #[error("frame kind {0} is not known")]
    UnknownKind(u8),
    /// Reserved bytes that are not zero.
    #[error("the reserved bytes of a frame head must be zero")]
    ReservedBytes,
    /// The document is too long.
    #[error("a document of {length} bytes: at most {max} are allowed")]
    DocumentTooLong {
        /// Bytes announced.
        length: u32,
        /// Bytes allowed.
        max: u32,
    },
    /// The payload is too long.
    #[error("a payload of {length} bytes: at most {max} are allowed")]
    PayloadTooLong {
        /// Bytes announced.
        length: u32,
        /// Bytes allowed.
        max: u32,
    },
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What the document is.
    pub kind: FrameKind,
    /// Length of the MessagePack document, in bytes.
    pub document_length: u32,
    /// Length of the tensor bytes behind it.
    pub payload_length: u32,
}

impl FrameHead {
    /// The head as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_HEAD_BYTES] {
        let mut bytes = [0; FRAME_HEAD_BYTES];
        bytes[0] = VERSION;
        bytes[1] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.document_length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.payload_length.to_le_bytes());
        bytes
    }

    /// Reads a head and checks both lengths, before any memory is taken for them.
    ///
    /// # Errors
    /// An unknown version or kind, or a length past its limit.
    pub fn decode(bytes: &[u8; FRAME_HEAD_BYTES], limits: &Limits) -> Result<Self, InvalidFrame> {
        let [version, kind, r0, r1, d0, d1, d2, d3, p0, p1, p2, p3] = *bytes;
        if version != VERSION {
            return Err(InvalidFrame::UnknownVersion(version));
        }
        let kind = FrameKind::from_number(kind).ok_or(InvalidFrame::UnknownKind(kind))?;
        if (r0, r1) != (0, 0) {
            return Err(InvalidFrame::ReservedBytes);
        }
        let document_length = u32::from_le_bytes([d0, d1, d2, d3]);
        let payload_length = u32::from_le_bytes([p0, p1, p2, p3]);
        let max = limits.document_bytes_max_of(kind);
        if max < document_length {
            return Err(InvalidFrame::DocumentTooLong { length: document_length, max });
        }
        if limits.payload_bytes_max < payload_length {
            return Err(InvalidFrame::PayloadTooLong {
                length: payload_length,
                max: limits.payload_bytes_max,
            });
        }
        Ok(Self { kind, document_length, payload_length })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = FrameKind> {
        (1_u8..=6).prop_map(|number| FrameKind::from_number(number).expect("1 to 6 are kinds"))
    }

    proptest! {
        #[test]
        fn a_head_comes_back_as_it_went(kind in kinds(), document_length in 0..=65_536_u32, payload_length in 0..=(64_u32 << 20)) {
            let head = FrameHead { kind, document_length, payload_length };
            prop_assert_eq!(FrameHead::decode(&head.encode(), &Limits::default()), Ok(head));
        }

        #[test]
        fn arbitrary_heads_never_pass_a_limit(bytes in any::<[u8; FRAME_HEAD_BYTES]>()) {
            let limits = Limits { document_bytes_max: 1000, answer_bytes_max: 3000, payload_bytes_max: 2000 };
            if let Ok(head) = FrameHead::decode(&bytes, &limits) {
                prop_assert!(head.document_length <= 3000 && head.payload_length <= 2000);
            }
            if let Ok(head) = FrameHead::decode(&bytes, &limits.without_answers()) {
                prop_assert!(head.document_length <= 1000);
            }
        }
    }

    #[test]
    fn only_what_answers_a_call_may_be_as_long_as_an_answer() {
        let limits = Limits::default();
        let taken = |kind, document_length, limits: &Limits| {
            FrameHead::decode(&FrameHead { kind, document_length, payload_length: 0 }.encode(), limits)
                .is_ok()
        };
        for number in 1..=6 {
            let kind = FrameKind::from_number(number).expect("1 to 6 are kinds");
            let answers = matches!(kind, FrameKind::Response | FrameKind::Item);
            let max = if answers { limits.answer_bytes_max } else { limits.document_bytes_max };
            assert!(taken(kind, max, &limits) && !taken(kind, max + 1, &limits), "{kind:?}");
            let called = limits.without_answers();
            assert!(!taken(kind, limits.document_bytes_max + 1, &called), "{kind:?}");
        }
    }

    #[test]
    fn each_broken_head_says_what_is_wrong() {
        let good = FrameHead { kind: FrameKind::Request, document_length: 5, payload_length: 0 }.encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            FrameHead::decode(&bytes, &Limits::default())
        };
        assert_eq!(with(0, 9), Err(InvalidFrame::UnknownVersion(9)));
        assert_eq!(with(1, 0), Err(InvalidFrame::UnknownKind(0)));
        assert_eq!(with(2, 1), Err(InvalidFrame::ReservedBytes));
        assert!(matches!(with(7, 1), Err(InvalidFrame::DocumentTooLong { .. })));
        assert!(matches!(with(11, 255), Err(InvalidFrame::PayloadTooLong { .. })));
    }
}
