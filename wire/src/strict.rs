//! The strict reading of MessagePack: one walk over a document before anything is decoded or allocated.
//!
//! Accepts exactly what JSON-RPC's objects need: nil, booleans, numbers, UTF-8 text, byte strings, arrays and
//! maps with distinct text keys, nested at most [`DEPTH_MAX`] deep, and nothing behind the document. After it, a
//! typed decoder meets no surprise: no deep recursion, no length that the bytes do not back, no key twice.

use rmp::Marker;

/// Deepest nesting of a document. Our own need 6; stack use stays in hundreds of bytes.
pub const DEPTH_MAX: usize = 16;

/// Most entries of one map. The keys of open maps are remembered, so this and [`DEPTH_MAX`] bound that memory: 192 KiB.
pub const MAP_ENTRIES_MAX: usize = 512;

/// Why bytes are no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// The bytes end within a value.
    #[error("the document ends within a value at byte {at}")]
    Truncated {
        /// Where the missing byte should be.
        at: usize,
    },
    /// Bytes follow the document.
    #[error("{count} bytes follow the document")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// Nested too deep.
    #[error("nested deeper than {DEPTH_MAX} levels at byte {at}")]
    TooDeep {
        /// Where the level too many begins.
        at: usize,
    },
    /// A map key occurs twice.
    #[error("a map has the same key twice at byte {at}")]
    DuplicateKey {
        /// Where the second one stands.
        at: usize,
    },
    /// A map key is no text.
    #[error("a map key that is no text at byte {at}")]
    KeyNotText {
        /// Where it stands.
        at: usize,
    },
    /// A map with too many entries.
    #[error("a map of more than {MAP_ENTRIES_MAX} entries at byte {at}")]
    TooManyEntries {
        /// Where the map begins.
        at: usize,
    },
    /// A marker that our documents never hold: 0xc1 or an extension type.
    #[error("byte {marker:#04x} at {at} begins no value that is allowed here")]
    ForbiddenMarker {
        /// The byte.
        marker: u8,
        /// Where it stands.
        at: usize,
    },
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Where the text begins.
        at: usize,
    },
    /// The document is something other than what its place wants.
    #[error("{expected} was expected at byte {at}")]
    Unexpected {
        /// What belongs there.
        expected: &'static str,
        /// Where.
        at: usize,
    },
}

/// Walks over `bytes` and checks that they are exactly one value.
pub(crate) fn check(bytes: &[u8]) -> Result<(), InvalidDocument> {
    let mut walk = Walk::over(bytes);
    walk.value(0)?;
    walk.end()
}

/// The members of a map that is the whole of `bytes`, each value as its own bytes. All of it is checked.
pub(crate) fn members(bytes: &[u8]) -> Result<Vec<(&str, &[u8])>, InvalidDocument> {
    let mut walk = Walk::over(bytes);
    let Opened::Map(count) = walk.open()? else {
        return Err(InvalidDocument::Unexpected { expected: "a map", at: 0 });
    };
    // No message has more than five members; a longer list is taken as it comes.
    let mut members = Vec::with_capacity(count.min(COMPARED_MAX));
    walk.map(count, 0, |key, value| members.push((key, value)))?;
    walk.end()?;
    Ok(members)
}

/// The elements of an array that is the whole of `bytes`, each as its own bytes. All of it is checked.
pub(crate) fn elements(bytes: &[u8], count_max: usize) -> Result<Vec<&[u8]>, InvalidDocument> {
    let mut walk = Walk::over(bytes);
    let Opened::Array(count) = walk.open()? else {
        return Err(InvalidDocument::Unexpected { expected: "an array", at: 0 });
    };
    if count_max < count {
        return Err(InvalidDocument::TooManyEntries { at: 0 });
    }
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        let start = walk.at;
        walk.value(1)?;
        elements.push(&bytes[start..walk.at]);
    }
    walk.end()?;
    Ok(elements)
}

/// What a marker opens: the lengths behind it are read, the contents not yet.
enum Opened {
    Scalar,
    Text(usize),
    Blob(usize),
    Array(usize),
    Map(usize),
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The keys of the maps that are open, each with its place; those of the innermost map are last.
    keys: Vec<(&'a str, usize)>,
}

impl<'a> Walk<'a> {
    fn over(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, keys: Vec::with_capacity(2 * COMPARED_MAX) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], InvalidDocument> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or(InvalidDocument::Truncated { at: self.bytes.len() })?;
        self.at += count;
        Ok(taken)
    }

