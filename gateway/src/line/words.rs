//! Words of our own where there is no HTTP machinery to write them.

use bytes::Bytes;
use http::StatusCode;

use crate::{errors::Refusal, head::new_request_id};

/// The answer in the place of hyper's empty one; `None` when `written` is nothing of that kind.
pub(super) fn own_words(written: &[u8]) -> Option<Bytes> {
    let status = written.strip_prefix(b"HTTP/1.1 4").or_else(|| written.strip_prefix(b"HTTP/1.0 4"))?;
    if !written.ends_with(b"\r\n\r\n") {
        return None;
    }
    let (status, text) = match status.get(..2)? {
        b"31" => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head of the request is too large: at most 64 headers and 32 KiB are allowed",
        ),
        b"14" => (StatusCode::URI_TOO_LONG, "the path of the request is too long"),
        b"00" => (
            StatusCode::BAD_REQUEST,
            "the head of the request is not valid HTTP/1.1: check its first line, its headers and its \
             Content-Length",
        ),
        _ => return None,
    };
    Some(plain_response(&Refusal::new(status, "INVALID_REQUEST", text)))
}

/// A whole response that closes its connection, for when there is no HTTP machinery to write it.
pub(crate) fn plain_response(refusal: &Refusal) -> Bytes {
    let id = new_request_id();
    let id = id.to_str().unwrap_or_default();
    let body = String::from_utf8(refusal.body(id)).unwrap_or_default();
    let status = refusal.status;
    let reason = status.canonical_reason().unwrap_or_default();
    let retry = refusal.retry_after_seconds().map(|s| format!("retry-after: {s}\r\n")).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {code} {reason}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n{retry}x-request-id: {id}\r\n\r\n{body}",
        code = status.as_u16(),
        length = body.len(),
    );
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_refusal_is_given_other_words() {
        let refused =
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let words = own_words(refused).expect("a refusal");
        let text = std::str::from_utf8(&words).expect("text");
        assert!(text.starts_with("HTTP/1.1 431 ") && text.contains("\"error\":\"the head"), "{text}");
        let length: usize = text
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next())
            .and_then(|length| length.parse().ok())
            .expect("a length");
        assert_eq!(text.split("\r\n\r\n").nth(1).map(str::len), Some(length));
        assert!(own_words(b"HTTP/1.1 200 OK\r\n\r\n").is_none());
        assert!(own_words(b"HTTP/1.1 400 Bad Request\r\n\r\n{}").is_none());
        assert!(own_words(b"").is_none());
    }
}
