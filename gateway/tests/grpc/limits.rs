//! Who is let in, and how much.

use std::{
    io::Write as _,
    num::NonZeroU32,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lineside_gateway::{GatewayConfig, KeysMode};
use prost::Message as _;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tonic::{Code, Status};

use crate::{
    caller::Caller,
    client::{Client, byte, raw, refused},
    gate::{Gate, PATIENCE, config, eventually},
    inference::{ModelMetadataRequest, RepositoryModelLoadRequest, ServerLiveRequest, ServerReadyRequest},
};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Sends a body that no client of ours would send, and gives the status.
async fn send(gate: &Gate, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Status {
    let stream = TcpStream::connect(gate.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = Request::post(format!("http://line{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let sent = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap());
    let response = timeout(PATIENCE, sent).await.expect("an answer comes").unwrap();
    let (head, body) = response.into_parts();
    let trailers = body.collect().await.ok().and_then(|body| body.trailers().cloned());
    Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers?)).unwrap()
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![flag];
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend_from_slice(message);
    frame
}

fn packed(message: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(message).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn without_a_key_only_health_is_answered_where_keys_are_needed() {
    let gate = Gate::with(GatewayConfig { keys: KeysMode::Required, ..config() });
    let client = Client::of(&gate).await;
    let status = client.inference().model_infer(byte("echo", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.metadata().get("x-lineside-executed").unwrap(), "no");
    assert!(gate.line.calls.lock().unwrap().is_empty());
    for name in ["x-api-key", "authorization"] {
        let mut request =
            tonic::Request::new(ModelMetadataRequest { name: "add".into(), version: String::new() });
        request.metadata_mut().insert(name, "lsk_0123456789abcdef_wrong".parse().unwrap());
        let status = client.inference().model_metadata(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    let counted = r#"lineside_http_requests_total{route="grpc",code="401"}"#;
    eventually("they are counted", async || 0.0 < gate.metric(counted).await).await;
    assert!(client.inference().server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    assert!(client.inference().server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready);
}

#[tokio::test]
async fn models_are_changed_only_by_those_who_may() {
    let gate = Gate::open();
    let client = Client::of(&gate).await;
    let load = RepositoryModelLoadRequest { model_name: "add".into(), ..Default::default() };
    let status = client.inference().repository_model_load(load).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED", "no");
    assert!(gate.line.changes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn over_its_quota_a_client_is_told_when_to_come_again() {
    let gate = Gate::with(GatewayConfig { rate: NonZeroU32::new(1), burst: NonZeroU32::new(2), ..config() });
    let client = Client::of(&gate).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.extend(client.inference().model_infer(byte("echo", 1)).await.err());
    }
    let status = statuses.first().expect("six are more than two");
    refused(status, Code::ResourceExhausted, "RATE_LIMITED", "no");
    let wait: u64 = status.metadata().get("retry-after").unwrap().to_str().unwrap().parse().unwrap();
    assert!(1 <= wait);
    // Health is free.
    assert!(client.inference().server_live(ServerLiveRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_full_door_says_so_and_health_still_answers() {
    let gate = Gate::with(GatewayConfig { in_flight_max: 1, ..config() });
    let client = Client::of(&gate).await;
    let (mut inference, mut second) = (client.inference(), client.inference());
    let waits = inference.model_infer(byte("slow", 1));
    let full = async {
        eventually("the call waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
        let status = second.model_infer(byte("echo", 1)).await.unwrap_err();
        assert!(second.server_live(ServerLiveRequest {}).await.is_ok());
        gate.line.go.add_permits(1);
        status
    };
    let (first, status) = tokio::join!(waits, full);
    assert!(first.is_ok());
    refused(&status, Code::Unavailable, "BUSY", "no");
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_by_its_length() {
    let gate = Gate::with(GatewayConfig { body_bytes_max: 1 << 20, ..config() });
    let client = Client::of(&gate).await;
    let large = raw("echo", &[("x", "UINT8", &[2 << 20], &vec![0; 2 << 20])]);
    let status = client.inference().model_infer(large).await.unwrap_err();
    refused(&status, Code::ResourceExhausted, "LIMIT_EXCEEDED", "no");
    assert!(gate.line.calls.lock().unwrap().is_empty());
    // Names need no more than 64 KiB.
    let name = "x".repeat(100_000);
    let status = client
        .inference()
        .model_metadata(ModelMetadataRequest { name, version: String::new() })
        .await
        .unwrap_err();
    refused(&status, Code::ResourceExhausted, "LIMIT_EXCEEDED", "no");
    assert!(client.inference().model_infer(byte("echo", 1)).await.is_ok());
}

#[tokio::test]
async fn a_message_that_swells_while_it_is_unpacked_is_stopped() {
    let gate = Gate::with(GatewayConfig { body_bytes_max: 1 << 20, ..config() });
    let bomb = packed(&vec![0; 64 << 20]);
    assert!(bomb.len() < 1 << 17);
    let status = send(&gate, INFER, &[("grpc-encoding", "gzip")], framed(1, &bomb)).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let counted = r#"lineside_http_requests_total{route="grpc",code="413"}"#;
    eventually("it is counted", async || gate.metric(counted).await == 1.0).await;
}

#[tokio::test]
async fn torn_and_repeated_messages_are_refused() {
    let gate = Gate::open();
    let status = send(&gate, INFER, &[], framed(0, &[0x2a, 5, 1])).await;
    refused(&status, Code::InvalidArgument, "INVALID_REQUEST", "no");
    let message = byte("slow", 1).encode_to_vec();
    let status = send(&gate, INFER, &[], [framed(0, &message), framed(0, &message)].concat()).await;
    refused(&status, Code::InvalidArgument, "INVALID_REQUEST", "no");
    assert_ne!(send(&gate, INFER, &[], framed(0, &message)[..9].to_vec()).await.code(), Code::Ok);
    assert_ne!(send(&gate, INFER, &[], Vec::new()).await.code(), Code::Ok);
    assert_ne!(send(&gate, INFER, &[], framed(1, &message)).await.code(), Code::Ok);
    let status = send(&gate, INFER, &[("grpc-encoding", "br")], framed(1, &message)).await;
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(gate.line.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_not_implemented() {
    let gate = Gate::open();
    for path in ["/inference.GRPCInferenceService/Paint", "/paint.Shop/Paint", "/"] {
        let status = send(&gate, path, &[], framed(0, &[])).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

/// A body whose end never comes.
struct Endless(Option<Bytes>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(hyper::body::Frame::data(bytes)))))
    }
}

#[tokio::test]
async fn a_message_that_stops_half_way_ends_its_call_in_time() {
    let body_idle_max = std::time::Duration::from_millis(100);
    let gate = Gate::with(GatewayConfig { body_idle_max, ..config() });
    let stream = TcpStream::connect(gate.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::post(format!("http://line{INFER}")).header("content-type", "application/grpc");
    let request = request.body(Endless(Some(Bytes::from_static(&[0, 0, 0, 0, 9, 1])))).unwrap();
    let response: Response<_> =
        timeout(PATIENCE, sender.send_request(request)).await.expect("it ends").unwrap();
    let status = Status::from_header_map(response.headers()).unwrap();
    refused(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "no");
}

#[tokio::test]
async fn over_http_1_a_call_is_told_what_it_needs() {
    let gate = Gate::open();
    let mut caller = Caller::connect(gate.address).await;
    // A client that still sends can read it, too.
    let body = framed(0, &vec![0; 8 << 20]);
    let reply = caller.post_with(INFER, &[("Content-Type", "application/grpc")], body).await;
    assert!(reply.error(415).contains("HTTP/2"));
}
