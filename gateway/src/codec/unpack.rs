//! Unpacks the body of a request while it comes.

use std::{io::Write, sync::Arc};

use bytes::{Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status, write::GzDecoder};
use hyper::body::Incoming;
use lineside_wire::{Fault, FaultCode};
use tokio::time::Instant;

use super::Encoding;
use crate::{
    body::{BodyLimits, Reserved, Room, next, too_long},
    errors::Refusal,
};

/// What is unpacked in one go, in bytes.
const STEP_BYTES: usize = 32 << 10;

/// What is unpacked before other connections get their turn, in bytes: about a millisecond's worth.
const TURN_BYTES: usize = 8 * STEP_BYTES;

/// Most gzip files in a row: those who pack in blocks make one of every 64 KB. An empty one is twenty bytes, and costs as
/// much as a small request.
const FILES_MAX: usize = 4096;

/// What unpacking itself holds: the window of deflate, its tables, and a step.
const UNPACKER_BYTES: usize = 96 << 10;

/// Reads a whole body that is packed, as it was before.
///
/// # Errors
/// As for one that is not; and when it is not what it claims to be.
pub(crate) async fn collect(
    body: &mut Incoming,
    encoding: Encoding,
    limits: BodyLimits,
    room: &Arc<Room>,
) -> Result<(Bytes, Reserved), Refusal> {
    let _own = room.reserve(UNPACKER_BYTES)?;
    let mut reserved = room.reserve(0)?;
    let mut bytes = BytesMut::new();
    let mut unpacker = Unpacker::new(encoding);
    let mut in_turn = 0;
    let mut take = |unpacked: &[u8], reserved: &mut Reserved| {
        if limits.bytes_max < bytes.len() + unpacked.len() {
            return Err(too_long(limits.bytes_max));
        }
        reserved.grow(unpacked.len())?;
        bytes.extend_from_slice(unpacked);
        Ok(())
    };
    while let Some(piece) = next(body, limits).await? {
        let mut left = &piece[..];
        while !left.is_empty() {
            let (read, unpacked) = unpacker.step(left)?;
            left = &left[read..];
            take(unpacked, &mut reserved)?;
            in_turn += unpacked.len() + read;
            if TURN_BYTES < in_turn {
                in_turn = 0;
                tokio::task::yield_now().await;
                if limits.deadline <= Instant::now() {
                    let text = "the time for the request ran out while its body was unpacked";
                    return Err(Fault::new(FaultCode::DeadlineExceeded, text).into());
                }
            }
        }
    }
    take(unpacker.finish()?, &mut reserved)?;
    Ok((bytes.freeze(), reserved))
}

/// Why a body cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Damaged,
    CutOff,
    TooMuch,
    TooManyFiles,
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        Self::bad_request(match broken {
            Broken::Damaged => {
                "the body of the request is not packed as its Content-Encoding says, or is damaged"
            }
            Broken::CutOff => "the packed body of the request ends before its end, or is damaged",
            Broken::TooMuch => "something comes after the end of the packed body of the request",
            Broken::TooManyFiles => {
                "the packed body of the request is made of too many gzip files: pack it as one"
            }
        })
    }
}

/// Takes packed bytes in pieces of any size, and gives out what they were, a step at a time. Pure.
struct Unpacker {
    form: Form,
    step: Vec<u8>,
}

enum Form {
    /// Boxed: its state is large.
    Gzip {
        decoder: Box<GzDecoder<Vec<u8>>>,
        fed: bool,
        /// Those that were whole before this one.
        files: usize,
    },
    /// Deflate of which too little has come to say whether it has zlib's head: its first byte, once there.
    Undecided(Option<u8>),
    Deflate {
        decoder: Decompress,
        ended: bool,
    },
}

impl Unpacker {
    fn new(encoding: Encoding) -> Self {
        let form = match encoding {
            Encoding::Gzip => {
                Form::Gzip { decoder: Box::new(GzDecoder::new(Vec::new())), fed: false, files: 0 }
            }
            Encoding::Deflate => Form::Undecided(None),
        };
        Self { form, step: vec![0; STEP_BYTES] }
    }

