//! JSON-RPC over WebSocket, with a client that frames its words by the library and its handshake by hand.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use futures_util::{SinkExt, StreamExt};
use lineside_certs::{ApiKeyOrder, Authority, Trust};
use lineside_gateway::GatewayConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::gate::{Gate, PATIENCE, config, eventually};

/// A client.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    asked: u64,
}

/// What a client hears.
#[derive(Debug, PartialEq)]
pub(crate) enum Words {
    Text(Value),
    Close(u16, String),
    /// The connection is over.
    End,
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn head(more: &str) -> String {
    format!(
        "GET /rpc/ws HTTP/1.1\r\nHost: gate:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n{KEY}{more}\r\n"
    )
}

impl Socket {
    pub(crate) async fn open(gate: &Gate) -> Self {
        Self::open_with(gate, "", 1 << 20).await.0
    }

    /// One that shows this key.
    pub(crate) async fn open_with_key(gate: &Gate, key: &str) -> Self {
        Self::open_with(gate, &format!("X-Api-Key: {key}\r\n"), 1 << 20).await.0
    }

    /// One that takes in little of what it does not read, and sends these headers; with the head of the answer.
    async fn open_with(gate: &Gate, headers: &str, takes: u32) -> (Self, String) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(takes).unwrap();
        let mut stream = socket.connect(gate.address).await.unwrap();
        stream.write_all(head(headers).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("an answer comes");
            answer.push(byte.expect("a whole head"));
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        (
            Self { stream: WebSocketStream::from_raw_socket(stream, Role::Client, None).await, asked: 0 },
            answer,
        )
    }

    pub(crate) async fn say(&mut self, text: impl Into<String>) {
        let message = Message::text(text.into());
        timeout(PATIENCE, self.stream.send(message)).await.expect("the door reads").unwrap();
    }

    async fn say_json(&mut self, value: &Value) {
        self.say(value.to_string()).await;
    }

    pub(crate) async fn hear(&mut self) -> Words {
        loop {
            match timeout(PATIENCE, self.stream.next()).await.expect("something is said") {
                Some(Ok(Message::Text(text))) => return Words::Text(serde_json::from_str(&text).unwrap()),
                // Without a code it answers our own.
                Some(Ok(Message::Close(frame))) => {
                    let (code, reason) = frame
                        .map_or_else(Default::default, |frame| (frame.code.into(), frame.reason.to_string()));
                    return Words::Close(code, reason);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Words::End,
            }
        }
    }

    async fn hear_json(&mut self) -> Value {
        match self.hear().await {
            Words::Text(value) => value,
            other => panic!("no text but {other:?}"),
        }
    }

    /// Calls, and waits for the one answer.
    pub(crate) async fn call(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.say_json(&call(method, params, &json!(id))).await;
        let answer = self.hear_json().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// Waits for the end, and gives how it was announced.
    async fn ends(&mut self) -> Option<(u16, String)> {
        let mut last = None;
        loop {
            match self.hear().await {
                Words::Text(_) => {}
                Words::Close(code, reason) => last = Some((code, reason)),
                Words::End => return last,
            }
        }
    }
}

fn call(method: &str, params: &Value, id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params, "id": id})
}

fn notification(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

fn infer(model: &str, id: &Value) -> Value {
    let number = |name: &str| json!({"name": name, "shape": [1], "datatype": "FP32", "data": [2]});
    call("infer", &json!({"model": model, "inputs": [number("a"), number("b")]}), id)
}

#[tokio::test]
async fn a_socket_is_opened_as_the_standard_says_and_serves_every_form_of_message() {
    let gate = Gate::open();
    let (mut socket, head) =
        Socket::open_with(&gate, "Sec-WebSocket-Protocol: jsonrpc-2.0\r\n", 1 << 20).await;
    let head = head.to_lowercase();
    for header in [
        "\r\nconnection: upgrade\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
        "\r\nsec-websocket-protocol: jsonrpc-2.0\r\n",
        "\r\nx-request-id: ",
    ] {
        assert!(head.contains(header), "{head}");
    }
    assert!(!head.contains("content-length"), "{head}");

    assert_eq!(socket.call("health", &json!({})).await["result"]["ready"], true);
    socket.say_json(&infer("add", &json!("a"))).await;
    let answer = socket.hear_json().await;
    assert_eq!((&answer["id"], &answer["result"]["outputs"][0]["data"]), (&json!("a"), &json!([4.0])));
    let message = Message::binary(infer("paint", &json!(1.5)).to_string());
    socket.stream.send(message).await.unwrap();
    let answer = socket.hear_json().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1.5), &json!(-32002)));
    socket.say_json(&json!([infer("add", &json!(1)), infer("busy", &json!(2)), 7])).await;
    let answers = socket.hear_json().await;
    assert_eq!(answers[0]["result"]["outputs"][0]["data"], json!([4.0]));
    let wait = answers[1]["error"]["data"]["retry_after_ms"].as_u64().unwrap();
    assert!((1_200..=1_800).contains(&wait), "spread by up to a half: {wait}");
    assert_eq!(answers[2]["error"]["code"], -32600);
    assert!(gate.metric("lineside_websockets").await == 1.0);
    assert!(gate.metric("lineside_websocket_messages_total").await == 4.0);

    socket.stream.close(None).await.unwrap();
    assert_eq!(socket.ends().await, Some((0, String::new())));
    eventually("no socket is open", async || gate.metric("lineside_websockets").await == 0.0).await;
}

