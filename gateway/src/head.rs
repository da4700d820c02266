//! The head of a request: is it one, whose is it, how long may it take. Pure.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request::Parts, uri::Authority};

use crate::{errors::Refusal, line::Line};

/// Names one request, in the answer, the log and an error's body.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Milliseconds that the client gives the request.
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// Whose requests these are, for the limits.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Bytes of JSON before the binary tensors.
pub(crate) const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// The trace that a request belongs to, as W3C Trace Context has it.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The key whose requests go to one node while that has room.
const AFFINITY: HeaderName = HeaderName::from_static("x-lineside-affinity");

/// Longest key of an affinity, in bytes: the name of a part, a machine or a session. It goes with every try to the node.
pub(crate) const AFFINITY_BYTES_MAX: usize = 128;

/// Longest id that a client may give its request: longer than any in use, shorter than a log line.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Checks what the parser lets through although it can be read in two ways, by us and by a proxy before us.
///
/// # Errors
/// The connection must close: nobody knows where the next request begins.
pub(crate) fn check(head: &Parts, line: &Line) -> Result<(), Refusal> {
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        check_transfer_encoding(head, line)?;
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next(), head.version) {
        (Some(host), None, _) => host,
        // HTTP/2 has `:authority` in its place, which was read as part of the URI.
        (None, _, Version::HTTP_2)
            if head.uri.authority().is_some_and(|host| !host.as_str().contains('@')) =>
        {
            return Ok(());
        }
        (None, _, Version::HTTP_2) => {
            return Err(Refusal::bad_request("neither :authority nor Host names a host: HTTP/2 needs one"));
        }
        (None, _, version) if version < Version::HTTP_11 => return Ok(()),
        (None, _, _) => return Err(Refusal::bad_request("the Host header is missing: HTTP/1.1 needs one")),
        (Some(_), Some(_), _) => return Err(Refusal::bad_request("there are two Host headers: send one")),
    };
    // Nearly every host is of this form, and then there is nothing to take apart.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let (name, port) =
        host.as_bytes().split_at(host.as_bytes().iter().position(|byte| *byte == b':').unwrap_or(host.len()));
    let plain = !name.is_empty() && name.iter().all(plain) && port.iter().skip(1).all(u8::is_ascii_digit);
    if plain && head.uri.authority().is_none() {
        return Ok(());
    }
    let host = Authority::try_from(host.as_bytes())
        .ok()
        .filter(|host| !host.as_str().contains('@'))
        .ok_or_else(|| Refusal::bad_request("the Host header is no host name or address"))?;
    match head.uri.authority() {
        Some(authority) if *authority != host => {
            Err(Refusal::bad_request("the Host header and the request's own URI name different hosts"))
        }
        _ => Ok(()),
    }
}

fn check_transfer_encoding(head: &Parts, line: &Line) -> Result<(), Refusal> {
    if head.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(both_lengths());
    }
    // hyper drops a Content-Length beside a Transfer-Encoding, so only the raw head still has it.
    line.raw_head(|raw| {
        let end = raw.windows(4).position(|end| end == b"\r\n\r\n");
        let raw = end.map_or(&[][..], |end| &raw[..end]);
        if names(raw).any(|name| name.eq_ignore_ascii_case(b"content-length")) {
            return Err(both_lengths());
        }
        // Fewer lines than headers are only the end of a head, whose beginning came before its turn.
        if names(raw).count() < head.headers.len() {
            return Err(Refusal::bad_request(
                "a chunked request was sent before the last answer was read: wait for it, or send Content-Length",
            ));
        }
        Ok(())
    })
}

fn both_lengths() -> Refusal {
    Refusal::bad_request("there are both Content-Length and Transfer-Encoding: send one")
}

/// The names of the headers in a raw head.
fn names(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = head.split(|byte| *byte == b'\n').skip(1);
    lines.filter_map(|line| line.split(|byte| *byte == b':').next()).map(<[u8]>::trim_ascii)
}

/// The client's id for its request, or a new one where it gave none that is safe to write into a log.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    headers
        .get(REQUEST_ID)
        .filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.as_bytes().iter().all(safe))
        // Copied: a clone would keep the connection's read buffer.
        .and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok())
        .unwrap_or_else(new_request_id)
}

/// 128 random bits as hexadecimal digits.
pub(crate) fn new_request_id() -> HeaderValue {
    digits(&rand::random())
}

/// 128 bits as hexadecimal digits.
pub(crate) fn digits(bytes: &[u8; 16]) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [[0; 2]; 16];
    for (pair, byte) in text.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    HeaderValue::from_bytes(text.as_flattened()).expect("hexadecimal digits are legal")
}

/// How long the client gives its request.
///
/// # Errors
/// The header is there but no whole number of milliseconds within the limits.
pub(crate) fn timeout(headers: &HeaderMap, max: Duration) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let digits = value.to_str().unwrap_or_default().trim();
    let ms = digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let timeout = ms.map(|ms| Duration::from_millis(ms.into()));
    match timeout.filter(|timeout| !timeout.is_zero() && *timeout <= max) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Refusal::bad_request(format!(
            "X-Request-Timeout-Ms must be a whole number from 1 to {}",
            max.as_millis()
        ))),
    }
}

