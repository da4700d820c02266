//! How much one client, and all of them, may ask.

use std::{num::NonZeroU32, sync::atomic::Ordering};

use lineside_gateway::GatewayConfig;
use serde_json::json;

use crate::gate::{Gate, config, eventually};

const ECHO: &str = "/v2/models/echo/infer";
const SLOW: &str = "/v2/models/slow/infer";
const REQUEST: &str = r#"{"inputs":[]}"#;

/// One request in 60 seconds cannot come back within a test, so what is used up stays used up.
fn limited(burst: u32) -> GatewayConfig {
    GatewayConfig { rate: NonZeroU32::new(1), burst: NonZeroU32::new(burst), ..config() }
}

#[tokio::test]
async fn who_asks_too_much_waits_and_a_second_client_is_unaffected() {
    let gate = Gate::with(limited(1_000));
    let mut greedy = gate.caller().await;
    let (mut held_back, mut served) = (0, 0);
    while held_back < 5 {
        let reply = greedy.post_with(ECHO, &[("X-Api-Key", "greedy")], REQUEST).await;
        match reply.status {
            200 => served += 1,
            _ => {
                assert!(reply.error(429).contains("\"client\" allows 1 a second and 1000 at once"));
                let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=2).contains(&seconds), "{seconds}");
                assert_eq!(reply.header("cache-control"), Some("no-store"));
                assert_eq!(reply.header("ratelimit"), Some("\"client\";r=0;t=1"));
                held_back += 1;
            }
        }
        assert!(reply.header("ratelimit-policy").unwrap().starts_with("\"client\";q=1000;w="));
    }
    assert!(1_000 <= served, "{served}");
    // The same connection went on all the time, and other clients do not notice.
    for key in ["modest", "shy"] {
        let reply = greedy.post_with(ECHO, &[("X-Api-Key", key)], REQUEST).await;
        assert_eq!(
            (reply.status, reply.header("ratelimit").map(|left| left.contains("r=999"))),
            (200, Some(true))
        );
    }
    assert_eq!(gate.caller().await.post(ECHO, REQUEST).await.status, 200, "by address");
    // Health and metrics are never held back.
    for path in ["/livez", "/readyz", "/health", "/metrics", "/v2/health/ready"] {
        assert_eq!(greedy.get(path).await.status, 200);
    }
    assert!(5.0 <= gate.metric("lineside_rate_limited_total{limit=\"client\"}").await);
}

#[tokio::test]
async fn invented_keys_do_not_lift_the_limit_of_an_address() {
    let gate = Gate::with(limited(5));
    let mut caller = gate.caller().await;
    let mut served = 0;
    for i in 0..100 {
        let reply = caller.post_with(ECHO, &[("X-Api-Key", &format!("invented {i}"))], REQUEST).await;
        served += usize::from(reply.status == 200);
        assert!([200, 429].contains(&reply.status), "{}", reply.text());
    }
    // Sixteen keys, the address's own burst, and what a slow machine may earn meanwhile.
    assert!((21..=40).contains(&served), "{served}");
    let known = caller.post_with(ECHO, &[("X-Api-Key", "invented 3")], REQUEST).await;
    assert_eq!(known.status, 200);
}

#[tokio::test]
async fn a_model_has_a_limit_of_all_clients_together_and_names_that_no_model_has_share_one() {
    let gate = Gate::with(GatewayConfig { model_rate: NonZeroU32::new(3), x_ratelimit: true, ..config() });
    let mut caller = gate.caller().await;
    let (mut served, mut refused) = (0, 0);
    for n in 0..10 {
        let reply = caller.post_with(ECHO, &[("X-Api-Key", &format!("client {n}"))], REQUEST).await;
        match reply.status {
            200 => served += 1,
            _ => {
                assert!(reply.error(429).contains("\"model\" allows 3 a second"));
                assert_eq!(reply.json()["limit"], "model");
                assert_eq!(reply.header("x-ratelimit-remaining"), Some("0"));
                refused += 1;
            }
        }
        assert_eq!(reply.header("ratelimit-policy"), Some("\"model\";q=3;w=1"));
        assert_eq!(reply.header("x-ratelimit-limit"), Some("3"));
    }
    assert!(3 <= served && 0 < refused, "{served} {refused}");
    // Whoever looks at a model takes nothing from those who run it, and another model is another limit.
    assert_eq!(caller.get("/v2/models/echo").await.header("ratelimit"), None);
    let sum = r#"{"inputs":[]}"#;
    assert_eq!(caller.post("/v2/models/add/infer", sum).await.status, 400);
    let mut unknown = Vec::new();
    for n in 0..10 {
        unknown.push(caller.post(&format!("/v2/models/invented-{n}/infer"), REQUEST).await.status);
    }
    assert!(unknown.contains(&404) && unknown.contains(&429), "{unknown:?}");
}

