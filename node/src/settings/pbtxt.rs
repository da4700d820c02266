//! Reads protobuf's text format, as far as a `config.pbtxt` goes.
//!
//! [`parse`] knows the grammar alone: fields, messages in braces, lists, texts, numbers, words. What the fields mean is
//! [`triton`]'s. Every field keeps its line, because whoever wrote it is told where a mistake is. Nothing in a file can
//! make it panic or nest without end.

mod triton;

use std::fmt;

pub(super) use triton::{Config, read};

/// Deepest nesting of messages; Triton's own schema has five.
const DEPTH_MAX: usize = 16;

/// What is wrong in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    /// The field; empty where there is none.
    pub(super) field: String,
    pub(super) reason: String,
}

impl Mistake {
    fn new(line: usize, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { line, field: field.into(), reason: reason.into() }
    }
}

/// One field. A list is several fields of one name.
#[derive(Clone, Debug, PartialEq)]
struct Field {
    name: String,
    line: usize,
    value: Value,
}

/// What a field is set to.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    /// `true`, `KIND_CPU`, `inf`.
    Word(String),
    Integer(i64),
    Number(f64),
    Message(Vec<Field>),
}

/// As in "... but a text stands here".
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("a text in quotes"),
            Self::Word(word) => f.write_str(word),
            Self::Integer(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Message(_) => f.write_str("a part in braces"),
        }
    }
}