/// Bytes of JSON at the start of a body; `None` when all of it is JSON.
///
/// # Errors
/// The header is no whole number, or says more than there is.
pub(crate) fn json_length(headers: &HeaderMap, body_length: usize) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let digits = value.to_str().unwrap_or_default().trim();
    let length = digits.parse::<usize>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match length {
        Some(length) if length <= body_length => Ok(Some(length)),
        Some(length) => Err(Refusal::bad_request(format!(
            "Inference-Header-Content-Length is {length}, but the body has {body_length} bytes"
        ))),
        None => Err(Refusal::bad_request("Inference-Header-Content-Length must be a whole number of bytes")),
    }
}

/// The key that draws a request to one node; none when it is empty.
///
/// # Errors
/// The header is there but too long, or no text.
pub(crate) fn affinity(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(AFFINITY) else { return Ok(None) };
    let text = value.to_str().ok().map(str::trim).filter(|text| text.len() <= AFFINITY_BYTES_MAX);
    match text {
        Some(text) => Ok((!text.is_empty()).then(|| text.to_owned())),
        None => Err(Refusal::bad_request(format!(
            "X-Lineside-Affinity must be a text of at most {AFFINITY_BYTES_MAX} visible ASCII characters"
        ))),
    }
}

/// The client's trace, when it is one.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    valid_traceparent(headers.get(TRACEPARENT)?.to_str().ok()?)
}

/// A text as a trace, when it is one: `version-trace-parent-flags` in hexadecimal digits.
pub(crate) fn valid_traceparent(text: &str) -> Option<String> {
    let lengths = [2, 32, 16, 2];
    let mut parts = text.split('-');
    let valid = lengths.iter().all(|length| {
        parts.next().is_some_and(|part| part.len() == *length && part.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    (valid && parts.next().is_none()).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a legal value"))])
    }

    #[test]
    fn an_id_that_could_forge_a_log_line_is_replaced() {
        assert_eq!(request_id(&headers(REQUEST_ID, "shift-7/part:12")), "shift-7/part:12");
        for unsafe_id in ["", "two words", "\"quoted\"", "{json}", &"x".repeat(129)] {
            let id = request_id(&headers(REQUEST_ID, unsafe_id));
            assert_ne!(id, unsafe_id);
            assert_eq!(id.len(), 32);
        }
    }

    #[test]
    fn a_timeout_is_a_whole_number_within_the_limit() {
        let timeout = |headers: &HeaderMap| timeout(headers, Duration::from_secs(60));
        assert_eq!(timeout(&HeaderMap::new()).ok(), Some(None));
        assert_eq!(timeout(&headers(TIMEOUT, "60000")).ok(), Some(Some(Duration::from_secs(60))));
        for wrong in ["0", "60001", "-1", "+1", "1.5", "", "soon", "99999999999999999999"] {
            assert!(timeout(&headers(TIMEOUT, wrong)).is_err(), "{wrong:?} was taken for a timeout");
        }
    }

    #[test]
    fn the_json_cannot_be_longer_than_its_body() {
        assert_eq!(json_length(&headers(JSON_LENGTH, "10"), 10).ok(), Some(Some(10)));
        assert_eq!(json_length(&HeaderMap::new(), 10).ok(), Some(None));
        for wrong in ["11", "-1", "+1", "1e1", "", "99999999999999999999"] {
            assert!(
                json_length(&headers(JSON_LENGTH, wrong), 10).is_err(),
                "{wrong:?} was taken for a length"
            );
        }
    }

    #[test]
    fn an_affinity_is_a_short_text() {
        let affinity = |value: &str| affinity(&headers(AFFINITY, value));
        assert_eq!(affinity(" belt 4 ").ok(), Some(Some("belt 4".to_owned())));
        assert_eq!(affinity(" ").ok(), Some(None));
        assert_eq!(affinity(&"x".repeat(128)).ok().flatten().map(|key| key.len()), Some(128));
        for wrong in ["x".repeat(129), "Förderband".to_owned()] {
            assert_eq!(affinity(&wrong).err().map(|refusal| refusal.status.as_u16()), Some(400), "{wrong:?}");
        }
        assert_eq!(super::affinity(&HeaderMap::new()).ok(), Some(None));
    }

    #[test]
    fn a_trace_that_is_none_is_dropped() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&headers(TRACEPARENT, good)).as_deref(), Some(good));
        for wrong in ["", "00-xyz", &format!("{good}-more"), &good.replace('4', "g")] {
            assert_eq!(traceparent(&headers(TRACEPARENT, wrong)), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_names_of_a_raw_head_are_found_however_they_are_written() {
        let head = b"POST /rpc HTTP/1.1\r\nHost: x\r\nCONTENT-length : 5\r\nX: content-length: 9";
        let found: Vec<_> = names(head).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(found, ["Host", "CONTENT-length", "X"]);
    }
}
