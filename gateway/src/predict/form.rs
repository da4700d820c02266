//! Forms with files: the parts of a `multipart/form-data` body (RFC 7578), as slices of it. Pure.
//!
//! The body is all there when it is read, so that nothing has to be fed or copied.

use bytes::Bytes;
use memchr::memmem::Finder;

/// Most parts of a form: an image and its parameters are three.
const PARTS_MAX: usize = 16;

/// Longest head of a part, in bytes: two headers, with a long file name.
const PART_HEAD_BYTES_MAX: usize = 4 << 10;

/// Longest boundary, in bytes, as RFC 2046 has it.
const BOUNDARY_BYTES_MAX: usize = 70;

/// One part of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    /// Whether it came with a file name.
    pub(super) is_file: bool,
    pub(super) bytes: Bytes,
}

/// Why a body is no form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BrokenForm {
    #[error("its Content-Type names no boundary of 1 to {BOUNDARY_BYTES_MAX} characters")]
    NoBoundary,
    #[error("it does not hold the boundary that its Content-Type names")]
    NoParts,
    #[error("it ends within a part: the boundary with -- behind it is missing at the end")]
    Unended,
    #[error("a part has a head that does not end within {PART_HEAD_BYTES_MAX} bytes")]
    LongHead,
    #[error("a part has no Content-Disposition: form-data with a name")]
    NoName,
    #[error("it has more than {PARTS_MAX} parts")]
    TooManyParts,
}

/// The boundary in a Content-Type.
///
/// # Errors
/// There is none that could be one.
pub(super) fn boundary(content_type: &str) -> Result<String, BrokenForm> {
    let boundary = parameters(content_type).find_map(|(name, value)| (name == "boundary").then_some(value));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    boundary
        .filter(|text| !text.is_empty() && text.len() <= BOUNDARY_BYTES_MAX && text.bytes().all(allowed))
        .ok_or(BrokenForm::NoBoundary)
}

/// The parts of a form, in their order.
///
/// # Errors
/// The body is not whole, or not a form.
pub(super) fn parts(body: &Bytes, boundary: &str) -> Result<Vec<Part>, BrokenForm> {
    let delimiter = format!("\r\n--{boundary}");
    let finder = Finder::new(&delimiter);
    // The line before the first boundary may be missing.
    let first = match body.starts_with(&delimiter.as_bytes()[2..]) {
        true => line(body, delimiter.len() - 2).map(|line| (0, line)),
        false => next(body, 0, &finder),
    };
    let mut parts = Vec::new();
    let (_, mut line) = first.ok_or(BrokenForm::NoParts)?;
    while let Line::Goes { on } = line {
        if parts.len() == PARTS_MAX {
            return Err(BrokenForm::TooManyParts);
        }
        let (start, disposition) = head(body, on)?;
        // A part without a body may end where its head does.
        let (end, after) = next(body, start.saturating_sub(2).max(on), &finder).ok_or(BrokenForm::Unended)?;
        let (name, is_file) = disposition.ok_or(BrokenForm::NoName)?;
        parts.push(Part { name, is_file, bytes: body.slice(start.min(end)..end) });
        line = after;
    }
    Ok(parts)
}

/// How a boundary's line goes on.
#[derive(Clone, Copy)]
enum Line {
    /// To the part that begins here.
    Goes { on: usize },
    /// It was the last.
    Ends,
}

/// The next boundary from `at`: where it begins, and how its line goes on. What only begins like one is content.
fn next(body: &[u8], at: usize, finder: &Finder<'_>) -> Option<(usize, Line)> {
    finder.find_iter(&body[at..]).find_map(|found| {
        let start = at + found;
        line(body, start + finder.needle().len()).map(|line| (start, line))
    })
}

/// How the line goes on whose boundary ends at `at`.
fn line(body: &[u8], at: usize) -> Option<Line> {
    let rest = &body[at..];
    if rest.starts_with(b"--") {
        return Some(Line::Ends);
    }
    let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    rest[padding..].starts_with(b"\r\n").then_some(Line::Goes { on: at + padding + 2 })
}

/// A part's name, and whether it is a file.
type Disposition = (String, bool);

/// Reads the head that begins at `at`: where the part's bytes begin, and what it says.
fn head(body: &[u8], at: usize) -> Result<(usize, Option<Disposition>), BrokenForm> {
    let mut disposition = None;
    let mut start = at;
    loop {
        let window = &body[start..body.len().min(at + PART_HEAD_BYTES_MAX)];
        let Some(end) = memchr::memmem::find(window, b"\r\n") else {
            let is_short = body.len() < at + PART_HEAD_BYTES_MAX;
            return Err(if is_short { BrokenForm::Unended } else { BrokenForm::LongHead });
        };
        let line = String::from_utf8_lossy(&window[..end]);
        start += end + 2;
        if line.is_empty() {
            return Ok((start, disposition));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-disposition")
        {
            disposition = named(value);
        }
    }
}

fn named(value: &str) -> Option<Disposition> {
    let kind = value.split(';').next()?.trim();
    let (mut name, mut is_file) = (None, false);
    for (parameter, value) in parameters(value) {
        match parameter.as_str() {
            "name" => name = Some(value),
            "filename" | "filename*" => is_file = true,
            _ => {}
        }
    }
    name.filter(|_| kind.eq_ignore_ascii_case("form-data")).map(|name| (name, is_file))
}

/// The parameters behind a header's value: names in small letters, quotes taken off.
fn parameters(header: &str) -> impl Iterator<Item = (String, String)> {
    let mut rest = header.find(';').map_or("", |at| &header[at..]);
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start_matches([';', ' ', '\t']);
            if rest.is_empty() {
                return None;
            }
            let end = rest.find([';', '=']).unwrap_or(rest.len());
            let name = rest[..end].trim().to_ascii_lowercase();
            rest = &rest[end..];
            let Some(value) = rest.strip_prefix('=') else { continue };
            let (value, after) = value_of(value.trim_start());
            rest = after;
            return Some((name, value));
        }
    })
}

