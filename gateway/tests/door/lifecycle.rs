//! Opening, hanging up, leaving.

use std::{num::NonZeroUsize, sync::atomic::Ordering, time::Duration};

use lineside_gateway::{GatewayConfig, GatewayError, GatewayServer};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::{
    gate::{Gate, PATIENCE, config, eventually, impatient},
    line::Line,
};

const SLOW: &str = "/v2/models/slow/infer";
const REQUEST: &str = r#"{"inputs":[]}"#;

#[tokio::test]
async fn a_client_that_hangs_up_takes_its_call_back() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    caller.send(SLOW, &[], REQUEST).await;
    eventually("the call waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    drop(caller);
    eventually("the call is dropped", async || gate.line.dropped.load(Ordering::SeqCst) == 1).await;
    eventually("it is counted", async || {
        0.5 < gate.metric("lineside_http_requests_total{route=\"infer\",code=\"499\"}").await
    })
    .await;
    assert!(gate.metric("lineside_http_in_flight").await < 0.5);
}

#[tokio::test]
async fn a_call_that_nobody_ends_is_ended_at_its_deadline() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let headers = [("X-Request-Timeout-Ms", "50")];
    let reply = caller.post_with("/v2/models/stuck/infer", &headers, REQUEST).await;
    reply.error(504);
    assert_eq!(reply.json()["code"], "DEADLINE_EXCEEDED_RUNNING");
}

#[tokio::test]
async fn a_door_that_leaves_says_so_first_and_finishes_what_runs() {
    let gate = Gate::with(GatewayConfig { notice: PATIENCE, ..config() });
    let mut running = gate.caller().await;
    running.send(SLOW, &[], REQUEST).await;
    eventually("the call waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    assert_eq!(gate.caller().await.get("/readyz").await.status, 200);

    gate.shutdown.cancel();
    // New connections are still taken, and learn to go elsewhere.
    eventually("it is not ready", async || gate.caller().await.get("/readyz").await.status == 503).await;
    for path in ["/readyz", "/v2/health/ready", "/health"] {
        let reply = gate.caller().await.get(path).await;
        assert_eq!(reply.error(503), "this gateway is leaving");
        assert_eq!(reply.json()["ready"], false);
    }
    assert_eq!(gate.caller().await.get("/livez").await.status, 200);
    assert_eq!(gate.caller().await.post("/v2/models/echo/infer", REQUEST).await.status, 200);
    gate.line.go.add_permits(1);
    assert_eq!(running.reply().await.status, 200);
}

#[tokio::test]
async fn a_door_can_say_that_it_leaves_before_its_server_is_told_to_end() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    gate.shared.leave();
    assert_eq!(caller.get("/readyz").await.error(503), "this gateway is leaving");
    assert_eq!(caller.post("/v2/models/echo/infer", REQUEST).await.status, 200);
}