    /// A big-endian length of `width` bytes.
    fn length(&mut self, width: usize) -> Result<usize, InvalidDocument> {
        Ok(self.take(width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    fn open(&mut self) -> Result<Opened, InvalidDocument> {
        let at = self.at;
        let marker = self.take(1)?[0];
        Ok(match Marker::from_u8(marker) {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
                Opened::Scalar
            }
            Marker::U8 | Marker::I8 => self.take(1).map(|_| Opened::Scalar)?,
            Marker::U16 | Marker::I16 => self.take(2).map(|_| Opened::Scalar)?,
            Marker::U32 | Marker::I32 | Marker::F32 => self.take(4).map(|_| Opened::Scalar)?,
            Marker::U64 | Marker::I64 | Marker::F64 => self.take(8).map(|_| Opened::Scalar)?,
            Marker::FixStr(length) => Opened::Text(usize::from(length)),
            Marker::Str8 => Opened::Text(self.length(1)?),
            Marker::Str16 => Opened::Text(self.length(2)?),
            Marker::Str32 => Opened::Text(self.length(4)?),
            Marker::Bin8 => Opened::Blob(self.length(1)?),
            Marker::Bin16 => Opened::Blob(self.length(2)?),
            Marker::Bin32 => Opened::Blob(self.length(4)?),
            Marker::FixArray(count) => Opened::Array(usize::from(count)),
            Marker::Array16 => Opened::Array(self.length(2)?),
            Marker::Array32 => Opened::Array(self.length(4)?),
            Marker::FixMap(count) => Opened::Map(usize::from(count)),
            Marker::Map16 => Opened::Map(self.length(2)?),
            Marker::Map32 => Opened::Map(self.length(4)?),
            _ => return Err(InvalidDocument::ForbiddenMarker { marker, at }),
        })
    }

    fn text(&mut self, length: usize) -> Result<&'a str, InvalidDocument> {
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| InvalidDocument::NotUtf8 { at })
    }

    /// Passes over a text. Nearly all are short and plain, which is seen sooner than UTF-8 is checked.
    fn skip_text(&mut self, length: usize) -> Result<(), InvalidDocument> {
        let at = self.at;
        let bytes = self.take(length)?;
        if !bytes.is_ascii() && std::str::from_utf8(bytes).is_err() {
            return Err(InvalidDocument::NotUtf8 { at });
        }
        Ok(())
    }

    /// Walks over one value that stands `depth` levels deep.
    fn value(&mut self, depth: usize) -> Result<(), InvalidDocument> {
        let at = self.at;
        match self.open()? {
            Opened::Scalar => Ok(()),
            Opened::Text(length) => self.skip_text(length),
            Opened::Blob(length) => self.take(length).map(drop),
            Opened::Array(_) | Opened::Map(_) if DEPTH_MAX <= depth => Err(InvalidDocument::TooDeep { at }),
            Opened::Array(count) => (0..count).try_for_each(|_| self.value(depth + 1)),
            Opened::Map(count) => self.map(count, depth, |_, _| ()),
        }
    }

    /// Walks over the entries of a map, which stands `depth` levels deep, and shows each to `see`.
    fn map(
        &mut self,
        count: usize,
        depth: usize,
        mut see: impl FnMut(&'a str, &'a [u8]),
    ) -> Result<(), InvalidDocument> {
        if MAP_ENTRIES_MAX < count {
            return Err(InvalidDocument::TooManyEntries { at: self.at });
        }
        let outer = self.keys.len();
        for _ in 0..count {
            let at = self.at;
            let key = self.key()?;
            self.keys.push((key, at));
            let start = self.at;
            self.value(depth + 1)?;
            see(key, &self.bytes[start..self.at]);
        }
        let repeated = first_repeated(&mut self.keys[outer..]);
        self.keys.truncate(outer);
        repeated.map_or(Ok(()), |at| Err(InvalidDocument::DuplicateKey { at }))
    }

    fn key(&mut self) -> Result<&'a str, InvalidDocument> {
        let at = self.at;
        match self.open()? {
            Opened::Text(length) => self.text(length),
            _ => Err(InvalidDocument::KeyNotText { at }),
        }
    }

    fn end(&self) -> Result<(), InvalidDocument> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            count => Err(InvalidDocument::TrailingBytes { count }),
        }
    }
}

/// Up to so many keys are compared each with each, which is cheaper than sorting them.
const COMPARED_MAX: usize = 8;