#[tokio::test]
async fn what_asks_for_no_socket_is_told_in_json_and_its_connection_goes_on() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let reply = caller.get("/rpc/ws").await;
    assert!(reply.error(426).contains("WebSocket"));
    assert_eq!(reply.header("upgrade"), Some("websocket"));
    assert_eq!(reply.header("sec-websocket-version"), Some("13"));
    caller.write(head("").replace("Version: 13", "Version: 8")).await;
    let reply = caller.reply().await;
    assert!(reply.error(426).contains("13"));
    caller.write(head("").replace(KEY, "")).await;
    assert!(caller.reply().await.error(400).contains("Sec-WebSocket-Key"));
    caller.write(head("Origin: http://evil.example\r\n")).await;
    assert!(caller.reply().await.error(403).contains("Origin"));
    assert!(caller.post("/rpc/ws", "").await.error(405).contains("GET"));
    assert_eq!(caller.get("/livez").await.status, 200);
    drop(Socket::open_with(&gate, "Origin: http://gate:8080\r\n", 1 << 20).await);
}

#[tokio::test]
async fn calls_overtake_each_other_and_one_can_be_taken_back() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    socket.say_json(&infer("slow", &json!("s\u{e4}ge"))).await;
    socket.say_json(&json!([infer("slow", &json!(7)), infer("add", &json!(8))])).await;
    assert_eq!(socket.call("health", &json!({})).await["result"]["live"], true);
    eventually("both wait", async || gate.line.waiting.load(Ordering::SeqCst) == 2).await;

    // An id that is not in use, and then one in another spelling.
    socket.say_json(&notification("$/cancelRequest", &json!({"id": "7"}))).await;
    socket.say(r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"s\u00e4ge"}}"#).await;
    let answer = socket.hear_json().await;
    assert_eq!((&answer["id"], &answer["error"]["data"]["name"]), (&json!("s\u{e4}ge"), &json!("CANCELLED")));
    eventually("its node is free", async || gate.line.dropped.load(Ordering::SeqCst) == 1).await;
    // Of a batch, one entry can be taken back; asked for with an id, that is answered too.
    let answer = socket.call("$/cancelRequest", &json!({"id": 7})).await;
    assert!(answer["result"].is_object() || answer.is_array(), "{answer}");
    let answers = socket.hear_json().await;
    assert_eq!((&answers[0]["id"], &answers[0]["error"]["code"]), (&json!(7), &json!(-32007)));
    assert_eq!(answers[1]["result"]["outputs"][0]["data"], json!([4.0]));
}

#[tokio::test]
async fn a_client_that_goes_takes_its_calls_with_it() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    for id in 0..3 {
        socket.say_json(&infer("slow", &json!(id))).await;
    }
    eventually("all wait", async || gate.line.waiting.load(Ordering::SeqCst) == 3).await;
    drop(socket);
    eventually("none waits", async || gate.line.waiting.load(Ordering::SeqCst) == 0).await;
    assert_eq!(gate.line.dropped.load(Ordering::SeqCst), 3);
    assert_eq!(gate.metric("lineside_http_in_flight").await, 0.0);
}

#[tokio::test]
async fn a_connection_has_so_many_calls_at_a_time_and_no_more_is_read_until_one_ends() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    for id in 0..100 {
        socket.say_json(&infer("slow", &json!(id))).await;
    }
    eventually("as many as may", async || gate.line.waiting.load(Ordering::SeqCst) == 64).await;
    gate.line.go.add_permits(1);
    assert!(socket.hear_json().await["result"].is_object());
    eventually("one more", async || gate.line.calls.lock().unwrap().len() == 65).await;
    assert_eq!(gate.line.waiting.load(Ordering::SeqCst), 64);
    gate.line.go.add_permits(99);
    for _ in 1..100 {
        assert!(socket.hear_json().await["result"].is_object());
    }
}