    /// Takes some of `packed`, which is not empty, and gives how much it took and what came of it: at most about two
    /// steps. Of several gzip files in a row each is unpacked, as gzip does it.
    fn step(&mut self, packed: &[u8]) -> Result<(usize, &[u8]), Broken> {
        if let Form::Undecided(first) = &mut self.form {
            let Some(first) = *first else {
                *first = packed.first().copied();
                return Ok((1, &[]));
            };
            let mut decoder = Decompress::new(packed.first().is_some_and(|second| is_zlib(first, *second)));
            let fed = decoder.decompress(&[first], &mut self.step, FlushDecompress::None);
            // One byte is never a whole stream, and makes nothing.
            fed.map_err(|_| Broken::Damaged)?;
            if decoder.total_in() != 1 || decoder.total_out() != 0 {
                return Err(Broken::Damaged);
            }
            self.form = Form::Deflate { decoder, ended: false };
        }
        match &mut self.form {
            Form::Undecided(_) => Err(Broken::Damaged),
            Form::Gzip { decoder, fed, files } => {
                *fed = true;
                decoder.get_mut().clear();
                let mut read = decoder.write(packed).map_err(|_| Broken::Damaged)?;
                if read == 0 {
                    // The file is whole. What follows must be another one.
                    *files += 1;
                    if FILES_MAX <= *files {
                        return Err(Broken::TooManyFiles);
                    }
                    decoder.try_finish().map_err(|_| Broken::Damaged)?;
                    self.step.clear();
                    self.step.append(decoder.get_mut());
                    **decoder = GzDecoder::new(Vec::new());
                    read = decoder.write(packed).map_err(|_| Broken::TooMuch)?;
                    return Ok((read, &self.step));
                }
                Ok((read, decoder.get_ref()))
            }
            Form::Deflate { ended: true, .. } => Err(Broken::TooMuch),
            Form::Deflate { decoder, ended } => {
                let (read, made) = (decoder.total_in(), decoder.total_out());
                let status = decoder.decompress(packed, &mut self.step, FlushDecompress::None);
                let status = status.map_err(|_| Broken::Damaged)?;
                *ended = status == Status::StreamEnd;
                let (read, made) = (decoder.total_in() - read, decoder.total_out() - made);
                if read == 0 && made == 0 && !*ended {
                    return Err(Broken::Damaged);
                }
                // Both are at most the length of a slice.
                Ok((read as usize, &self.step[..made as usize]))
            }
        }
    }

    /// The end of the body has come: gives what was still to come out.
    fn finish(&mut self) -> Result<&[u8], Broken> {
        match &mut self.form {
            // Nothing at all is what many clients send where there is nothing to say.
            Form::Gzip { fed: false, .. } | Form::Undecided(None) => Ok(&[]),
            Form::Gzip { decoder, .. } => {
                decoder.get_mut().clear();
                decoder.try_finish().map_err(|_| Broken::CutOff)?;
                Ok(decoder.get_ref())
            }
            Form::Undecided(Some(_)) => Err(Broken::CutOff),
            Form::Deflate { decoder, ended } => {
                let made = decoder.total_out();
                while !*ended {
                    let before = decoder.total_out();
                    let step = self.step.get_mut((before - made) as usize..).unwrap_or_default();
                    let status = decoder.decompress(&[], step, FlushDecompress::Finish);
                    *ended = matches!(status, Ok(Status::StreamEnd));
                    if !*ended && decoder.total_out() == before {
                        return Err(Broken::CutOff);
                    }
                }
                Ok(&self.step[..(decoder.total_out() - made) as usize])
            }
        }
    }
}

