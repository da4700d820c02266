//! HTTP/2 with prior knowledge: as clients speak it, and as attackers do.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lineside_gateway::GatewayConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::gate::{Gate, PATIENCE, config, eventually};

/// A client that does it right.
pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinSet<hyper::Result<()>>,
}

impl Session {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self { sender, driver }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Bytes>> {
        let answered = async {
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
        };
        timeout(PATIENCE, answered).await.expect("an answer comes")
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response<Bytes> {
        let request = Request::get(format!("http://line{path}")).body(Full::default()).unwrap();
        self.send(request).await.unwrap()
    }

    pub(crate) async fn closed(&mut self) {
        drop(timeout(PATIENCE, self.driver.join_next()).await.expect("the connection is closed"));
    }
}

fn infer(model: &str, length: usize) -> Request<Full<Bytes>> {
    let tensor = json!({"name": "x", "shape": [length], "datatype": "UINT8",
        "parameters": {"binary_data_size": length}});
    let json = json!({"inputs": [tensor], "parameters": {"binary_data_output": true}}).to_string();
    let body = [json.as_bytes(), &vec![7; length]].concat();
    Request::post(format!("http://line/v2/models/{model}/infer"))
        .header("inference-header-content-length", json.len())
        .body(Full::from(body))
        .unwrap()
}

/// A client that writes frames by hand.
struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

impl Raw {
    async fn open(gate: &Gate, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(gate.address).await.unwrap();
        let mut raw = Self { stream, unread: Vec::new() };
        raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.frame(SETTINGS, 0, 0, settings).await;
        raw
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the door reads").is_ok()
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload)).await
    }

    /// A whole request without a body: `END_STREAM` and `END_HEADERS`.
    async fn get(&mut self, stream: u32, path: &str) -> bool {
        self.frame(HEADERS, 0x5, stream, &head(path, "line")).await
    }

    /// The next frame; `None` when the connection is closed.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let next = async {
            loop {
                if let Some((head, rest)) = self.unread.split_first_chunk::<9>() {
                    let length =
                        usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                    if length <= rest.len() {
                        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                        let (kind, flags) = (head[3], head[4]);
                        let payload = rest[..length].to_vec();
                        self.unread.drain(..9 + length);
                        return Some((kind, flags, stream, payload));
                    }
                }
                let mut piece = [0; 4096];
                match self.stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(read) => self.unread.extend_from_slice(&piece[..read]),
                }
            }
        };
        timeout(PATIENCE, next).await.expect("a frame comes, or the end")
    }

    /// Reads on to a frame of this kind on this stream.
    async fn wait_for(&mut self, kind: u8, stream: u32) -> Vec<u8> {
        loop {
            let (seen, _, of, payload) = self.next().await.expect("the connection stands");
            if (seen, of) == (kind, stream) {
                return payload;
            }
        }
    }

    /// Reads to the end, and says whether leave was taken.
    async fn closed(&mut self) -> bool {
        let mut leave = false;
        while let Some((kind, ..)) = self.next().await {
            leave |= kind == GOAWAY;
        }
        leave
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://host/path`, in HPACK.
fn head(path: &str, host: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x82, 0x86, 0x04], &text(path)[..], &[0x01], &text(host)].concat()
}

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
fn window(bytes: u32) -> Vec<u8> {
    [&[0, 4], &bytes.to_be_bytes()[..]].concat()
}

#[tokio::test]
async fn many_requests_run_side_by_side_on_one_connection() {
    let gate = Gate::open();
    let mut session = Session::open(gate.address).await;
    let reply = session.get("/v2").await;
    assert_eq!(reply.status(), 200);
    let reply = session.send(infer("echo", 600_000)).await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(reply.body().ends_with(&[7; 600_000]));
    assert_eq!(reply.headers()["content-length"], reply.body().len().to_string());

    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let mut sender = session.sender.clone();
        waiting.spawn(async move { sender.send_request(infer("slow", 10)).await.unwrap().status() });
    }
    eventually("all wait", async || gate.line.waiting.load(Ordering::SeqCst) == 20).await;
    assert_eq!(session.get("/livez").await.status(), 200);
    // Who goes away takes its call back, and nobody else's.
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    eventually("the calls are dropped", async || gate.line.dropped.load(Ordering::SeqCst) == 20).await;
    assert_eq!(session.get("/livez").await.status(), 200);
    assert!(gate.metric("lineside_http_in_flight").await < 0.5);
}