#[tokio::test]
async fn a_call_ends_at_its_own_time() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    let mut params = infer("stuck", &json!(1))["params"].clone();
    params["timeout_ms"] = json!(30);
    params["traceparent"] = json!("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let answer = socket.call("infer", &params).await;
    assert_eq!(answer["error"]["data"]["name"], "DEADLINE_EXCEEDED_RUNNING");
    let (made, _) = gate.line.last_call();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(made.context.traceparent.as_deref(), Some(trace));
    params.as_object_mut().unwrap().remove("timeout_ms");
    params["parameters"] = json!({"timeout": 30_000});
    assert_eq!(socket.call("infer", &params).await["error"]["data"]["name"], "DEADLINE_EXCEEDED_RUNNING");
    for wrong in [json!(0), json!(-1), json!("soon"), json!(1.5)] {
        params["timeout_ms"] = wrong;
        assert_eq!(socket.call("infer", &params).await["error"]["code"], -32602);
    }
}

#[tokio::test]
async fn a_streamed_result_comes_as_numbered_items_and_an_end() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    let mut streamed = infer("add", &json!("s"));
    streamed["params"]["stream"] = json!(true);
    socket.say_json(&streamed).await;
    let item = socket.hear_json().await;
    assert_eq!((&item["method"], item.get("id")), (&json!("$/item"), None));
    assert_eq!((&item["params"]["id"], &item["params"]["number"]), (&json!("s"), &json!(0)));
    assert_eq!(item["params"]["item"]["outputs"][0]["data"], json!([4.0]));
    assert_eq!(socket.hear_json().await, json!({"jsonrpc": "2.0", "result": {"items": 1}, "id": "s"}));
    streamed["params"]["model"] = json!("busy");
    socket.say_json(&streamed).await;
    assert_eq!(socket.hear_json().await["error"]["data"]["name"], "BUSY");
    let over_http = gate.caller().await.post("/rpc", streamed.to_string()).await.json();
    assert!(over_http["error"]["message"].as_str().unwrap().contains("/rpc/ws"), "{over_http}");
}

#[tokio::test]
async fn a_watcher_hears_the_members_at_once_and_the_newest_state_after_changes() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    let name = socket.call("cluster.watch", &json!({})).await["result"]["subscription"].clone();
    assert!(name.is_string());
    let news = async |socket: &mut Socket| {
        let news = socket.hear_json().await;
        assert_eq!((&news["method"], news.get("id")), (&json!("$/subscription"), None));
        assert_eq!(news["params"]["subscription"], name);
        (
            news["params"]["seq"].as_u64().unwrap(),
            news["params"]["result"]["members"][0]["seen_ms_ago"].as_u64().unwrap(),
        )
    };
    assert_eq!(news(&mut socket).await, (0, 5));
    // More changes than anybody reads: only the last one is sure to come, and numbers have no gaps.
    for ms_ago in 100..=200 {
        gate.line.heard(ms_ago);
    }
    let mut last = (0, 5);
    while last.1 != 200 {
        let next = news(&mut socket).await;
        assert_eq!(next.0, last.0 + 1);
        last = next;
    }
    assert!(last.0 < 10, "{} lists for one burst", last.0);

    assert_eq!(socket.call("$/unsubscribe", &json!({"subscription": name})).await["result"], json!({}));
    gate.line.heard(300);
    // What is asked last is answered last: nothing came between.
    assert_eq!(socket.call("health", &json!({})).await["result"]["live"], true);
    assert_eq!(socket.call("$/unsubscribe", &json!({"subscription": name})).await["error"]["code"], -32602);
    for _ in 0..8 {
        assert!(socket.call_and_first_news().await["result"].is_object());
    }
    assert_eq!(socket.call("cluster.watch", &json!({})).await["error"]["data"]["name"], "LIMIT_EXCEEDED");
}

impl Socket {
    async fn call_and_first_news(&mut self) -> Value {
        let answer = self.call("cluster.watch", &json!({})).await;
        assert_eq!(self.hear_json().await["params"]["seq"], 0);
        answer
    }
}

