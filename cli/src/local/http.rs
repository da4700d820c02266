//! A small HTTP client: one kept connection, one request at a time.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, task::JoinSet};

/// Largest answer that is read: far above what the sample models and the lists give.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Headers of the door.
pub(crate) mod header {
    /// Bytes of JSON before the binary tensors.
    pub(crate) const JSON_LENGTH: &str = "inference-header-content-length";
    /// Milliseconds that the door is given for a request.
    pub(crate) const TIMEOUT: &str = "x-request-timeout-ms";
    /// Which node did the work.
    pub(crate) const NODE: &str = "x-lineside-node";
    /// How many tries it took.
    pub(crate) const ATTEMPTS: &str = "x-lineside-attempts";
}

/// One caller with its connection.
pub(crate) struct HttpCaller {
    address: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
    // Ends the connection with the caller.
    connections: JoinSet<()>,
}

/// A request's body: JSON, and what may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    /// All of it.
    pub(crate) bytes: Bytes,
    /// How much of it is JSON, when tensors follow.
    pub(crate) json_length: Option<usize>,
}

impl HttpCaller {
    /// A caller that connects when it has something to say.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, sender: None, connections: JoinSet::new() }
    }

    /// Asks for a path.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = self.request(Method::GET, path).body(Full::default())?;
        let response = self.send(request).await?;
        Ok((response.status(), response.into_body()))
    }

    /// Calls a JSON-RPC method without params.
    pub(crate) async fn rpc<R: for<'de> Deserialize<'de>>(&mut self, method: &str) -> anyhow::Result<R> {
        #[derive(Deserialize)]
        struct Reply<R> {
            result: Option<R>,
        }
        let body = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method}).to_string();
        let request = self.post("/rpc", &Body { bytes: body.into(), json_length: None })?;
        let response = self.send(request).await?;
        let body = response.body();
        let reply: Reply<R> = serde_json::from_slice(body)
            .with_context(|| format!("{method} answered {}", String::from_utf8_lossy(body)))?;
        reply.result.with_context(|| format!("{method} failed: {}", String::from_utf8_lossy(body)))
    }

    /// A request with a body.
    pub(crate) fn post(&self, path: &str, body: &Body) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = self.request(Method::POST, path);
        let request = match body.json_length {
            Some(length) => request
                .header(http::header::CONTENT_TYPE, "application/octet-stream")
                .header(header::JSON_LENGTH, length),
            None => request.header(http::header::CONTENT_TYPE, "application/json"),
        };
        Ok(request.body(Full::new(body.bytes.clone()))?)
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header(http::header::HOST, self.address.to_string())
    }

    /// Sends a request and reads all of the answer. After an error, or when the future was dropped, the connection may
    /// hold an answer that nobody waits for: take another caller.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let sender = match &mut self.sender {
            Some(sender) if !sender.is_closed() => sender,
            Some(_) | None => {
                let stream = TcpStream::connect(self.address).await.context("cannot connect")?;
                stream.set_nodelay(true)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                // How it ends is what the request in flight reports.
                self.connections.spawn(async { drop(connection.await) });
                self.sender.insert(sender)
            }
        };
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}
