//! Packs the body of an answer while it is written.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use http::header;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};

use super::{Accepts, Encoding, VARY};
use crate::{
    answer::Answer,
    body::{BodyError, OutBody, Pieces, Reserved, Room},
};

/// Shortest body that is packed, in bytes: a shorter one fits into one packet either way.
const PACKED_BYTES_MIN: u64 = 1 << 10;

/// What is packed in one go, in bytes: about a millisecond's worth. Other connections have their turn after it.
const STEP_BYTES: usize = 64 << 10;

/// What packing itself holds, in bytes: the tables of deflate, and two steps that are not written yet.
const PACKER_BYTES: usize = 512 << 10;

/// The same answer, packed if its client likes that, it is worth it, and there is room.
pub(crate) fn pack(mut answer: Answer, accepts: Accepts, room: &Arc<Room>) -> Answer {
    let OutBody::Pieces(pieces) = &answer.body else { return answer };
    if !answer.compress || (pieces.left() < PACKED_BYTES_MIN && !accepts.only_packed) {
        return answer;
    }
    answer.headers.push(VARY);
    let Some(encoding) = accepts.best else { return answer };
    // Without room the answer goes out as it is: it is there already.
    let Ok(own) = room.reserve(PACKER_BYTES) else { return answer };
    answer.headers.push((header::CONTENT_ENCODING, encoding.value()));
    if let OutBody::Pieces(pieces) = std::mem::replace(&mut answer.body, Pieces::default().into()) {
        answer.body = OutBody::Stream(Packer::new(encoding, pieces, own).boxed_unsync());
    }
    answer
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
}

/// A body that is packed while it is asked for.
struct Packer {
    /// Gone when the end is packed.
    encoder: Option<Encoder>,
    pieces: Pieces,
    /// What is left of the present piece.
    piece: Bytes,
    /// Whether it is the others' turn.
    rests: bool,
    _own: Reserved,
}

impl Packer {
    fn new(encoding: Encoding, pieces: Pieces, own: Reserved) -> Self {
        let encoder = match encoding {
            Encoding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Encoding::Deflate => Encoder::Deflate(ZlibEncoder::new(Vec::new(), Compression::fast())),
        };
        Self { encoder: Some(encoder), pieces, piece: Bytes::new(), rests: false, _own: own }
    }

    /// The next bytes; none when they are still within the encoder.
    fn step(&mut self) -> io::Result<Option<Bytes>> {
        let Some(encoder) = &mut self.encoder else { return Ok(None) };
        if self.piece.is_empty() {
            self.piece = self.pieces.next().unwrap_or_default();
        }
        let step = self.piece.split_to(self.piece.len().min(STEP_BYTES));
        if step.is_empty() {
            let rest = match self.encoder.take() {
                Some(Encoder::Gzip(gzip)) => gzip.finish()?,
                Some(Encoder::Deflate(zlib)) => zlib.finish()?,
                None => Vec::new(),
            };
            return Ok(Some(rest.into()));
        }
        let packed = match encoder {
            Encoder::Gzip(gzip) => {
                gzip.write_all(&step)?;
                gzip.get_mut()
            }
            Encoder::Deflate(zlib) => {
                zlib.write_all(&step)?;
                zlib.get_mut()
            }
        };
        Ok(Some(std::mem::take(packed).into()))
    }
}

impl Body for Packer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if std::mem::take(&mut self.rests) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.step() {
            Ok(None) => Poll::Ready(None),
            Ok(Some(packed)) => {
                self.rests = self.encoder.is_some();
                if packed.is_empty() {
                    return self.poll_frame(cx);
                }
                Poll::Ready(Some(Ok(Frame::data(packed))))
            }
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::{GzDecoder, ZlibDecoder};
    use http::StatusCode;

    use super::*;

    fn answer(bytes: &[u8], room: &Arc<Room>) -> Answer {
        let (json, tensor) = bytes.split_at(bytes.len() / 2);
        let pieces = Pieces::new(Bytes::copy_from_slice(json), vec![Bytes::copy_from_slice(tensor)]);
        let pieces = pieces.holding(room.reserve(bytes.len()).unwrap());
        Answer { compress: true, ..Answer::new(StatusCode::OK, "application/json", pieces) }
    }

    fn takes(best: Encoding) -> Accepts {
        Accepts { best: Some(best), only_packed: false }
    }

    fn header<'a>(answer: &'a Answer, name: &header::HeaderName) -> Option<&'a str> {
        answer.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn a_long_answer_is_packed_and_keeps_its_room_until_it_is_written() {
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(|i| (i / 5).to_le_bytes()).collect();
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let room = Room::new(2 << 20);
            let answer = pack(answer(&bytes, &room), takes(encoding), &room);
            assert_eq!(header(&answer, &header::VARY), Some("accept-encoding"));
            assert!(header(&answer, &header::CONTENT_ENCODING).is_some());
            assert_eq!(answer.body.size_hint().exact(), None);
            assert!(room.reserve(1 << 20).is_err());
            let packed = answer.body.collect().await.unwrap().to_bytes();
            assert!(packed.len() < bytes.len() / 2);
            let mut unpacked = Vec::new();
            match encoding {
                Encoding::Gzip => GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap(),
                Encoding::Deflate => ZlibDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap(),
            };
            assert!(unpacked == bytes);
            assert!(room.reserve(2 << 20).is_ok());
        }
    }

    #[test]
    fn an_answer_goes_out_as_it_is_when_it_is_short_unwanted_or_there_is_no_room() {
        let room = Room::new(1 << 20);
        let long = vec![0; 2 << 10];
        for (bytes, accepts, vary) in [
            (&long[..1023], takes(Encoding::Gzip), None),
            (&long, Accepts::default(), Some("accept-encoding")),
        ] {
            let answer = pack(answer(bytes, &room), accepts, &room);
            assert_eq!(header(&answer, &header::CONTENT_ENCODING), None);
            assert_eq!(header(&answer, &header::VARY), vary);
            assert_eq!(answer.body.size_hint().exact(), Some(bytes.len() as u64));
        }
        let other = Answer { compress: false, ..answer(&long, &room) };
        assert!(pack(other, takes(Encoding::Gzip), &room).headers.is_empty());
        let full = Room::new(PACKER_BYTES);
        let answer_ = pack(answer(&long, &full), takes(Encoding::Gzip), &full);
        assert_eq!(header(&answer_, &header::CONTENT_ENCODING), None);
        let only = Accepts { best: Some(Encoding::Gzip), only_packed: true };
        let short = pack(answer(&long[..10], &room), only, &room);
        assert_eq!(header(&short, &header::CONTENT_ENCODING), Some("gzip"));
    }
}