#[tokio::test]
async fn each_call_is_charged_and_one_too_many_says_when_to_come_again() {
    let number = |n| std::num::NonZeroU32::new(n);
    let gate = Gate::with(GatewayConfig { rate: number(1), burst: number(4), ..config() });
    // Opening costs one.
    let mut socket = Socket::open(&gate).await;
    let health = |id: i32| call("health", &json!({}), &json!(id));
    socket.say_json(&json!([health(1), health(2), health(3), health(4), health(5)])).await;
    let answers = socket.hear_json().await;
    let refused: Vec<_> =
        answers.as_array().unwrap().iter().filter(|answer| answer.get("error").is_some()).collect();
    assert!((1..=2).contains(&refused.len()), "{answers}");
    for refusal in refused {
        assert_eq!(refusal["error"]["data"]["name"], "RATE_LIMITED");
        assert!(0 < refusal["error"]["data"]["retry_after_ms"].as_u64().unwrap());
    }
}

#[tokio::test]
async fn a_message_that_is_too_long_or_broken_ends_the_socket_with_the_reason() {
    let gate = Gate::with(GatewayConfig { body_bytes_max: 10_000, bodies_bytes_max: 100_000, ..config() });
    let mut socket = Socket::open(&gate).await;
    socket.say("x".repeat(9_000)).await;
    assert_eq!(socket.hear_json().await["error"]["code"], -32700);
    socket.say("x".repeat(10_001)).await;
    let (code, reason) = socket.ends().await.expect("a reason");
    assert_eq!((code, reason.contains("body_bytes_max")), (1009, true), "{reason}");

    // Many short pieces of one long message.
    let mut socket = Socket::open(&gate).await;
    let piece = |code, last| {
        use tokio_tungstenite::tungstenite::protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        };
        let code = if code { Data::Text } else { Data::Continue };
        Message::Frame(Frame::message("y".repeat(1_000), OpCode::Data(code), last))
    };
    for number in 0..11 {
        drop(socket.stream.send(piece(number == 0, false)).await);
    }
    assert_eq!(socket.ends().await.map(|(code, _)| code), Some(1009));

    // Unmasked: a client may not.
    let (socket, _) = Socket::open_with(&gate, "", 1 << 20).await;
    let mut raw = socket.stream.into_inner();
    raw.write_all(&[0x81, 2, b'{', b'}']).await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, raw.read_to_end(&mut rest)).await.expect("it ends").unwrap();
    assert_eq!(rest.get(2..4), Some(&1002_u16.to_be_bytes()[..]), "{rest:?}");
    assert_eq!(gate.caller().await.get("/livez").await.status, 200);
}

#[tokio::test]
async fn unfinished_messages_share_the_room_of_all_bodies() {
    let gate = Gate::with(GatewayConfig { body_bytes_max: 50_000, bodies_bytes_max: 50_000, ..config() });
    let mut held = Vec::new();
    // Each holds back the end of its message; together they are more than there is room for.
    for _ in 0..4 {
        let mut raw = Socket::open(&gate).await.stream.into_inner();
        let length = 40_000_u16.to_be_bytes();
        raw.write_all(&[0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0]).await.unwrap();
        raw.write_all(&vec![b'x'; 30_000]).await.unwrap();
        held.push(raw);
    }
    let mut first = [0; 4];
    eventually("one is told", async || {
        for raw in &mut held {
            if let Ok(Ok(4)) = timeout(Duration::from_millis(5), raw.peek(&mut first)).await {
                return true;
            }
        }
        false
    })
    .await;
    assert_eq!(first[2..], 1013_u16.to_be_bytes(), "{first:?}");
    drop(held);
    eventually("there is room again", async || {
        let mut socket = Socket::open(&gate).await;
        socket.say("x".repeat(40_000)).await;
        matches!(socket.hear().await, Words::Text(_))
    })
    .await;
}