/// The fields of a file.
fn parse(text: &str) -> Result<Vec<Field>, Mistake> {
    let mut parser = Parser { rest: text, line: 1 };
    let fields = parser.fields(None, 0)?;
    Ok(fields)
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Parser<'a> {
    /// Fields up to `end`; without one, up to the end of the file.
    fn fields(&mut self, end: Option<char>, depth: usize) -> Result<Vec<Field>, Mistake> {
        if DEPTH_MAX < depth {
            return Err(self.wrong("", format!("parts lie in parts more than {DEPTH_MAX} deep")));
        }
        let begun = self.line;
        let mut fields = Vec::new();
        loop {
            self.skip();
            match (self.peek(), end) {
                (None, None) => return Ok(fields),
                (None, Some(end)) => {
                    return Err(
                        self.wrong("", format!("the part that begins in line {begun} lacks its {end:?}"))
                    );
                }
                (found, Some(_)) if found == end => {
                    self.next();
                    return Ok(fields);
                }
                (Some(_), _) => self.field(&mut fields, depth)?,
            }
        }
    }

    /// A field, or the several that a list is.
    fn field(&mut self, fields: &mut Vec<Field>, depth: usize) -> Result<(), Mistake> {
        let name = match self.peek() {
            Some(c) if is_word(c) && !c.is_ascii_digit() => self.word(),
            Some('[') => return Err(self.wrong("", "extensions in brackets are not read")),
            Some(c) => return Err(self.wrong("", format!("a field's name was expected, not {c:?}"))),
            None => return Err(self.wrong("", "a field's name was expected")),
        };
        self.skip();
        let has_colon = self.take(':');
        self.skip();
        let mut values = Vec::new();
        if self.take('[') {
            self.list(&name, depth, &mut values)?;
        } else {
            if !has_colon && !matches!(self.peek(), Some('{' | '<')) {
                return Err(self.wrong(&name, "':' or '{' was expected behind the name"));
            }
            let line = self.line;
            values.push((line, self.value(&name, depth)?));
        }
        fields.extend(values.into_iter().map(|(line, value)| Field { name: name.clone(), line, value }));
        self.skip();
        // Fields may be set apart, and most are not.
        if !self.take(',') {
            self.take(';');
        }
        Ok(())
    }

    fn list(&mut self, name: &str, depth: usize, values: &mut Vec<(usize, Value)>) -> Result<(), Mistake> {
        self.skip();
        if self.take(']') {
            return Ok(());
        }
        loop {
            self.skip();
            let line = self.line;
            values.push((line, self.value(name, depth)?));
            self.skip();
            if self.take(']') {
                return Ok(());
            }
            if !self.take(',') {
                return Err(self.wrong(name, "',' or ']' was expected in the list"));
            }
        }
    }

    fn value(&mut self, name: &str, depth: usize) -> Result<Value, Mistake> {
        match self.peek() {
            Some('{') => {
                self.next();
                self.fields(Some('}'), depth + 1).map(Value::Message)
            }
            Some('<') => {
                self.next();
                self.fields(Some('>'), depth + 1).map(Value::Message)
            }
            Some('"' | '\'') => self.text(name).map(Value::Text),
            Some(c) if c.is_ascii_digit() || c == '.' || c == '-' || c == '+' => self.number(name),
            Some(c) if is_word(c) => Ok(Value::Word(self.word())),
            Some(c) => Err(self.wrong(name, format!("a value was expected, not {c:?}"))),
            None => Err(self.wrong(name, "the file ends before the value")),
        }
    }

    fn number(&mut self, name: &str) -> Result<Value, Mistake> {
        let negative = self.take('-');
        if negative {
            self.skip();
        }
        let end = self
            .rest
            .find(|c: char| !(is_word(c) || matches!(c, '.' | '+' | '-')))
            .unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        let sign = if negative { "-" } else { "" };
        let integer = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hexadecimal) => i64::from_str_radix(&format!("{sign}{hexadecimal}"), 16).ok(),
            None if 1 < digits.len()
                && digits.starts_with('0')
                && digits.bytes().all(|b| b.is_ascii_digit()) =>
            {
                i64::from_str_radix(&format!("{sign}{digits}"), 8).ok()
            }
            None => format!("{sign}{digits}").parse().ok(),
        };
        if let Some(integer) = integer {
            return Ok(Value::Integer(integer));
        }
        let float = format!("{sign}{}", digits.trim_end_matches(['f', 'F'])).parse::<f64>();
        float
            .map(Value::Number)
            .map_err(|_| self.wrong(name, format!("{sign}{} is no number", short(digits))))
    }

    /// One or several texts in quotes, which are one.
    fn text(&mut self, name: &str) -> Result<String, Mistake> {
        let mut bytes = Vec::new();
        while let Some(quote @ ('"' | '\'')) = self.peek() {
            self.next();
            self.quoted(name, quote, &mut bytes)?;
            self.skip();
        }
        String::from_utf8(bytes).map_err(|_| self.wrong(name, "the text is not UTF-8"))
    }

    fn quoted(&mut self, name: &str, quote: char, bytes: &mut Vec<u8>) -> Result<(), Mistake> {
        loop {
            // Told before it is taken: the line is the text's own.
            if matches!(self.peek(), None | Some('\n')) {
                return Err(self.wrong(name, format!("the text lacks its closing {quote}")));
            }
            match self.next() {
                Some(c) if c == quote => return Ok(()),
                Some('\\') => self.escape(name, bytes)?,
                Some(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                None => {}
            }
        }
    }

    fn escape(&mut self, name: &str, bytes: &mut Vec<u8>) -> Result<(), Mistake> {
        let simple = match self.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('a') => 7,
            Some('b') => 8,
            Some('f') => 12,
            Some('v') => 11,
            Some(c @ ('\\' | '\'' | '"' | '?')) => c as u8,
            Some('x' | 'X') => self.digits(name, 16, 2)?.to_le_bytes()[0],
            Some('u') => return self.letter(name, 4, bytes),
            Some('U') => return self.letter(name, 8, bytes),
            Some(c @ '0'..='7') => {
                let more = self.digits_upto(8, 2);
                let number = more.chars().fold(c.to_digit(8), |sum, c| Some(sum? * 8 + c.to_digit(8)?));
                match number.and_then(|number| u8::try_from(number).ok()) {
                    Some(byte) => byte,
                    None => return Err(self.wrong(name, "an escaped byte is above 255")),
                }
            }
            Some(c) => return Err(self.wrong(name, format!("there is no escape \\{c}"))),
            None => return Err(self.wrong(name, "the text lacks its closing quote")),
        };
        bytes.push(simple);
        Ok(())
    }

    fn letter(&mut self, name: &str, count: usize, bytes: &mut Vec<u8>) -> Result<(), Mistake> {
        let number = self.digits(name, 16, count)?;
        let letter = char::from_u32(number).ok_or_else(|| self.wrong(name, "an escaped letter is none"))?;
        bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes());
        Ok(())
    }

    fn digits(&mut self, name: &str, radix: u32, count: usize) -> Result<u32, Mistake> {
        let digits = self.digits_upto(radix, count);
        u32::from_str_radix(digits, radix).map_err(|_| self.wrong(name, "an escape lacks its digits"))
    }

    fn digits_upto(&mut self, radix: u32, count: usize) -> &'a str {
        let end = self.rest.chars().take(count).take_while(|c| c.is_digit(radix)).count();
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits
    }

    fn word(&mut self) -> String {
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// Leaves out spaces and comments.
    fn skip(&mut self) {
        while let Some(c) = self.peek() {
            match c {
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                _ if c.is_whitespace() || c == '\u{feff}' => drop(self.next()),
                _ => return,
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        if is_there {
            self.next();
        }
        is_there
    }

    fn wrong(&self, field: &str, reason: impl Into<String>) -> Mistake {
        Mistake::new(self.line, short(field), reason)
    }
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The beginning of a word that a message repeats.
fn short(word: &str) -> &str {
    let end = word.char_indices().nth(64).map_or(word.len(), |(at, _)| at);
    &word[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(name: &str, line: usize, value: Value) -> Field {
        Field { name: name.to_owned(), line, value }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn every_form_of_the_format_is_read() {
        let file = "# a model\nname: \"weld\" ;\nmax_batch_size: 0x10, dims: [ -1, 010 ]\nversion { level: -1.5f }\n\
                    version: < kind: KIND_CPU >\nempty: []\nlist: [ { a: 1 }, { a: 2 } ]\nsame: 'a' \"b\" # and\n";
        let fields = parse(file).unwrap();
        let part = |value, line| Value::Message(vec![field("a", line, Value::Integer(value))]);
        let expected = [
            field("name", 2, text("weld")),
            field("max_batch_size", 3, Value::Integer(16)),
            field("dims", 3, Value::Integer(-1)),
            field("dims", 3, Value::Integer(8)),
            field("version", 4, Value::Message(vec![field("level", 4, Value::Number(-1.5))])),
            field("version", 5, Value::Message(vec![field("kind", 5, Value::Word("KIND_CPU".to_owned()))])),
            field("list", 7, part(1, 7)),
            field("list", 7, part(2, 7)),
            field("same", 8, text("ab")),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn texts_have_escapes() {
        let fields = parse(r#"a: "\n\t\\\"\'\101\x41\u00e9\U0001F600é""#).unwrap();
        assert_eq!(fields[0].value, text("\n\t\\\"'AAé😀é"));
        for bad in [r#"a: "\q""#, r#"a: "\xg""#, r#"a: "\777""#, r#"a: "\ud800""#, r#"a: "\xff""#, "a: \"\\"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (file, line, reason) in [
            ("name \"weld\"", 1, "':' or '{'"),
            ("\n\nname: ", 3, "ends before the value"),
            ("a {\n b: 1\n", 3, "begins in line 1 lacks its '}'"),
            ("a: 1\n}", 2, "a field's name was expected, not '}'"),
            ("a: \"x\nb: 1", 1, "lacks its closing"),
            ("a: \"x\n", 1, "lacks its closing"),
            ("\na: 'x", 2, "lacks its closing"),
            ("a: [1 2]", 1, "',' or ']'"),
            ("a: 1x", 1, "1x is no number"),
            ("[a.b]: 1", 1, "extensions"),
            ("a: {:}", 1, "not ':'"),
        ] {
            let mistake = parse(file).unwrap_err();
            assert_eq!(mistake.line, line, "{file}: {mistake:?}");
            assert!(mistake.reason.contains(reason), "{file}: {mistake:?}");
        }
        let deep = "a {".repeat(1000);
        assert!(parse(&deep).unwrap_err().reason.contains("16 deep"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            drop(parse(&text));
            drop(read(&text, Some("weld")));
        }

        #[test]
        fn nothing_that_looks_like_a_file_makes_it_panic(
            parts in prop::collection::vec(prop::sample::select(vec![
                "name", "input", "dims", "dynamic_batching", "max_batch_size", "instance_group", "count", "kind",
                "parameters", "key", "value", "string_value", "sequence_batching", "state", "version_policy", "latest",
                "specific", "versions", "optimization", "graph", "level", "data_type", ":", "{", "}", "[", "]", ",", "\"",
                "'", "\\", "\\x4", "\\1", "-", "1", "9223372036854775807", "1e400", "TYPE_FP32", "\n", "#", " ", "é",
            ]), 0..60),
        ) {
            let text = parts.join(" ");
            drop(read(&text, Some("weld")));
            drop(read(&parts.concat(), None));
        }
    }
}
