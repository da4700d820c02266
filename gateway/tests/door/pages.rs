//! Web pages that somebody on the line's network has open, and what they can make the door do.

use lineside_gateway::GatewayConfig;

use crate::gate::{Gate, config};

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"infer","params":{}}"#;

/// What a page can send without asking: plain text.
fn post(path: &str, host: &str, headers: &str) -> String {
    let length = CALL.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\n{headers}Content-Length: {length}\r\n\r\n{CALL}"
    )
}

#[tokio::test]
async fn a_page_of_another_host_makes_nothing_run() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let paths = ["/rpc", "/v2/models/echo/infer", "/v2/models/echo/predict", "/v1/embeddings", "/v2/logging"];
    let change = "/v2/repository/models/echo/unload";
    for path in paths.into_iter().chain([change]) {
        for headers in
            ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"]
        {
            caller.write(post(path, "press:8080", headers)).await;
            let reply = caller.reply().await;
            assert_eq!(reply.status, 403, "{path} {headers}: {}", reply.text());
            assert!(reply.text().contains("gateway.allowed_origins"), "{path}: {}", reply.text());
        }
    }
    assert!(gate.line.calls.lock().unwrap().is_empty() && gate.line.changes.lock().unwrap().is_empty());
    // It may look, and no browser shows it what it sees: there is no word of CORS in the answer.
    caller.write("GET /v2 HTTP/1.1\r\nHost: press:8080\r\nOrigin: http://evil.example\r\n\r\n").await;
    let reply = caller.reply().await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None));
    // Nor may it send what it must ask for.
    let asks = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    caller.write(format!("OPTIONS /rpc HTTP/1.1\r\nHost: press:8080\r\n{asks}\r\n")).await;
    let reply = caller.reply().await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (405, None));
}

#[tokio::test]
async fn pages_of_the_door_work_and_programs_are_not_asked() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for (host, headers) in [
        ("press:8080", ""),
        ("press.example.com", ""),
        ("press:8080", "Origin: http://press:8080\r\nSec-Fetch-Site: same-origin\r\n"),
        ("127.0.0.1:8080", "Origin: http://127.0.0.1:8080\r\n"),
        ("press.example.com", "Origin: https://press.example.com\r\n"),
    ] {
        caller.write(post("/rpc", host, headers)).await;
        assert_eq!(caller.reply().await.status, 200, "{host} {headers}");
    }
}

#[tokio::test]
async fn a_name_that_its_owner_leads_to_the_door_works_only_once_it_is_allowed() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let rebound = post("/rpc", "press.example.com:8080", "Origin: http://press.example.com:8080\r\n");
    caller.write(rebound.clone()).await;
    assert!(caller.reply().await.error(403).contains("anybody could have made"));
    let allowed_origins = vec!["press.example.com".to_owned()];
    gate.shared.reload(&GatewayConfig { allowed_origins, ..config() }).unwrap();
    caller.write(rebound).await;
    assert_eq!(caller.reply().await.status, 200);
}
