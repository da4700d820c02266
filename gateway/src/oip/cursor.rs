//! A walk over JSON, value by value: whoever walks decides who reads the next one.
//!
//! Values that are not large are read by `serde_json`, which also decides whether they are JSON.

use lineside_wire::Fault;
use serde::Deserialize;
use serde_json::de::SliceRead;

use super::{excerpt, invalid};
use crate::bounded::Text;

/// A place in a text that is to be JSON.
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    /// What is said of the text where it is wrong.
    what: &'static str,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(text: &'a [u8], what: &'static str) -> Self {
        Self { text, at: 0, what }
    }

    /// The next byte that is no space; the walk stops before it.
    pub(super) fn next(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// All that lies ahead.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// Goes on behind so many bytes, which somebody else has read.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Reads the next value.
    ///
    /// # Errors
    /// It is no JSON, or not of that type.
    pub(super) fn value<T: Deserialize<'a>>(&mut self) -> Result<T, Fault> {
        self.next();
        let text = self.rest();
        let mut values = serde_json::StreamDeserializer::<SliceRead<'a>, T>::new(SliceRead::new(text));
        match values.next() {
            Some(Ok(value)) => {
                self.at += values.byte_offset();
                Ok(value)
            }
            Some(Err(error)) => Err(self.refused(&error)),
            None => Err(self.ended()),
        }
    }

    /// Reads an object. `member` is called with each name, before its value, which it reads.
    ///
    /// # Errors
    /// It is no object; or those of `member`.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.open(b'{', "an object, {...}")?;
        if self.closed(b'}') {
            return Ok(());
        }
        loop {
            match self.next() {
                Some(b'"') => {}
                Some(_) => return Err(self.expected("a name in quotes")),
                None => return Err(self.ended()),
            }
            let name = self.value::<Text<'a>>()?.0;
            self.open(b':', "a colon")?;
            member(self, &name)?;
            if self.closed(b'}') {
                return Ok(());
            }
            self.open(b',', "a comma or }")?;
        }
    }

    /// Reads an array. `entry` is called before each value, which it reads.
    ///
    /// # Errors
    /// It is no array; or those of `entry`.
    pub(super) fn array(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.open(b'[', "an array, [...]")?;
        if self.closed(b']') {
            return Ok(());
        }
        loop {
            entry(self)?;
            if self.closed(b']') {
                return Ok(());
            }
            self.open(b',', "a comma or ]")?;
        }
    }

    /// Makes sure that nothing follows.
    ///
    /// # Errors
    /// Something does.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(self.wrong(&format!("trailing characters behind the JSON, at byte {}", self.at))),
        }
    }

    fn open(&mut self, byte: u8, what: &str) -> Result<(), Fault> {
        match self.next() {
            Some(there) if there == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.expected(what)),
            None => Err(self.ended()),
        }
    }

    fn closed(&mut self, byte: u8) -> bool {
        let closed = self.next() == Some(byte);
        self.at += usize::from(closed);
        closed
    }

    fn expected(&self, what: &str) -> Fault {
        match self.rest() {
            [0xef, 0xbb, 0xbf, ..] if self.at == 0 => {
                self.wrong("it begins with a byte order mark: send JSON as UTF-8 without one")
            }
            _ => self.wrong(&format!("expected {what} at byte {}", self.at)),
        }
    }

    fn ended(&self) -> Fault {
        self.wrong(&format!("EOF: the JSON ends too early, at byte {}", self.text.len()))
    }

    /// The words of the parser, which counts from the value's start.
    fn refused(&self, error: &serde_json::Error) -> Fault {
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        // The parser repeats a text of the wrong type in full.
        self.wrong(&format!("{}, in the value at byte {}", excerpt(text), self.at))
    }

    /// A fault of the text.
    pub(super) fn wrong(&self, problem: &str) -> Fault {
        invalid(format!("{}: {problem}", self.what))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;
    use serde_json::value::RawValue;

    use super::*;

    /// Walks over an object of arrays.
    fn walk(text: &str) -> Result<Vec<String>, String> {
        let mut cursor = Cursor::new(text.as_bytes(), "no JSON");
        let mut seen = Vec::new();
        let walked = cursor.object(|cursor, name| {
            cursor.array(|cursor| {
                let raw: &RawValue = cursor.value()?;
                seen.push(format!("{name}={raw}"));
                Ok(())
            })
        });
        walked.and_then(|()| cursor.end()).map_err(|fault| fault.message)?;
        Ok(seen)
    }

    #[test]
    fn every_value_is_met_in_its_order() {
        assert_eq!(
            walk(r#" { "a" : [ 1 , {"x":[2]} ] , "\u0062":[],"c":["]"]} "#),
            Ok(vec!["a=1".to_owned(), r#"a={"x":[2]}"#.to_owned(), r#"c="]""#.to_owned(),])
        );
        assert_eq!(walk("{}"), Ok(vec![]));
    }

    #[test]
    fn whatever_is_no_json_is_an_error_at_its_place() {
        for (text, expected) in [
            ("", "EOF"),
            ("[]", "expected an object, {...} at byte 0"),
            ("{\"a\"", "EOF"),
            ("{\"a\":", "EOF"),
            ("{\"a\":1}", "expected an array, [...] at byte 5"),
            ("{\"a\":[}", "expected value"),
            ("{\"a\":[1 2]}", "expected a comma or ] at byte 8"),
            ("{\"a\":[1,]}", "expected value"),
            ("{\"a\":[1],}", "expected a name in quotes at byte 9"),
            ("{a:[1]}", "expected a name in quotes at byte 1"),
            ("{\"a\":[1]", "EOF"),
            ("{\"a\":[1]} x", "trailing characters"),
            ("{\"a\":[tru]}", "expected ident"),
            ("{\"a\":[1x]}", "trailing characters"),
            ("{\"\\ud800\":[1]}", "in the value at byte 1"),
        ] {
            let problem = walk(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn depth_takes_no_stack() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(Cursor::new(deep.as_bytes(), "no JSON").value::<IgnoredAny>().is_ok());
    }
}