/// Whether these two bytes are the head of zlib's form: method 8, a window that there is, and a check that fits. Bare
/// deflate begins so only with bits set that no encoder sets.
fn is_zlib(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && first >> 4 <= 7 && (u16::from(first) << 8 | u16::from(second)) % 31 == 0
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::{
        Compression,
        read::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use proptest::prelude::*;

    use super::*;

    /// The same bytes in each form.
    fn packed(bytes: &[u8]) -> [(Encoding, Vec<u8>); 3] {
        let (mut gzip, mut zlib, mut raw) = (Vec::new(), Vec::new(), Vec::new());
        GzEncoder::new(bytes, Compression::default()).read_to_end(&mut gzip).unwrap();
        ZlibEncoder::new(bytes, Compression::default()).read_to_end(&mut zlib).unwrap();
        DeflateEncoder::new(bytes, Compression::default()).read_to_end(&mut raw).unwrap();
        [(Encoding::Gzip, gzip), (Encoding::Deflate, zlib), (Encoding::Deflate, raw)]
    }

    fn unpack(encoding: Encoding, packed: &[u8], piece: usize) -> Result<Vec<u8>, Broken> {
        let mut unpacker = Unpacker::new(encoding);
        let mut all = Vec::new();
        for mut left in packed.chunks(piece) {
            while !left.is_empty() {
                let (read, unpacked) = unpacker.step(left)?;
                assert!(unpacked.len() <= 2 * STEP_BYTES, "a step of {}", unpacked.len());
                all.extend_from_slice(unpacked);
                left = &left[read..];
            }
        }
        all.extend_from_slice(unpacker.finish()?);
        Ok(all)
    }

    #[test]
    fn gzip_files_in_a_row_have_a_limit() {
        let [(gzip, empty), ..] = packed(b"");
        assert_eq!(unpack(gzip, &empty.repeat(FILES_MAX), 64 << 10), Ok(Vec::new()));
        assert_eq!(unpack(gzip, &empty.repeat(FILES_MAX + 1), 64 << 10), Err(Broken::TooManyFiles));
    }

    #[test]
    fn a_body_comes_out_as_it_was_however_it_is_cut() {
        let long: Vec<u8> = (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for bytes in [&b""[..], b"x", br#"{"inputs":[]}"#, &long, &vec![0; 1 << 20]] {
            for (encoding, packed) in packed(bytes) {
                for piece in [1, 2, 3, 1_000, usize::MAX] {
                    let unpacked = unpack(encoding, &packed, piece);
                    assert!(
                        unpacked.as_deref() == Ok(bytes),
                        "{encoding:?} {piece} {:?}",
                        unpacked.map(|b| b.len())
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_unpacks_to_nothing() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            assert_eq!(unpack(encoding, b"", 1), Ok(Vec::new()));
        }
    }

    #[test]
    fn several_gzip_files_are_one_body() {
        let [(encoding, one), ..] = packed(b"press ");
        assert_eq!(unpack(encoding, &one.repeat(3), 7), Ok(b"press press press ".to_vec()));
    }

    #[test]
    fn what_is_cut_off_damaged_or_too_long_is_refused() {
        let bytes: Vec<u8> = (0..40_000_u32).flat_map(|i| (i / 3).to_le_bytes()).collect();
        for (encoding, packed) in packed(&bytes) {
            for cut in [1, 2, 5, packed.len() / 2, packed.len() - 1] {
                for piece in [1, usize::MAX] {
                    assert_eq!(
                        unpack(encoding, &packed[..cut], piece),
                        Err(Broken::CutOff),
                        "{encoding:?} {cut}"
                    );
                }
            }
            for piece in [1, usize::MAX] {
                let longer = [&packed[..], b"rest"].concat();
                assert!(unpack(encoding, &longer, piece).is_err(), "{encoding:?}");
            }
        }
        for (encoding, mut packed) in packed(&bytes).into_iter().take(2) {
            // The check at the end no longer fits.
            let last = packed.len() - 6;
            packed[last] ^= 0x55;
            assert!(unpack(encoding, &packed, 100).is_err(), "{encoding:?}");
        }
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            assert!(unpack(encoding, br#"{"inputs":[]}"#, usize::MAX).is_err(), "{encoding:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_go_on_for_ever(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            piece in 1_usize..20,
            zlib in any::<bool>(),
        ) {
            drop(unpack(Encoding::Gzip, &bytes, piece));
            drop(unpack(Encoding::Gzip, &[&[0x1f, 0x8b, 8, 0][..], &bytes].concat(), piece));
            let head: &[u8] = if zlib { &[0x78, 0x9c] } else { &[] };
            drop(unpack(Encoding::Deflate, &[head, &bytes].concat(), piece));
        }
    }
}
