//! JSON-RPC 2.0 over WebSocket at `/rpc/ws`.
//!
//! ```text
//!             handshake         meter                     reader           calls            writer
//! request ─► asks rightly? ─► counts bytes ─► messages ─► places? ─► run side by side ─► one after another ─► client
//!                                             └─ no place: nothing more is read          └─ pings
//! ```
//!
//! A message is a request or a batch, answered by one message when all of it is done; messages overtake each other.
//! Beyond the table of methods there are, on this wire alone:
//!
//! | message | from | what |
//! |---|---|---|
//! | `$/cancelRequest` `{"id"}` | client | takes a running call back; its answer is `CANCELLED` |
//! | `$/unsubscribe` `{"subscription"}` | client | ends a subscription |
//! | `$/subscription` `{"subscription", "seq", "result"}` | door | news of a subscription; with `error` in the place of `result` its end |
//! | `$/item` `{"id", "number", "item"}` | door | one part of a streamed result, numbered from 0; the answer is its end |

mod driver;
mod handshake;
mod meter;
mod session;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use lineside_wire::{Fault, FaultCode};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::{
    Cluster,
    answer::Answer,
    ask::Ask,
    body::{Pieces, Reserved},
    errors::Refusal,
    head,
};
use handshake::Declined;
use session::Asking;

/// What goes to the client, in its order.
#[derive(Debug)]
pub(crate) enum Out {
    /// One message, and the room that it takes until it is written.
    Text(Vec<u8>, Option<Reserved>),
    /// The last one.
    Close(CloseFrame),
}

/// Where messages to the client wait.
pub(crate) type Outbox = mpsc::Sender<Out>;

/// Turns the request's connection into a WebSocket, which a task of the door's serves from then on.
///
/// # Errors
/// The request asks for no WebSocket, or may not have one.
pub(crate) fn upgrade<C: Cluster>(mut ask: Ask<'_, '_, C>) -> Result<Answer, Refusal> {
    let headers = match handshake::accept(&ask.head) {
        Ok(headers) => headers,
        Err(Declined { refusal, headers }) if headers.is_empty() => return Err(*refusal),
        Err(Declined { refusal, headers }) => {
            let body = refusal.body(ask.visit.id.to_str().unwrap_or_default());
            let answer = Answer::text(refusal.status, "application/json", body);
            return Ok(Answer { headers, ..answer });
        }
    };
    if !ask.visit.body_read {
        return Err(Refusal::bad_request("a request for a WebSocket has no body"));
    }
    if ask.shared().is_leaving() {
        return Err(Fault::new(FaultCode::Draining, "this gateway is leaving: connect to another").into());
    }
    let upgrade = ask.head.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| Refusal::bad_request("this connection cannot become a WebSocket"))?;
    let asking = Asking {
        door: Arc::clone(ask.door),
        origin: ask.origin.clone(),
        shown: handshake::shown(&ask.head.headers),
        timeout: ask.timeout,
        traceparent: head::traceparent(&ask.head.headers),
        affinity: head::affinity(&ask.head.headers)?,
    };
    ask.door.sockets.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => driver::serve(asking, TokioIo::new(upgraded)).await,
            Err(error) => tracing::trace!(%error, "a client left before it had its WebSocket"),
        }
    });
    let answer = Answer::new(StatusCode::SWITCHING_PROTOCOLS, "", Pieces::new(Bytes::new(), Vec::new()));
    Ok(Answer { headers, ..answer })
}