#[tokio::test]
async fn a_socket_may_no_more_than_its_key_may_now() {
    let home = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::create(&home.path().join("ca"), "plant 2", now).unwrap();
    let order = ApiKeyOrder {
        name: "camera".to_owned(),
        models: vec!["add".to_owned()],
        methods: vec!["infer".to_owned(), "cluster.watch".to_owned()],
        lifetime: None,
        rate: None,
        burst: None,
    };
    let key = authority.create_key(&order, now).unwrap();
    let gate = Gate::open();
    let tell = || gate.shared.set_keys(Trust::own(&authority.trust().unwrap()).unwrap().keys().to_vec());
    tell();
    let (mut socket, _) = Socket::open_with(&gate, &format!("X-Api-Key: {key}\r\n"), 1 << 20).await;
    socket.call_and_first_news().await;
    let params = infer("add", &json!(0))["params"].clone();
    assert!(socket.call("infer", &params).await["result"].is_object());
    let other = infer("echo", &json!(0))["params"].clone();
    for (method, params) in [("infer", &other), ("models.list", &json!({}))] {
        assert_eq!(socket.call(method, params).await["error"]["data"]["name"], "PERMISSION_DENIED");
    }

    authority.revoke_key(key.id(), now).unwrap().unwrap();
    tell();
    let answer = socket.call("infer", &params).await;
    assert_eq!(answer["error"]["data"]["name"], "PERMISSION_DENIED", "{answer}");
    gate.line.heard(7);
    let news = socket.hear_json().await;
    assert_eq!(news["params"]["error"]["data"]["name"], "PERMISSION_DENIED", "{news}");
    assert_eq!(news["params"]["seq"], 1);
}

#[tokio::test]
async fn who_does_not_read_is_cut_and_holds_up_nobody() {
    let gate = Gate::with(GatewayConfig { write_idle_max: Duration::from_millis(300), ..config() });
    let (mut lazy, _) = Socket::open_with(&gate, "", 4 << 10).await;
    let large = json!({"model": "echo", "inputs": [
        {"name": "x", "shape": [100_000], "datatype": "FP32", "data": vec![0.5; 100_000]}
    ]});
    let mut socket = Socket::open(&gate).await;
    let flood = async {
        for id in 0..200 {
            let message = Message::text(call("infer", &large, &json!(id)).to_string());
            if lazy.stream.send(message).await.is_err() {
                return;
            }
        }
        panic!("a client that reads nothing was served on");
    };
    let other = async {
        for _ in 0..20 {
            assert_eq!(socket.call("health", &json!({})).await["result"]["live"], true);
        }
    };
    timeout(PATIENCE, async { tokio::join!(flood, other) }).await.expect("it is cut");
    eventually("it is gone", async || gate.metric("lineside_websockets").await == 1.0).await;
    assert_eq!(gate.metric("lineside_http_in_flight").await, 0.0);
}

#[tokio::test]
async fn a_door_that_leaves_answers_what_runs_and_says_goodbye() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    socket.call_and_first_news().await;
    socket.say_json(&infer("slow", &json!(1))).await;
    eventually("it waits", async || gate.line.waiting.load(Ordering::SeqCst) == 1).await;
    let mut idle = Socket::open(&gate).await;
    gate.shutdown.cancel();
    assert_eq!(
        idle.hear().await,
        Words::Close(1001, "this gateway is leaving: connect to another".to_owned())
    );
    assert_eq!(idle.hear().await, Words::End);
    gate.line.go.add_permits(1);
    assert_eq!(socket.hear_json().await["id"], 1);
    assert_eq!(socket.ends().await.map(|(code, _)| code), Some(1001));
    gate.closed().await.unwrap();
}

#[tokio::test]
async fn a_door_that_leaves_waits_for_no_call_longer_than_it_may() {
    let gate = Gate::with(GatewayConfig { drain_max: Duration::from_millis(1_200), ..config() });
    let mut socket = Socket::open(&gate).await;
    socket.say_json(&infer("stuck", &json!(1))).await;
    eventually("it runs", async || gate.line.calls.lock().unwrap().len() == 1).await;
    gate.shutdown.cancel();
    assert_eq!(socket.ends().await.map(|(code, _)| code), Some(1001));
    gate.closed().await.unwrap();
}

#[tokio::test]
async fn a_defect_ends_its_own_socket_and_no_other() {
    let gate = Gate::open();
    let (mut broken, mut other) = (Socket::open(&gate).await, Socket::open(&gate).await);
    broken.say_json(&infer("panics", &json!(1))).await;
    assert_eq!(broken.ends().await.map(|(code, _)| code), Some(1011));
    assert_eq!(other.call("health", &json!({})).await["result"]["live"], true);
    assert_eq!(gate.metric("lineside_http_in_flight").await, 0.0);
}

#[tokio::test]
async fn a_socket_keeps_the_place_of_its_connection() {
    let gate = Gate::with(GatewayConfig { connections_max: 2, ..config() });
    let sockets = (Socket::open(&gate).await, Socket::open(&gate).await);
    let mut caller = gate.caller().await;
    assert!(caller.reply().await.error(503).contains("connections_max"));
    drop(sockets);
    eventually("there is a place", async || {
        let mut caller = gate.caller().await;
        caller.get("/livez").await.status == 200
    })
    .await;
}