#[tokio::test]
async fn after_its_notice_a_door_finishes_what_runs_and_closes() {
    let gate = Gate::open();
    let mut running = gate.caller().await;
    running.send(SLOW, &[], REQUEST).await;
    let mut idle = gate.caller().await;
    assert_eq!(idle.get("/livez").await.status, 200);
    eventually("the call waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    gate.shutdown.cancel();
    idle.closed().await;
    let address = gate.address;
    eventually("nobody new is taken", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    gate.line.go.add_permits(1);
    let reply = running.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    running.closed().await;
    assert!(gate.closed().await.is_ok());
}

#[tokio::test]
async fn who_never_said_anything_does_not_hold_up_the_end() {
    let gate =
        Gate::with(GatewayConfig { first_byte_max: 9 * PATIENCE, drain_max: 9 * PATIENCE, ..config() });
    let mut silent = gate.caller().await;
    assert_eq!(gate.caller().await.get("/livez").await.status, 200);
    gate.shutdown.cancel();
    silent.closed().await;
    assert!(gate.closed().await.is_ok());
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_the_end() {
    let gate = Gate::with(GatewayConfig { drain_max: Duration::from_millis(100), ..config() });
    let mut running = gate.caller().await;
    running.send(SLOW, &[], REQUEST).await;
    eventually("the call waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    gate.shutdown.cancel();
    let line = std::sync::Arc::clone(&gate.line);
    assert!(gate.closed().await.is_ok());
    assert_eq!(line.dropped.load(Ordering::SeqCst), 1);
    running.closed().await;
}

#[tokio::test]
async fn a_connection_that_left_http_behind_may_be_silent_keeps_its_place_and_ends_with_the_door() {
    let gate = Gate::with(impatient(config()));
    let mut socket = gate.caller().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    socket.write(format!("GET /rpc/ws HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n")).await;
    assert_eq!(socket.head().await.status, 101);
    // Two that are idle, one after the other, are closed in the meantime.
    for _ in 0..2 {
        let mut idle = gate.caller().await;
        assert_eq!(idle.get("/livez").await.status, 200);
        idle.closed().await;
    }
    eventually("only it and who asks are counted", async || {
        (gate.metric("lineside_http_connections").await - 2.0).abs() < 0.5
    })
    .await;
    // A ping, masked with zeros, and its pong.
    socket.write(b"\x89\x82\0\0\0\0hi").await;
    let mut pong = [0; 4];
    let mut stream = socket.into_stream();
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut pong)).await.expect("a pong").unwrap();
    assert_eq!(&pong, b"\x8a\x02hi");
    gate.shutdown.cancel();
    let mut rest = Vec::new();
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed"));
    assert!(gate.closed().await.is_ok());
}

#[tokio::test]
async fn a_get_that_asks_for_no_socket_is_told_so() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let reply = caller.get("/rpc/ws").await;
    assert!((400..500).contains(&reply.status), "{}", reply.text());
    reply.error(reply.status);
    assert_eq!(caller.get("/livez").await.status, 200);
}

#[tokio::test]
async fn two_shards_share_one_port_and_one_set_of_counters() {
    let two = NonZeroUsize::new(2).unwrap();
    let gate = Gate::with(GatewayConfig { shards: two, ..config() });
    let mut callers = Vec::new();
    for _ in 0..20 {
        let mut caller = gate.caller().await;
        assert_eq!(caller.post("/v2/models/echo/infer", REQUEST).await.status, 200);
        callers.push(caller);
    }
    let shards = { gate.line.shards.lock().unwrap().clone() };
    assert_eq!(shards.iter().sum::<usize>(), 1, "{shards:?}");
    let counted = gate.metric("lineside_http_requests_total{route=\"infer\",code=\"200\"}").await;
    assert!((counted - 20.0).abs() < 0.5, "{counted}");
    gate.shutdown.cancel();
    for caller in &mut callers {
        caller.closed().await;
    }
    assert!(gate.closed().await.is_ok());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_before_anything_starts() {
    let gate = Gate::open();
    for shards in [1, 2] {
        let shards = NonZeroUsize::new(shards).unwrap();
        let second = GatewayConfig { listen: gate.address, shards, ..config() };
        let error = GatewayServer::bind(second, ()).err().unwrap();
        let is_it = matches!(error, GatewayError::PortTaken { address, .. } if address == gate.address);
        assert!(is_it, "{error}");
        assert!(error.to_string().contains("another gateway") && error.to_string().contains("(listen)"));
        let second = GatewayConfig { grpc_listen: Some(gate.address), shards, ..config() };
        let error = GatewayServer::bind(second, ()).err().unwrap();
        assert!(matches!(error, GatewayError::PortTaken { setting: "grpc_listen", .. }), "{error}");
    }
    let foreign = GatewayConfig { listen: "192.0.2.1:8080".parse().unwrap(), ..config() };
    let error = GatewayServer::bind(foreign, ()).err().unwrap();
    assert!(matches!(error, GatewayError::Listen { .. }), "{error}");
}

#[tokio::test]
async fn a_shard_that_cannot_start_ends_the_server_with_its_reason() {
    let two = NonZeroUsize::new(2).unwrap();
    let server = GatewayServer::bind(GatewayConfig { shards: two, ..config() }, |shard| match shard {
        0 => Ok(std::sync::Arc::new(Line::default())),
        _ => Err("no socket left".to_owned()),
    });
    let error = server.unwrap().serve(CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(&error, GatewayError::Start { shard: 1, reason } if reason == "no socket left"),
        "{error}"
    );
}

#[tokio::test]
async fn a_shard_that_panics_ends_the_door_which_says_so() {
    let server =
        GatewayServer::bind(config(), |_| -> Result<std::sync::Arc<Line>, String> { panic!("a defect") });
    let ended = server.unwrap().serve(CancellationToken::new()).await;
    assert!(matches!(ended, Err(GatewayError::Panicked { shard: 0 })), "{ended:?}");
}
