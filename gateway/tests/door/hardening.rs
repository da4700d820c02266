//! What hostile and broken clients send, and what becomes of them.

use std::time::Duration;

use lineside_gateway::GatewayConfig;

use crate::gate::{Gate, MOMENT, config, eventually, impatient};

const REQUEST: &str = r#"{"inputs":[]}"#;

/// Sends a head, and expects this refusal and the end of the connection.
async fn refused(gate: &Gate, head: &str, status: u16, words: &str) {
    let mut caller = gate.caller().await;
    caller.write(head).await;
    let reply = caller.reply().await;
    assert!(reply.error(status).contains(words), "{head:.200}: {}", reply.text());
    assert_eq!(reply.header("connection"), Some("close"), "{head:.200}");
    caller.closed().await;
}

#[tokio::test]
async fn a_head_that_two_readers_could_read_in_two_ways_is_refused() {
    let gate = Gate::open();
    let infer = "POST /v2/models/echo/infer HTTP/1.1\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let end = "\r\n0\r\n\r\n";
    for (head, words) in [
        (format!("{infer}Host: x\r\nContent-Length: 5\r\n{chunked}{end}"), "both Content-Length"),
        (format!("{infer}Host: x\r\n{chunked}Content-Length: 5\r\n{end}"), "both Content-Length"),
        (format!("{infer}Host: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), "not valid HTTP"),
        (format!("{infer}Host: x\r\nContent-Length: +5\r\n\r\nhello"), "not valid HTTP"),
        (format!("{infer}Host: x\r\nContent-Length: -5\r\n\r\nhello"), "not valid HTTP"),
        (format!("{infer}Host: x\r\nTransfer-Encoding: gzip\r\n\r\n"), "not valid HTTP"),
        (format!("{infer}Content-Length: 0\r\n\r\n"), "Host header is missing"),
        (format!("{infer}Host: x\r\nHost: y\r\nContent-Length: 0\r\n\r\n"), "two Host"),
        (format!("{infer}Host: a b\r\nContent-Length: 0\r\n\r\n"), "no host name"),
        (format!("{infer}Host: user@x\r\nContent-Length: 0\r\n\r\n"), "no host name"),
        ("GET http://other/v2 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "different hosts"),
        ("GET /v2 HTTP/1.1\r\nHost : x\r\n\r\n".to_owned(), "not valid HTTP"),
        (format!("{infer}Host: x\r\nContent-Length: +4\r\n\r\ntext"), "not valid HTTP"),
        (format!("{infer}Host: x\r\nContent-Length: 4, 4\r\n\r\ntext"), "not valid HTTP"),
        (
            format!("{infer}Host: x\r\n{chunked}\r\n5;a\nb\r\nhello\r\n0\r\n\r\n"),
            "body of the request is broken",
        ),
    ] {
        refused(&gate, &head, 400, words).await;
    }
    assert!(gate.line.calls.lock().unwrap().is_empty(), "one of them reached the cluster");
    // Their legal neighbours.
    for head in [
        "GET /v2 HTTP/1.1\r\nHost: press-7.line:8080\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nHost: [fd00::1]:8080\r\n\r\n",
        "GET http://x/v2 HTTP/1.1\r\nHost: X\r\n\r\n",
        "GET /v2 HTTP/1.0\r\n\r\n",
    ] {
        let mut caller = gate.caller().await;
        caller.write(head).await;
        assert_eq!(caller.reply().await.status, 200, "{head}");
    }
}

#[tokio::test]
async fn tls_where_there_is_none_is_closed_without_a_word() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    caller.write("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03").await;
    caller.closed().await;
}

#[tokio::test]
async fn first_bytes_that_come_one_by_one_are_understood() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for byte in b"PUT /livez HTTP/1.1\r\nHost: x\r\n\r\n".chunks(1) {
        caller.write(byte).await;
    }
    caller.reply().await.error(405);
    // Too few to say what it will be, and then no more.
    let gate = Gate::with(GatewayConfig { head_max: Duration::from_millis(150), ..config() });
    let mut undecided = gate.caller().await;
    undecided.write("P").await;
    undecided.closed().await;
}

/// V12 of the facts.
#[tokio::test]
async fn two_hundred_heads_that_never_end_are_all_closed_and_a_request_is_served_meanwhile() {
    let gate = Gate::with(GatewayConfig { head_max: Duration::from_millis(500), ..config() });
    let mut slow = Vec::new();
    for part in ["G", "PO", "GET /v2 HT", "GET /v2 HTTP/1.1\r\nHost: x\r\nX-A"].iter().cycle().take(200) {
        let mut caller = gate.caller().await;
        caller.write(part).await;
        slow.push(caller);
    }
    let mut normal = gate.caller().await;
    for _ in 0..20 {
        assert_eq!(normal.post("/v2/models/echo/infer", REQUEST).await.status, 200);
    }
    for caller in &mut slow {
        assert!(caller.closed().await < Duration::from_secs(15));
    }
    eventually("all places are free", async || gate.metric("lineside_http_connections").await <= 2.0).await;
}

#[tokio::test]
async fn a_length_cannot_be_hidden_in_a_head_that_begins_before_its_turn() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    caller.send("/v2/models/slow/infer", &[], REQUEST).await;
    eventually("the call waits", async || gate.line.waiting.load(std::sync::atomic::Ordering::SeqCst) == 1)
        .await;
    // The part with the length comes while the door is busy and does not look.
    caller.write("POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: ").await;
    // The door has surely read that when it answers another connection after it.
    for _ in 0..3 {
        assert_eq!(gate.caller().await.get("/livez").await.status, 200);
    }
    gate.line.go.add_permits(1);
    assert_eq!(caller.reply().await.status, 200);
    caller.write("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    caller.reply().await.error(400);
}

#[tokio::test]
async fn too_many_headers_and_too_long_ones_are_refused_in_words() {
    let gate = Gate::open();
    let many: String = (0..120).map(|i| format!("X-{i}: y\r\n")).collect();
    refused(&gate, &format!("GET /v2 HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431, "at most 64 headers").await;
    let long = "y".repeat(40 << 10);
    refused(&gate, &format!("GET /v2 HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), 431, "32 KiB").await;
    refused(&gate, &format!("GET /{long}{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 431, "32 KiB").await;
}

#[tokio::test]
async fn who_says_nothing_or_never_ends_is_closed_and_the_others_are_served() {
    let gate = Gate::with(impatient(config()));
    let mut silent = gate.caller().await;
    let mut idle = gate.caller().await;
    assert_eq!(idle.get("/livez").await.status, 200);
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut caller = gate.caller().await;
        caller.write("GET /v2 HTTP/1.1\r\nHost: x\r\nX-A").await;
        slow.push(caller);
    }
    // A byte now and then does not help.
    let mut dripping = gate.caller().await;
    let drip = async {
        dripping.write("GET /v2 HTTP/1.1\r\nHost: ").await;
        for _ in 0..20 {
            dripping.write("x").await;
            tokio::time::sleep(MOMENT / 4).await;
        }
        dripping.closed().await
    };
    let served = async { gate.caller().await.get("/v2").await.status };
    let (_, status) = tokio::join!(drip, served);
    assert_eq!(status, 200);
    silent.closed().await;
    idle.closed().await;
    for caller in &mut slow {
        caller.closed().await;
    }
    eventually("all places are free", async || gate.metric("lineside_http_connections").await <= 1.0).await;
}

#[tokio::test]
async fn a_body_that_stops_is_told_so_and_holds_no_place() {
    let gate =
        Gate::with(GatewayConfig { body_idle_max: Duration::from_millis(150), in_flight_max: 1, ..config() });
    let mut stalled = gate.caller().await;
    stalled.write("POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{").await;
    assert_eq!(gate.caller().await.post("/v2/models/echo/infer", REQUEST).await.status, 200);
    let reply = stalled.reply().await;
    assert!(reply.error(408).contains("stopped for 150ms"));
    assert_eq!(reply.header("connection"), Some("close"));
    // A client that dies in the middle of its body leaves nothing behind.
    let mut gone = gate.caller().await;
    gone.write("POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{").await;
    drop(gone);
    eventually("its request is counted", async || {
        gate.metric("lineside_http_requests_total{route=\"infer\",code=\"499\"}").await
            + gate.metric("lineside_http_requests_total{route=\"infer\",code=\"400\"}").await
            >= 1.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_let_go() {
    let gate = Gate::with(GatewayConfig { write_idle_max: Duration::from_millis(150), ..config() });
    let length = 30 << 20;
    let json = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{length}],"datatype":"UINT8","parameters":{{"binary_data_size":{length}}}}}],"parameters":{{"binary_data_output":true}}}}"#
    );
    let body = [json.as_bytes(), &vec![7; length]].concat();
    let mut caller = gate.caller().await;
    let headers = [("Inference-Header-Content-Length", json.len().to_string())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    caller.send("/v2/models/echo/infer", &headers, body).await;
    eventually("its place is free", async || gate.metric("lineside_http_connections").await <= 1.0).await;
}

#[tokio::test]
async fn a_defect_ends_one_connection_and_nothing_else() {
    let gate = Gate::open();
    let mut unlucky = gate.caller().await;
    unlucky.send("/v2/models/panics/infer", &[], REQUEST).await;
    unlucky.closed().await;
    assert_eq!(gate.caller().await.post("/v2/models/echo/infer", REQUEST).await.status, 200);
    assert!(gate.metric("lineside_http_in_flight").await.abs() < 0.5, "the place was not given back");
}
