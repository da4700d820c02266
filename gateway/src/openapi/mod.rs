//! What the door says of its own paths: OpenAPI 3.1, and a page for people.
//!
//! [`operations`] is the table of everything that is served over REST, [`schemas`] what goes in and comes out. A test
//! walks the table and asks [`Route`](crate::route::Route) for each path, and looks for a row for each route: neither
//! can be forgotten. gRPC and QUIC describe themselves (reflection, `docs/PROTOCOL.md`).

mod document;
mod operations;
mod page;
mod schemas;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::answer::Answer;

/// `GET /openapi.json`.
pub(crate) fn document() -> Answer {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let json = DOCUMENT.get_or_init(|| {
        serde_json::to_vec_pretty(&document::document()).expect("the document is JSON").into()
    });
    fresh(Answer::text(StatusCode::OK, "application/json", json.clone()), [])
}

/// `GET /docs`: one page that needs nothing from elsewhere.
pub(crate) fn page() -> Answer {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = HeaderValue::try_from(page::policy(&nonce)).expect("the policy is ASCII");
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    fresh(Answer::text(StatusCode::OK, "text/html; charset=utf-8", page::page(&nonce)), headers)
}

/// The same for browsers: asked for anew each time, since another release may be served, and taken for what it is.
fn fresh<const N: usize>(answer: Answer, headers: [(HeaderName, HeaderValue); N]) -> Answer {
    let mut answer = Answer { compress: true, ..answer };
    answer.headers.extend(headers);
    answer.headers.push((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")));
    answer.headers.push((header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    answer
}
