//! The request that asks for a WebSocket: is it one? Pure.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, request::Parts};

use crate::{errors::Refusal, head::API_KEY, proxies::FORWARDED_FOR};

/// The one version of the protocol that there is.
const VERSION: &str = "13";

/// The sub-protocol that clients of JSON-RPC may offer.
pub(super) const SUBPROTOCOL: &str = "jsonrpc-2.0";

/// RFC 6455, 1.3: what is hashed behind the client's key, so that no other server answers by chance.
const SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes of the client's key.
const KEY_BYTES: usize = 16;

/// The headers of the answer to a request that asks for a WebSocket rightly.
///
/// # Errors
/// It does not; with the headers that say what is served here.
pub(super) fn accept(head: &Parts) -> Result<Vec<(HeaderName, HeaderValue)>, Declined> {
    let headers = &head.headers;
    if head.version != Version::HTTP_11 {
        return Err(Refusal::bad_request("a WebSocket begins with a request of HTTP/1.1").into());
    }
    if !lists(headers, &header::CONNECTION, "upgrade") || !lists(headers, &header::UPGRADE, "websocket") {
        let text = "this path is a WebSocket: connect with a WebSocket client, or use POST /rpc";
        return Err(Declined::upgrade(text));
    }
    if only(headers, &header::SEC_WEBSOCKET_VERSION) != Some(VERSION) {
        return Err(Declined::upgrade("the WebSocket's version must be 13"));
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).ok_or_else(|| {
        Refusal::bad_request("Sec-WebSocket-Key must be there once, and be 16 bytes as base64")
    })?;
    let mut answer = vec![
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, proof(key)),
    ];
    if lists(headers, &header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        answer.push((header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL)));
    }
    Ok(answer)
}

/// The headers that say who calls: what a key is worth can change while the connection stands, so it is asked for again with
/// each message. Copied, because the originals would keep the connection's read buffer.
pub(super) fn shown(headers: &HeaderMap) -> HeaderMap {
    let copy = |name: HeaderName| {
        let values = headers.get_all(&name).iter();
        let copies = values.filter_map(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
        copies.map(move |value| (name.clone(), value))
    };
    [API_KEY, header::AUTHORIZATION, FORWARDED_FOR].into_iter().flat_map(copy).collect()
}

/// Why a request becomes no WebSocket.
#[derive(Debug)]
pub(super) struct Declined {
    pub(super) refusal: Box<Refusal>,
    /// Headers beside those of any refusal.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Declined {
    /// Says which protocol and version there is.
    fn upgrade(text: &'static str) -> Self {
        let headers = vec![
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION)),
        ];
        let refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", text);
        Self { refusal: Box::new(refusal), headers }
    }
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Self {
        Self { refusal: Box::new(refusal), headers: Vec::new() }
    }
}

/// What proves that the server has understood the key.
fn proof(key: &str) -> HeaderValue {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), SUFFIX].concat());
    HeaderValue::try_from(STANDARD.encode(hash)).expect("base64 is legal")
}

fn is_key(key: &str) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES)
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

/// Whether a header lists this word, in one line or several.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|there| there.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of RFC 6455, 1.3, with other headers in the place of its own, or beside them.
    fn head(changes: &[(&'static str, &str)]) -> Parts {
        let mut request = http::Request::builder()
            .uri("/rpc/ws")
            .header("host", "gate:8080")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-version", "13")
            .body(())
            .expect("a request");
        for (name, value) in changes {
            request.headers_mut().remove(*name);
            if !value.is_empty() {
                request.headers_mut().insert(*name, value.parse().expect("a value"));
            }
        }
        request.into_parts().0
    }

    fn status(changes: &[(&'static str, &str)]) -> u16 {
        accept(&head(changes)).map_or_else(|declined| declined.refusal.status.as_u16(), |_| 101)
    }

    #[test]
    fn the_key_of_the_standard_has_the_answer_of_the_standard() {
        let answer = accept(&head(&[("sec-websocket-protocol", "chat, jsonrpc-2.0")])).expect("a WebSocket");
        let header = |name| answer.iter().find(|(there, _)| there == name).map(|(_, value)| value.clone());
        assert_eq!(header("sec-websocket-accept").expect("a proof"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(header("sec-websocket-protocol").expect("it was offered"), "jsonrpc-2.0");
        assert_eq!(
            accept(&head(&[("sec-websocket-protocol", "chat")])).map(|answer| answer.len()).ok(),
            Some(3)
        );
    }

    #[test]
    fn what_asks_for_no_websocket_or_another_one_is_told_which_there_is() {
        for wrong in [
            [("connection", "keep-alive")],
            [("connection", "")],
            [("upgrade", "h2c")],
            [("upgrade", "")],
            [("sec-websocket-version", "8")],
            [("sec-websocket-version", "")],
        ] {
            let declined = accept(&head(&wrong)).expect_err("it is none");
            assert_eq!(declined.refusal.status, StatusCode::UPGRADE_REQUIRED, "{wrong:?}");
            assert_eq!(declined.headers.len(), 2);
        }
        for wrong in ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZTE="] {
            assert_eq!(status(&[("sec-websocket-key", wrong)]), 400, "{wrong}");
        }
    }
}
