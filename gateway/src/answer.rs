//! An answer on its way into HTTP.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use lineside_wire::NodeId;
use serde::Serialize;

use crate::{
    body::{OutBody, Pieces, Reserved},
    errors::Refusal,
    explain::Flight,
    head,
};

const NODE: HeaderName = HeaderName::from_static("x-lineside-node");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-lineside-attempts");

/// Headers of most answers: type, length, id, node, attempts and both limits.
const HEADERS: usize = 8;

/// What comes back for a request.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Empty for an answer without a body.
    pub(crate) content_type: &'static str,
    pub(crate) body: OutBody,
    /// Further headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) node: Option<NodeId>,
    pub(crate) attempts: Option<u8>,
    /// Told to whoever asks for it.
    pub(crate) flight: Option<Flight>,
    /// Bytes of JSON before binary tensors.
    pub(crate) json_length: Option<usize>,
    /// Whether it may be packed for a client that asks for it. Infer answers, and what other
    /// clients than Triton's ask for: those ask for it with every request, and unpack nothing else.
    pub(crate) compress: bool,
}

impl Answer {
    pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Self {
        let json = serde_json::to_vec(value).expect("our own types are JSON");
        Self::text(status, "application/json", json)
    }

    pub(crate) fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::new(status, content_type, Pieces::new(body, Vec::new()))
    }

    pub(crate) fn new(status: StatusCode, content_type: &'static str, body: impl Into<OutBody>) -> Self {
        let (body, headers) = (body.into(), Vec::new());
        Self {
            status,
            content_type,
            body,
            headers,
            node: None,
            attempts: None,
            flight: None,
            json_length: None,
            compress: false,
        }
    }

    /// The same, keeping this room until the last piece of its body is written. A body that comes bit by bit has rooms of
    /// its own.
    pub(crate) fn holding(self, room: Reserved) -> Self {
        let body = match self.body {
            OutBody::Pieces(pieces) => pieces.holding(room).into(),
            stream @ OutBody::Stream(_) => stream,
        };
        Self { body, ..self }
    }

    pub(crate) fn into_response(self) -> Response<OutBody> {
        let mut headers = HeaderMap::with_capacity(HEADERS);
        if !self.content_type.is_empty() && self.status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        }
        if let Some(length) = self.json_length {
            headers.insert(head::JSON_LENGTH, length.into());
        }
        if let Some(node) = self.node {
            headers.insert(NODE, head::digits(node.as_bytes()));
        }
        match self.attempts {
            // Nearly always.
            Some(1) => drop(headers.insert(ATTEMPTS, HeaderValue::from_static("1"))),
            Some(attempts) => drop(headers.insert(ATTEMPTS, u64::from(attempts).into())),
            None => {}
        }
        headers.extend(self.headers);
        let mut response = Response::new(self.body);
        (*response.status_mut(), *response.headers_mut()) = (self.status, headers);
        response
    }
}

impl Refusal {
    /// The answer that says why there is none.
    pub(crate) fn into_response(self, request_id: &str) -> Response<OutBody> {
        let body = self.body(request_id);
        self.with_body(body)
    }

    /// The same under this id, as the last one of its connection: the request's body was not read, so nobody knows where
    /// the next request begins.
    pub(crate) fn into_last_response(self, id: HeaderValue) -> Response<OutBody> {
        let mut response = self.into_response(id.to_str().unwrap_or_default());
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(head::REQUEST_ID, id);
        response
    }

    /// The same with this JSON as its body.
    pub(crate) fn with_body(self, body: Vec<u8>) -> Response<OutBody> {
        let mut answer = Answer::text(self.status, "application/json", body);
        (answer.node, answer.attempts) = (self.node, self.attempts);
        let mut response = answer.into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }
}