#[tokio::test]
async fn bytes_are_charged_and_one_large_body_is_let_through_and_paid_off() {
    let limits = GatewayConfig { bytes_rate: NonZeroU32::new(100_000), ..config() };
    let gate = Gate::with(limits);
    let large = format!(r#"{{"inputs":[],"id":"{}"}}"#, "x".repeat(2_000_000));
    let mut caller = gate.caller().await;
    let reply = caller.post(ECHO, &large).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("ratelimit-policy"), Some("\"client-bytes\";q=100000;w=1;qu=\"content-bytes\""));
    // Twenty seconds' worth, of which a slow machine has waited some by now.
    let reply = caller.post(ECHO, REQUEST).await;
    assert!(reply.error(429).contains("\"client-bytes\" allows 100000 bytes a second"));
    assert_eq!(reply.json()["limit"], "client-bytes");
    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    let told: u64 = reply.header("ratelimit").unwrap().rsplit_once("t=").unwrap().1.parse().unwrap();
    assert!((5..=24).contains(&after) && told <= after, "{after} {told}");
    // Other clients do not pay for it, and a request without a body costs none.
    assert_eq!(caller.post_with(ECHO, &[("X-Api-Key", "weld")], REQUEST).await.status, 200);
    assert_eq!(caller.get("/v2/models/echo").await.status, 200);
}

