//! What an operator and a probe see.

use std::sync::atomic::Ordering;

use crate::{
    gate::Gate,
    line::{PRESS, WELD},
};

const REQUEST: &str = r#"{"inputs":[]}"#;

#[tokio::test]
async fn probes_see_whether_the_door_lives_and_whether_it_takes_work() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for path in ["/livez", "/v2/health/live", "/livez/"] {
        assert_eq!(caller.get(path).await.json()["live"], true);
    }
    for path in ["/readyz", "/v2/health/ready", "/health"] {
        let reply = caller.get(path).await;
        assert_eq!((reply.status, reply.json()["ready"].as_bool()), (200, Some(true)), "{path}");
    }
    gate.line.is_ready.store(false, Ordering::SeqCst);
    for path in ["/readyz", "/v2/health/ready", "/health"] {
        let reply = caller.get(path).await;
        assert_eq!(reply.error(503), "no node is alive", "{path}");
        assert_eq!(reply.json()["ready"], false);
    }
    assert_eq!(caller.get("/health").await.json()["live"], true);
    assert_eq!(caller.get("/health").await.json()["checks"][1]["reason"], "no node is alive");
    let reply = caller.get("/readyz?verbose").await;
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    let lines = "[+]not-draining ok\n[-]cluster failed: no node is alive\nreadyz check failed\n";
    assert_eq!((reply.status, reply.text().as_str()), (503, lines));
    assert_eq!(caller.get("/v2/health/ready?exclude=cluster").await.json()["ready"], true);
    assert_eq!(caller.get("/livez?verbose").await.text(), "[+]ping ok\nlivez check passed\n");
    assert_eq!(caller.get("/livez").await.status, 200);
    // Some probes ask for the head alone; nothing may follow it.
    caller
        .write(
            "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await;
    let head = caller.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(caller.reply().await.json()["name"], "lineside");
    caller.closed().await;
}

#[tokio::test]
async fn the_metrics_tell_who_was_asked_for_what_and_what_came_of_it() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    caller.post("/v2/models/add/infer", REQUEST).await.error(400);
    assert_eq!(caller.post("/v2/models/echo/infer", REQUEST).await.status, 200);
    caller.post("/v2/models/lost/infer", REQUEST).await.error(502);
    for i in 0..20 {
        caller.post(&format!("/v2/models/guess-{i}/infer"), REQUEST).await.error(404);
        caller.get(&format!("/guess/{i}")).await.error(404);
    }
    let reply = caller.get("/metrics").await;
    assert!(reply.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = reply.text();
    let press = format!("{{node=\"{PRESS}\",name=\"press\"}}");
    let weld = format!("{{node=\"{WELD}\",name=\"weld\"}}");
    for line in [
        "lineside_http_requests_total{route=\"infer\",code=\"404\"} 20".to_owned(),
        "lineside_http_requests_total{route=\"none\",code=\"404\"} 20".to_owned(),
        "lineside_http_requests_total{route=\"infer\",code=\"200\"} 1".to_owned(),
        "lineside_http_request_duration_seconds_count{route=\"infer\"} 23".to_owned(),
        "lineside_infer_requests_total{model=\"echo\",result=\"ok\"} 1".to_owned(),
        "lineside_infer_requests_total{model=\"add\",result=\"INVALID_PARAMS\"} 1".to_owned(),
        "lineside_infer_requests_total{model=\"lost\",result=\"LOST\"} 1".to_owned(),
        "lineside_infer_requests_total{model=\"unknown\",result=\"MODEL_NOT_FOUND\"} 20".to_owned(),
        "lineside_infer_attempts_total 6".to_owned(),
        "lineside_failovers_total 3".to_owned(),
        "lineside_models_ready 3".to_owned(),
        "lineside_members{state=\"alive\"} 1".to_owned(),
        "lineside_members{state=\"down\"} 1".to_owned(),
        format!("lineside_node_up{press} 1"),
        format!("lineside_node_up{weld} 0"),
        format!("lineside_node_in_flight{press} 3"),
        format!("lineside_node_calls_total{press} 40"),
        format!("lineside_node_failures_total{weld} 2"),
    ] {
        assert!(text.lines().any(|there| there == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("guess"), "what was guessed became a label");
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn a_request_keeps_its_id_and_one_that_could_forge_a_log_line_gets_another() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let reply =
        caller.post_with("/v2/models/paint/infer", &[("X-Request-Id", "shift-7/part:12")], REQUEST).await;
    reply.error(404);
    assert_eq!(reply.header("x-request-id"), Some("shift-7/part:12"));
    let reply = caller
        .post_with("/v2/models/paint/infer", &[("X-Request-Id", "{\"level\":\"info\"}")], REQUEST)
        .await;
    reply.error(404);
    assert_eq!(reply.header("x-request-id").map(str::len), Some(32));
}

#[tokio::test]
async fn whatever_is_refused_has_the_body_of_an_error() {
    let gate = Gate::open();
    for (head, status) in [
        ("DELETE /v2/models/add HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("PUT /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", 405),
        ("PATCH /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        ("BREW /v2/models/add/infer HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("TRACE /livez HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("OPTIONS /v2/models/add/infer HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 404),
        ("GET /v2/models HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /v2/models/add/trace/setting HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /v2/systemsharedmemory/status HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /v2/models/busy/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"inputs\":[]}", 503),
        ("POST /v2/models/late/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{\"inputs\":[]}", 504),
        ("POST /v2/models/add/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (
            "POST /v2/models/add/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
            400,
        ),
        ("GET /v2 HTTP/1.1\r\nHost: x\r\n bad\r\n\r\n", 400),
        ("GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n", 400),
    ] {
        let mut caller = gate.caller().await;
        caller.write(head).await;
        let words = caller.reply().await.error(status);
        assert!(!words.is_empty(), "{head}");
    }
}
