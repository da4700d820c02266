//! The exchanges of section 7 of the JSON-RPC 2.0 specification whose outcome no method decides, at the real door: over HTTP
//! and over WebSocket. All fifteen are with the core, in `gateway/src/jsonrpc/spec.rs`.

use serde_json::{Value, json};

use crate::{
    gate::Gate,
    socket::{Socket, Words},
};

fn invalid() -> Value {
    json!({"jsonrpc": "2.0", "error": {"code": -32600}, "id": null})
}

fn unparsable() -> Value {
    json!({"jsonrpc": "2.0", "error": {"code": -32700}, "id": null})
}

/// What is sent, and what comes back; nothing for what is not answered.
fn exchanges() -> Vec<(&'static str, Option<Value>)> {
    vec![
        // A notification of a method that does not exist, and a call of it.
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, None),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
            Some(json!({"jsonrpc": "2.0", "error": {"code": -32601}, "id": "1"})),
        ),
        (r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#, Some(unparsable())),
        (r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, Some(invalid())),
        (
            r#"[
                {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method"
            ]"#,
            Some(unparsable()),
        ),
        ("[]", Some(invalid())),
        ("[1]", Some(json!([invalid()]))),
        ("[1,2,3]", Some(json!([invalid(), invalid(), invalid()]))),
        (
            r#"[
                {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
            ]"#,
            None,
        ),
    ]
}

/// Leaves of each error what the specification fixes.
fn fixed(mut answer: Value) -> Value {
    let fix = |response: &mut Value| {
        if let Some(error) = response.get_mut("error") {
            *error = json!({"code": error["code"]});
        }
    };
    match &mut answer {
        Value::Array(responses) => responses.iter_mut().for_each(fix),
        response => fix(response),
    }
    answer
}

#[tokio::test]
async fn the_exchanges_that_need_no_method_go_as_the_specification_says_over_http() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for (sent, expected) in exchanges() {
        let reply = caller.post("/rpc", sent).await;
        match expected {
            Some(expected) => assert_eq!((reply.status, fixed(reply.json())), (200, expected), "{sent}"),
            None => assert_eq!((reply.status, reply.text().as_str()), (204, ""), "{sent}"),
        }
    }
}

#[tokio::test]
async fn the_exchanges_that_need_no_method_go_as_the_specification_says_over_a_socket() {
    let gate = Gate::open();
    let mut socket = Socket::open(&gate).await;
    for (sent, expected) in exchanges() {
        socket.say(sent).await;
        // What is answered in any case, so that what is not answered shows.
        let ping = r#"{"jsonrpc":"2.0","method":"health","id":"after"}"#;
        if expected.is_none() {
            socket.say(ping).await;
        }
        let Words::Text(answer) = socket.hear().await else { panic!("no answer to {sent}") };
        match expected {
            Some(expected) => assert_eq!(fixed(answer), expected, "{sent}"),
            None => assert_eq!(answer["id"], "after", "{sent}"),
        }
    }
}