/// Where the first key stands that occurred before.
///
/// Sorted rather than compared each with each: a document of nested maps must not cost more than its bytes do.
fn first_repeated(keys: &mut [(&str, usize)]) -> Option<usize> {
    if keys.len() <= COMPARED_MAX {
        let repeats = |at: &usize| keys[..*at].iter().any(|(key, _)| *key == keys[*at].0);
        return (1..keys.len()).find(repeats).map(|at| keys[at].1);
    }
    keys.sort_unstable();
    keys.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hundred_thousand_levels_are_refused_at_the_seventeenth() {
        let bomb = vec![0x91; 100_000];
        assert_eq!(check(&bomb), Err(InvalidDocument::TooDeep { at: DEPTH_MAX }));
        let mut deep = vec![0x91; DEPTH_MAX];
        deep.push(0xc0);
        assert_eq!(check(&deep), Ok(()));
    }

    #[test]
    fn a_length_without_its_bytes_is_an_error_and_no_allocation() {
        assert!(matches!(check(&[0xdd, 0xff, 0xff, 0xff, 0xff]), Err(InvalidDocument::Truncated { .. })));
        assert!(matches!(check(&[0xc6, 0xff, 0xff, 0xff, 0xff]), Err(InvalidDocument::Truncated { .. })));
        assert!(matches!(
            check(&[0xdf, 0xff, 0xff, 0xff, 0xff]),
            Err(InvalidDocument::TooManyEntries { .. })
        ));
    }

    #[test]
    fn each_broken_document_says_what_is_wrong() {
        assert_eq!(check(&[0xc0, 0xc0]), Err(InvalidDocument::TrailingBytes { count: 1 }));
        assert_eq!(check(&[0xc1]), Err(InvalidDocument::ForbiddenMarker { marker: 0xc1, at: 0 }));
        assert_eq!(check(&[0xd4, 1, 2]), Err(InvalidDocument::ForbiddenMarker { marker: 0xd4, at: 0 }));
        assert_eq!(check(b"\x82\xa1a\x01\xa1a\x02"), Err(InvalidDocument::DuplicateKey { at: 4 }));
        assert_eq!(check(b"\x82\xa1a\x92\x01\xa1x\xa1a\x02"), Err(InvalidDocument::DuplicateKey { at: 7 }));
        assert_eq!(check(b"\x81\x01\x02"), Err(InvalidDocument::KeyNotText { at: 1 }));
        assert_eq!(check(b"\xa1\xff"), Err(InvalidDocument::NotUtf8 { at: 1 }));
        assert_eq!(check(b""), Err(InvalidDocument::Truncated { at: 0 }));
        assert!(matches!(members(b"\x90"), Err(InvalidDocument::Unexpected { .. })));
    }

    #[test]
    fn of_several_repeated_keys_the_first_is_named() {
        let document = b"\x85\xa1b\xc0\xa1a\xc0\xa1b\xc0\xa1a\xc0\xa1b\xc0";
        assert_eq!(check(document), Err(InvalidDocument::DuplicateKey { at: 7 }));
        // The same key in a map within is another key.
        assert_eq!(check(b"\x82\xa1a\x81\xa1a\xc0\xa1b\x81\xa1a\xc0"), Ok(()));
    }

    #[test]
    fn full_maps_within_each_other_are_walked_once() {
        // Walked again for every key, this would take seconds. Sixteen maps, each the first value of the one around it, and in the innermost as many numbers as fit.
        let mut document = Vec::new();
        for _ in 0..DEPTH_MAX - 1 {
            document.extend_from_slice(b"\xde\x02\x00\xa20x");
        }
        document.extend_from_slice(b"\xdc\x75\x30");
        document.extend(std::iter::repeat_n(0, 30_000));
        for _ in 0..DEPTH_MAX - 1 {
            for number in 1..512_u16 {
                document.push(0xa2);
                document.extend([b'0' + (number % 64) as u8, b'0' + (number / 64) as u8, 0xc0]);
            }
        }
        assert!(document.len() < 64 << 10, "{} bytes fit no frame", document.len());
        assert_eq!(check(&document), Ok(()));
    }

    #[test]
    fn members_are_the_bytes_of_their_values() {
        let document = b"\x82\xa2id\x07\xa6method\xa5infer";
        assert_eq!(members(document).unwrap(), [("id", &b"\x07"[..]), ("method", &b"\xa5infer"[..])]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _checked = (check(&bytes), members(&bytes), elements(&bytes, 8));
        }
    }
}
