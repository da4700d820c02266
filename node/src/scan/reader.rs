//! Protobuf's wire format, field by field, out of a stream.
//!
//! Holds one chunk of the file, however large that is, and hashes each as it comes. A field that is longer than what
//! contains it, a number without an end and nesting without an end are errors before anything is made of them.

use std::io::{self, Read};

use crate::digest::Sha256;

/// What is read at once: few system calls, and no page that a small board would miss.
const CHUNK_BYTES: usize = 64 << 10;

/// Deepest nesting of messages: where protobuf's own readers stop.
const DEPTH_MAX: u32 = 100;

/// Longest number on the wire, in bytes.
const VARINT_BYTES_MAX: u32 = 10;

/// Why a file is read no further.
#[derive(Debug)]
pub(super) enum Stop {
    /// The system.
    Read(io::Error),
    /// The bytes are no protobuf, or no model.
    Form(String),
    /// A rule was broken.
    Rule(String),
}

/// Where a message ends, and how deep it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    end: u64,
    depth: u32,
}

/// A field's value. What lies in a span has not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// A whole number or an enumeration.
    Number(u64),
    /// Four or eight bytes: a float, which nothing here looks at.
    Fixed,
    /// A text, bytes, a message or packed numbers.
    Span(Span),
}

/// A file that is read once, from its beginning to its end.
pub(super) struct Reader<R> {
    from: R,
    chunk: Box<[u8]>,
    /// What of the chunk is read, and what is filled.
    at: usize,
    filled: usize,
    /// Of the next byte in the file.
    position: u64,
    hash: Sha256,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R) -> Self {
        let chunk = vec![0; CHUNK_BYTES].into_boxed_slice();
        Self { from, chunk, at: 0, filled: 0, position: 0, hash: Sha256::new() }
    }

    /// A message of so many bytes that begins here and lies in no other.
    pub(super) fn whole(&self, bytes: u64) -> Span {
        Span { end: self.position + bytes, depth: 0 }
    }

    /// The hash of everything that was read.
    pub(super) fn hash(self) -> String {
        self.hash.finish()
    }

    /// The next field of a message: its number and value; `None` at the message's end.
    ///
    /// Every [`Value::Span`] must be read to its end, or be [passed](Self::pass), before the next field.
    pub(super) fn field(&mut self, message: Span) -> Result<Option<(u32, Value)>, Stop> {
        if DEPTH_MAX < message.depth {
            return Err(self.wrong(&format!("messages lie in each other {DEPTH_MAX} deep")));
        }
        if self.position == message.end {
            return Ok(None);
        }
        let key = self.varint(message.end)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number != 0 && key <= u64::from(u32::MAX));
        let number = number.ok_or_else(|| self.wrong("a field has no number"))?;
        let value = match key & 7 {
            0 => Value::Number(self.varint(message.end)?),
            1 => self.fixed(8, message)?,
            2 => Value::Span(self.span(message)?),
            5 => self.fixed(4, message)?,
            _ => return Err(self.wrong("a field is of a kind that ONNX does not use")),
        };
        Ok(Some((number, value)))
    }

    /// Passes over what nobody wants.
    pub(super) fn pass(&mut self, value: Value) -> Result<(), Stop> {
        match value {
            Value::Number(_) | Value::Fixed => Ok(()),
            Value::Span(span) => self.chunks(span, |_| {}),
        }
    }

    /// The bytes of a field, at most so many.
    pub(super) fn bytes(&mut self, span: Span, max: usize, what: &str) -> Result<Vec<u8>, Stop> {
        let length = self.length(span);
        match usize::try_from(length).ok().filter(|length| *length <= max) {
            None => Err(Stop::Rule(format!("{what} has {length} bytes: at most {max} are taken"))),
            Some(length) => {
                let mut bytes = Vec::with_capacity(length);
                self.chunks(span, |chunk| bytes.extend_from_slice(chunk))?;
                Ok(bytes)
            }
        }
    }

    /// The text of a field.
    pub(super) fn text(&mut self, span: Span, max: usize, what: &str) -> Result<String, Stop> {
        let bytes = self.bytes(span, max, what)?;
        String::from_utf8(bytes).map_err(|_| self.wrong(&format!("{what} is not UTF-8")))
    }

    /// The first bytes of a field, which is passed over.
    pub(super) fn head(&mut self, span: Span, max: usize) -> Result<Vec<u8>, Stop> {
        let mut head = Vec::new();
        self.chunks(span, |chunk| {
            let wanted = (max - head.len()).min(chunk.len());
            head.extend_from_slice(&chunk[..wanted]);
        })?;
        Ok(head)
    }

    /// Packed numbers: how many there are, and the first ones.
    pub(super) fn numbers(&mut self, span: Span, max: usize) -> Result<(u64, Vec<i64>), Stop> {
        let (mut count, mut first) = (0, Vec::new());
        while self.position < span.end && first.len() < max {
            first.push(self.varint(span.end)?.cast_signed());
            count += 1;
        }
        // The last byte of a number is the one below 128.
        self.chunks(span, |chunk| count += chunk.iter().filter(|byte| **byte < 0x80).count() as u64)?;
        Ok((count, first))
    }

    /// How many bytes of a field are unread.
    pub(super) fn length(&self, span: Span) -> u64 {
        span.end.saturating_sub(self.position)
    }

    fn chunks(&mut self, span: Span, mut each: impl FnMut(&[u8])) -> Result<(), Stop> {
        while self.position < span.end {
            if self.at == self.filled {
                self.fill()?;
            }
            let wanted = usize::try_from(span.end - self.position).unwrap_or(usize::MAX);
            let end = self.at + wanted.min(self.filled - self.at);
            each(&self.chunk[self.at..end]);
            self.position += (end - self.at) as u64;
            self.at = end;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Stop> {
        let read = loop {
            match self.from.read(&mut self.chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(Stop::Read)?,
            }
        };
        if read == 0 {
            return Err(self.wrong("the file ends in the middle of a field"));
        }
        self.hash.update(&self.chunk[..read]);
        (self.at, self.filled) = (0, read);
        Ok(())
    }

    fn byte(&mut self, end: u64) -> Result<u8, Stop> {
        if end <= self.position {
            return Err(self.wrong("a number is longer than what contains it"));
        }
        if self.at == self.filled {
            self.fill()?;
        }
        let byte = self.chunk[self.at];
        self.at += 1;
        self.position += 1;
        Ok(byte)
    }

    fn varint(&mut self, end: u64) -> Result<u64, Stop> {
        let mut number = 0;
        for at in 0..VARINT_BYTES_MAX {
            let byte = self.byte(end)?;
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(self.wrong("a number does not end"))
    }

    fn fixed(&mut self, bytes: u32, within: Span) -> Result<Value, Stop> {
        (0..bytes).try_for_each(|_| self.byte(within.end).map(drop))?;
        Ok(Value::Fixed)
    }

    fn span(&mut self, within: Span) -> Result<Span, Stop> {
        let length = self.varint(within.end)?;
        let end = self.position.checked_add(length).filter(|end| *end <= within.end);
        let end = end.ok_or_else(|| self.wrong("a field is longer than what contains it"))?;
        Ok(Span { end, depth: within.depth + 1 })
    }

    fn wrong(&self, what: &str) -> Stop {
        Stop::Form(format!("{what} (at byte {})", self.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<u32>, String> {
        let mut reader = Reader::new(bytes);
        let whole = reader.whole(bytes.len() as u64);
        let mut numbers = Vec::new();
        let mut next = || -> Result<Option<u32>, Stop> {
            let Some((number, value)) = reader.field(whole)? else { return Ok(None) };
            reader.pass(value)?;
            Ok(Some(number))
        };
        loop {
            match next() {
                Ok(None) => return Ok(numbers),
                Ok(Some(number)) => numbers.push(number),
                Err(stop) => return Err(format!("{stop:?}")),
            }
        }
    }

    #[test]
    fn every_kind_of_field_is_read_and_passed() {
        let fixed = [[0x19].as_slice(), &[7; 8], &[0x25], &[7; 4]].concat();
        let fields = fields(&[&[0x08, 0x96, 0x01, 0x12, 2, 1, 2], fixed.as_slice()].concat());
        assert_eq!(fields.unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn what_does_not_fit_is_an_error_before_it_is_read() {
        for (bytes, words) in [
            (&[0x12, 3, 1, 2][..], "longer than what contains it"),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "longer than what"),
            (&[0x08], "longer than what contains it"),
            (&[0x0b, 0x0c], "of a kind"),
            (&[0x00, 0x01], "no number"),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "does not end"),
            (&[0x19, 1, 2, 3], "longer than what"),
        ] {
            let told = fields(bytes).unwrap_err();
            assert!(told.contains(words), "{bytes:02x?}: {told}");
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_it_was_is_an_error() {
        let mut reader = Reader::new(&[0x12, 3, 1][..]);
        let whole = reader.whole(5);
        let (_, value) = reader.field(whole).unwrap().unwrap();
        assert!(matches!(reader.pass(value), Err(Stop::Form(text)) if text.contains("middle of a field")));
    }

    #[test]
    fn long_fields_are_read_in_pieces_and_hashed_whole() {
        let bytes = [[0x12, 0x80, 0x80, 0x10].as_slice(), &vec![0x81; 1 << 18]].concat();
        let mut reader = Reader::new(bytes.as_slice());
        let whole = reader.whole(bytes.len() as u64);
        let (_, Value::Span(span)) = reader.field(whole).unwrap().unwrap() else { panic!("no span") };
        assert_eq!(reader.head(span, 3).unwrap(), [0x81; 3]);
        assert!(reader.field(whole).unwrap().is_none());
        assert_eq!(reader.hash(), Sha256::of(&bytes));
    }
}