#[tokio::test]
async fn errors_are_the_same_as_over_http_1() {
    let gate = Gate::open();
    let mut session = Session::open(gate.address).await;
    for (request, status) in [
        (Request::get("http://line/nothing").body(Full::default()).unwrap(), 404),
        (Request::get("http://line/v2").header("host", "other").body(Full::default()).unwrap(), 400),
        (Request::post("http://line/v2/models/echo/infer").body(Full::from("{")).unwrap(), 400),
        (Request::post("http://line/livez").body(Full::from(vec![0; 100_000])).unwrap(), 405),
    ] {
        let reply = session.send(request).await.unwrap();
        assert_eq!(reply.status(), status);
        let body: Value = serde_json::from_slice(reply.body()).unwrap();
        assert_eq!(body["request_id"], reply.headers()["x-request-id"].to_str().unwrap());
        assert!(reply.headers().get("connection").is_none());
    }
    assert_eq!(session.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_in_order() {
    let gate = Gate::with(GatewayConfig { keep_alive_max: Duration::from_millis(150), ..config() });
    let mut idle = Raw::open(&gate, &[]).await;
    assert!(idle.closed().await, "no leave was taken");
    // A request that takes longer is no idleness, and neither is one that never ends its head any help.
    let mut session = Session::open(gate.address).await;
    let mut sender = session.sender.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { sender.send_request(infer("slow", 10)).await.unwrap().status() });
    eventually("it waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    let mut half = Raw::open(&gate, &[]).await;
    half.frame(HEADERS, 0x1, 1, &head("/livez", "line")).await;
    half.closed().await;
    gate.line.go.add_permits(1);
    assert_eq!(waiting.join_next().await.unwrap().unwrap(), 200);
    session.closed().await;
    eventually("all places are free", async || gate.metric("lineside_http_connections").await <= 1.0).await;
}

#[tokio::test]
async fn a_preface_that_never_ends_is_closed() {
    let gate = Gate::with(GatewayConfig { head_max: Duration::from_millis(150), ..config() });
    for part in ["PR", "PRI * HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut caller = gate.caller().await;
        caller.write(part).await;
        let mut stream = caller.into_stream();
        // HTTP/2 may have sent its settings already.
        let mut all = Vec::new();
        drop(timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the connection is closed"));
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection_and_nothing_else() {
    let gate = Gate::open();
    for at_once in [1, 50] {
        let mut flood = Raw::open(&gate, &[]).await;
        let mut written = true;
        for stream in (1..20_000).step_by(2 * at_once) {
            let mut burst = Vec::new();
            for stream in (stream..).step_by(2).take(at_once) {
                let stream = u32::try_from(stream).unwrap();
                burst.extend(frame(HEADERS, 0x5, stream, &head("/v2/models/echo", "line")));
                burst.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            }
            written = flood.write(&burst).await;
            if !written {
                break;
            }
            if at_once == 1 {
                // The door gets its turn between two of them, and so cannot see that they come in a flood.
                tokio::task::yield_now().await;
            }
        }
        if written {
            flood.closed().await;
        }
    }
    assert_eq!(gate.caller().await.get("/livez").await.status, 200);
    assert!(gate.metric("lineside_http_in_flight").await < 0.5);
}

#[tokio::test]
async fn an_answer_that_is_left_unread_is_taken_back_and_the_others_go_on() {
    let gate = Gate::with(GatewayConfig { write_idle_max: Duration::from_millis(150), ..config() });
    let mut lazy = Raw::open(&gate, &window(0)).await;
    lazy.get(1, "/v2/models/add").await;
    lazy.wait_for(HEADERS, 1).await;
    lazy.wait_for(RST_STREAM, 1).await;
    lazy.frame(SETTINGS, 0, 0, &window(60_000)).await;
    lazy.get(3, "/v2/models/add").await;
    lazy.wait_for(HEADERS, 3).await;
    assert!(lazy.wait_for(DATA, 3).await.starts_with(b"{"));
}

#[tokio::test]
async fn the_end_of_an_answer_that_is_left_unread_ends_the_connection() {
    let gate = Gate::with(GatewayConfig { write_idle_max: Duration::from_millis(150), ..config() });
    let mut lazy = Raw::open(&gate, &window(10)).await;
    lazy.get(1, "/v2/models/add").await;
    assert_eq!(lazy.wait_for(DATA, 1).await.len(), 10);
    lazy.closed().await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_and_a_foreign_header_of_http_1_too() {
    let gate = Gate::open();
    let mut session = Session::open(gate.address).await;
    let long =
        Request::get("http://line/v2").header("x", "y".repeat(40 << 10)).body(Full::default()).unwrap();
    let refused = session.send(long).await;
    assert!(refused.is_err() || refused.is_ok_and(|reply| reply.status() == 431));
    let mut raw = Raw::open(&gate, &[]).await;
    let literal = |name: &str, value: &str| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [&[0], &text(name)[..], &text(value)].concat()
    };
    let smuggled = [head("/v2", "line"), literal("transfer-encoding", "chunked")].concat();
    raw.frame(HEADERS, 0x5, 1, &smuggled).await;
    raw.wait_for(RST_STREAM, 1).await;
    assert!(gate.line.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_door_that_leaves_finishes_what_runs_over_http_2() {
    let gate = Gate::open();
    let session = Session::open(gate.address).await;
    let mut sender = session.sender.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { sender.send_request(infer("slow", 10)).await.unwrap().status() });
    eventually("it waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    let mut idle = Raw::open(&gate, &[]).await;
    let mut silent = gate.caller().await;
    idle.wait_for(SETTINGS, 0).await;
    gate.shutdown.cancel();
    assert!(idle.closed().await, "no leave was taken");
    silent.closed().await;
    gate.line.go.add_permits(1);
    assert_eq!(waiting.join_next().await.unwrap().unwrap(), 200);
    drop(session);
    assert!(gate.closed().await.is_ok());
}

#[tokio::test]
async fn the_port_for_grpc_names_the_one_for_everything_else() {
    let grpc_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let gate = Gate::with(GatewayConfig { grpc_listen, ..config() });
    let address = gate.grpc_address.unwrap();
    let words = format!("HTTP is served at port {}", gate.address.port());
    let mut caller = crate::caller::Caller::connect(address).await;
    let reply = caller.get("/v2").await;
    assert!(reply.error(404).contains(&words), "{}", reply.text());
    caller.closed().await;
    let reply = Session::open(address).await.get("/v2").await;
    assert_eq!(reply.status(), 404);
    assert!(String::from_utf8_lossy(reply.body()).contains(&words));
    assert_eq!(gate.caller().await.get("/v2").await.status, 200);
}