#[tokio::test]
async fn rates_change_while_the_door_is_open_and_those_that_stay_keep_their_counts() {
    let gate = Gate::with(limited(2));
    let mut caller = gate.caller().await;
    while caller.post(ECHO, REQUEST).await.status == 200 {}
    gate.shared.reload(&GatewayConfig { x_ratelimit: true, ..limited(2) }).unwrap();
    let reply = caller.post(ECHO, REQUEST).await;
    assert!([200, 429].contains(&reply.status));
    assert_eq!(reply.header("x-ratelimit-limit"), Some("2"), "a setting beside the rates");
    assert_eq!(reply.header("x-ratelimit-remaining"), Some("0"), "what was used up stays used up");
    gate.shared.reload(&limited(500)).unwrap();
    for _ in 0..100 {
        assert_eq!(caller.post(ECHO, REQUEST).await.status, 200, "another rate begins anew");
    }
    gate.shared.reload(&config()).unwrap();
    assert_eq!(caller.post(ECHO, REQUEST).await.header("ratelimit"), None);
    let wrong = GatewayConfig { deadline_default: std::time::Duration::ZERO, ..limited(1) };
    assert!(gate.shared.reload(&wrong).unwrap_err().contains("deadline_default"));
    assert_eq!(caller.post(ECHO, REQUEST).await.header("ratelimit"), None);
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart() {
    let trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let gate = Gate::with(GatewayConfig { trusted_proxies, ..limited(2) });
    let mut proxy = gate.caller().await;
    for n in 0..10 {
        let of_client = [("X-Forwarded-For", format!("192.0.2.{n}"))];
        let of_client = of_client.each_ref().map(|(name, value)| (*name, value.as_str()));
        for _ in 0..2 {
            assert_eq!(proxy.post_with(ECHO, &of_client, REQUEST).await.status, 200);
        }
    }
    let gate = Gate::with(limited(2));
    let mut stranger = gate.caller().await;
    let mut refused = 0;
    for n in 0..10 {
        let forged = format!("192.0.2.{n}");
        let reply = stranger.post_with(ECHO, &[("X-Forwarded-For", &forged)], REQUEST).await;
        refused += usize::from(reply.status == 429);
    }
    assert!(5 <= refused, "{refused}: whoever is no trusted proxy does not say where clients are");
}

#[tokio::test]
async fn one_address_cannot_take_the_connections_of_all_others() {
    let gate = Gate::with(GatewayConfig { connections_per_address_max: 2, ..config() });
    let (mut first, mut second) = (gate.caller().await, gate.caller().await);
    assert_eq!((first.get("/livez").await.status, second.get("/livez").await.status), (200, 200));
    let reply = gate.caller().await.reply().await;
    assert!(reply.error(503).contains("connections_per_address_max"));
    drop(second);
    // Other loopback addresses are other machines here, but not every system has more than one.
    eventually("its place is free", async || gate.caller().await.get("/livez").await.status == 200).await;
}

#[tokio::test]
async fn each_entry_of_a_batch_is_charged() {
    let gate = Gate::with(limited(3));
    let call = |id: usize| json!({"jsonrpc": "2.0", "method": "health", "id": id});
    let batch: Vec<_> = (0..10).map(call).collect();
    let mut caller = gate.caller().await;
    let reply = caller.post("/rpc", json!(batch).to_string()).await.json();
    let answers = reply.as_array().unwrap();
    let (served, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.get("result").is_some());
    // A slow machine may earn a further one meanwhile.
    assert!((3..=5).contains(&served.len()), "{reply}");
    assert!(refused.iter().all(|answer| answer["error"]["data"]["name"] == "RATE_LIMITED"));
    assert!(refused.iter().all(|answer| 0 < answer["error"]["data"]["retry_after_ms"].as_u64().unwrap()));
}

#[tokio::test]
async fn a_full_door_says_busy_at_once_and_has_room_again_when_a_request_ends() {
    let gate = Gate::with(GatewayConfig { in_flight_max: 2, ..config() });
    let (mut first, mut second) = (gate.caller().await, gate.caller().await);
    first.send(SLOW, &[], REQUEST).await;
    second.send(SLOW, &[], REQUEST).await;
    eventually("both wait", async || gate.line.waiting.load(Ordering::SeqCst) == 2).await;

    let mut third = gate.caller().await;
    let reply = third.post(ECHO, REQUEST).await;
    assert!(reply.error(503).contains("in_flight_max"));
    assert_eq!((reply.header("retry-after"), reply.json()["code"].as_str()), (Some("1"), Some("BUSY")));
    assert_eq!(third.get("/livez").await.status, 200);
    assert!((gate.metric("lineside_http_in_flight").await - 2.0).abs() < 0.5);

    gate.line.go.add_permits(2);
    assert_eq!((first.reply().await.status, second.reply().await.status), (200, 200));
    assert_eq!(third.post(ECHO, REQUEST).await.status, 200);
}

#[tokio::test]
async fn who_invents_names_has_no_more_places_for_each_of_them() {
    let trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let gate = Gate::with(GatewayConfig { in_flight_max: 40, trusted_proxies, ..config() });
    let mut flood = Vec::new();
    for number in 0..60 {
        let mut caller = gate.caller().await;
        let name = format!("program-{number}");
        caller.send(SLOW, &[("X-Forwarded-For", "192.0.2.1"), ("X-Api-Key", &name)], REQUEST).await;
        flood.push(caller);
    }
    let refused = async || gate.metric(r#"lineside_busy_total{reason="share"}"#).await;
    let waiting = || gate.line.waiting.load(Ordering::SeqCst);
    eventually("each request waits or was refused", async || waiting() + refused().await as usize == 60)
        .await;
    // Sixteen shares of seventeen; whoever comes from elsewhere, or with a key, finds a place.
    assert!(waiting() < 40, "{} of 40 places are taken by one address", waiting());
    let mut other = gate.caller().await;
    assert_eq!(other.post_with(ECHO, &[("X-Forwarded-For", "192.0.2.2")], REQUEST).await.status, 200);
    gate.line.go.add_permits(60);
}

#[tokio::test]
async fn a_batch_has_no_more_places_than_anybody_else() {
    let gate = Gate::with(GatewayConfig { in_flight_max: 2, ..config() });
    let call = |id: usize| {
        let params = json!({"model": "slow", "inputs": []});
        json!({"jsonrpc": "2.0", "method": "infer", "params": params, "id": id})
    };
    let batch: Vec<_> = (0..5).map(call).collect();
    let mut caller = gate.caller().await;
    caller.send("/rpc", &[], json!(batch).to_string()).await;
    eventually("two of them wait", async || gate.line.waiting.load(Ordering::SeqCst) == 2).await;
    gate.line.go.add_permits(2);
    let answers = caller.reply().await.json();
    let busy =
        answers.as_array().unwrap().iter().filter(|answer| answer["error"]["data"]["name"] == "BUSY").count();
    assert_eq!(busy, 3, "{answers}");
}

#[tokio::test]
async fn bodies_have_a_bound_together_and_connections_too() {
    let gate = Gate::with(GatewayConfig {
        body_bytes_max: 1 << 20,
        bodies_bytes_max: 3 << 19,
        connections_max: 3,
        ..config()
    });
    let large = format!(r#"{{"inputs":[],"id":"{}"}}"#, "x".repeat(1_000_000));
    let mut first = gate.caller().await;
    first.send(SLOW, &[], &large).await;
    eventually("its body is held", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    let mut second = gate.caller().await;
    assert!(second.post(ECHO, &large).await.error(503).contains("as many bytes"));
    // That answer closes its connection, because the rest of its body was left unread.
    second.closed().await;
    drop(second);
    eventually("its place is free", async || gate.caller().await.get("/livez").await.status == 200).await;
    let (mut third, mut fourth) = (gate.caller().await, gate.caller().await);
    eventually("both have a place", async || {
        for caller in [&mut third, &mut fourth] {
            if caller.get("/livez").await.status != 200 {
                *caller = gate.caller().await;
                return false;
            }
        }
        true
    })
    .await;
    let mut fifth = gate.caller().await;
    let reply = fifth.reply().await;
    assert!(reply.error(503).contains("connections_max"));
    assert_eq!(reply.header("retry-after"), Some("1"));
    gate.line.go.add_permits(1);
    assert_eq!(first.reply().await.status, 200);
    drop(third);
    eventually("there is a place again", async || {
        let mut caller = gate.caller().await;
        caller.get("/livez").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn tensors_made_out_of_json_count_like_bodies() {
    let gate = Gate::with(GatewayConfig { body_bytes_max: 1 << 20, bodies_bytes_max: 1 << 20, ..config() });
    // 200,000 numbers are 400 KB of text and 1.6 MB of FP64.
    let data = vec!["1"; 200_000].join(",");
    let ask = |datatype: &str| {
        format!(r#"{{"inputs":[{{"name":"x","shape":[200000],"datatype":"{datatype}","data":[{data}]}}]}}"#)
    };
    let mut caller = gate.caller().await;
    assert!(caller.post(ECHO, ask("FP64")).await.error(503).contains("as many bytes"));
    assert_eq!(caller.post(ECHO, ask("UINT8")).await.status, 200);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_holds_its_room_until_it_is_gone() {
    const BYTES: usize = 8 << 20;
    let gate = Gate::with(GatewayConfig { body_bytes_max: 9 << 20, bodies_bytes_max: 40 << 20, ..config() });
    // Each byte becomes "0," in the answer: sixteen megabytes, more than the sockets hold between the two.
    let input = json!({"name": "x", "shape": [BYTES], "datatype": "UINT8", "parameters": {"binary_data_size": BYTES}});
    let request = json!({"inputs": [input]});
    let head = request.to_string();
    let body = [head.as_bytes(), &vec![0; BYTES]].concat();
    let length = head.len().to_string();
    let headers = [("Inference-Header-Content-Length", length.as_str())];
    let mut lazy = gate.lazy_caller().await;
    lazy.send(ECHO, &headers, &body).await;
    lazy.answer_begins().await;
    eventually("its answer is in the way of others", async || {
        let reply = gate.caller().await.post_with(ECHO, &headers, &body).await;
        reply.status == 503 && reply.json()["executed"] == "yes"
    })
    .await;
    assert_eq!(gate.caller().await.post(ECHO, REQUEST).await.status, 200);
    assert_eq!(lazy.reply().await.status, 200);
    eventually("there is room again", async || {
        gate.caller().await.post_with(ECHO, &headers, &body).await.status == 200
    })
    .await;
}