/// A value, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find(';').unwrap_or(text.len()));
        return (value.trim().to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    // The quotes never close: nothing follows.
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(parts: &[Part], boundary: &str) -> Bytes {
        let mut body = Vec::new();
        for part in parts {
            let name = part.name.replace('\\', "\\\\").replace('"', "\\\"");
            let file = if part.is_file { "; filename=\"a;b.jpg\"" } else { "" };
            body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
            body.extend_from_slice(b"Content-Type: image/jpeg\r\n");
            let head = format!("content-disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(&part.bytes);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        body.into()
    }

    fn a_part() -> impl Strategy<Value = Part> {
        // Bytes that look like the ends of lines and boundaries more often than chance would have it.
        let bytes = prop::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'x'), any::<u8>()],
            0..60,
        );
        ("[a-z \"\\\\;=]{1,8}", any::<bool>(), bytes).prop_map(|(name, is_file, bytes)| Part {
            name,
            is_file,
            bytes: bytes.into(),
        })
    }

    proptest! {
        #[test]
        fn parts_come_back_as_they_went(all in prop::collection::vec(a_part(), 1..6)) {
            let boundary = "xx0123456789";
            let body = written(&all, boundary);
            prop_assert_eq!(parts(&body, boundary), Ok(all));
        }

        #[test]
        fn a_form_that_broke_off_is_never_taken_for_whole(all in prop::collection::vec(a_part(), 1..3), cut in 3_usize..200) {
            let body = written(&all, "xx0123456789");
            let left = body.len().saturating_sub(cut);
            prop_assert!(parts(&body.slice(..left), "xx0123456789").is_err());
        }

        #[test]
        fn nothing_makes_it_panic(body in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'x'), any::<u8>()], 0..80), header in "\\PC{0,60}") {
            drop(parts(&body.into(), "x"));
            drop(boundary(&header));
        }
    }

    #[test]
    fn parts_are_slices_of_the_body() {
        let part = Part { name: "image".into(), is_file: true, bytes: Bytes::from_static(b"JPEG") };
        let body = written(&[part], "b");
        let found = parts(&body, "b").unwrap();
        assert!(body.as_ptr_range().contains(&found[0].bytes.as_ptr()));
    }

    #[test]
    fn a_boundary_is_found_however_it_is_written() {
        for content_type in [
            "multipart/form-data; boundary=a-b_c",
            "multipart/form-data;charset=utf-8;Boundary=\"a-b_c\"",
            "multipart/form-data; x; boundary = a-b_c ; y=z",
        ] {
            assert_eq!(boundary(content_type).as_deref(), Ok("a-b_c"), "{content_type}");
        }
        let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        for content_type in
            ["multipart/form-data", "multipart/form-data; boundary=", "x; boundary=\"a\nb\"", &long]
        {
            assert_eq!(boundary(content_type), Err(BrokenForm::NoBoundary), "{content_type}");
        }
    }

    #[test]
    fn what_comes_before_and_after_is_passed_over_and_what_is_missing_is_named() {
        let form = |text: &'static str| parts(&Bytes::from_static(text.as_bytes()), "b");
        let head = "\r\nContent-Disposition: form-data; name=n\r\n\r\n";
        let part = Part { name: "n".into(), is_file: false, bytes: Bytes::from_static(b"1") };
        let whole = format!("preamble\r\n--b \t{head}1\r\n--b--\r\nepilogue\r\n--b{head}2\r\n--b--");
        assert_eq!(parts(&whole.into(), "b"), Ok(vec![part]));
        let empty = format!("--b{head}\r\n--b--");
        assert_eq!(parts(&empty.into(), "b").unwrap()[0].bytes, "");
        assert_eq!(form("--b--"), Ok(vec![]));
        assert_eq!(form(""), Err(BrokenForm::NoParts));
        assert_eq!(form("--bb\r\n\r\n\r\n--bb--"), Err(BrokenForm::NoParts));
        assert_eq!(form("--b\r\nContent-Disposition: form"), Err(BrokenForm::Unended));
        assert_eq!(form("--b\r\nContent-Type: text/plain\r\n\r\n1\r\n--b--"), Err(BrokenForm::NoName));
        assert_eq!(
            form("--b\r\nContent-Disposition: attachment; name=n\r\n\r\n1\r\n--b--"),
            Err(BrokenForm::NoName)
        );
        let long = format!("--b\r\nX: {}\r\n\r\n1\r\n--b--", "x".repeat(5_000));
        assert_eq!(parts(&long.into(), "b"), Err(BrokenForm::LongHead));
        let many = format!("--b{head}1\r\n").repeat(17) + "--b--";
        assert_eq!(parts(&many.into(), "b"), Err(BrokenForm::TooManyParts));
    }
}
