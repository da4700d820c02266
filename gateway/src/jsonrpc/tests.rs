use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;

/// The methods of the specification's examples.
async fn example(call: Call<'_>) -> Outcome {
    let params: Value = call.params.map_or(Value::Null, |raw| serde_json::from_str(raw.get()).expect("JSON"));
    let numbers = || params.as_array().into_iter().flatten().filter_map(Value::as_i64);
    let result = match call.method.as_ref() {
        "subtract" if params.is_array() => json!(numbers().reduce(|a, b| a - b)),
        "subtract" => {
            json!(params["minuend"].as_i64().unwrap_or(0) - params["subtrahend"].as_i64().unwrap_or(0))
        }
        "sum" => json!(numbers().sum::<i64>()),
        "get_data" => json!(["hello", 5]),
        "update" | "notify_hello" | "notify_sum" => Value::Null,
        _ => return Err(Fault::new(FaultCode::MethodNotFound, "Method not found")),
    };
    Ok(serde_json::value::to_raw_value(&result).expect("JSON"))
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

/// What comes back for a body, with errors cut down to their numbers.
fn ask(body: &str) -> Option<Value> {
    let answer = block_on(answer(body.as_bytes(), example))?;
    let mut answer: Value = serde_json::from_slice(&answer).expect("JSON");
    let cut = |response: &mut Value| {
        if let Some(error) = response.get_mut("error") {
            assert!(error["message"].is_string() && error["data"]["name"].is_string());
            *error = error["code"].clone();
        }
    };
    match &mut answer {
        Value::Array(responses) => responses.iter_mut().for_each(cut),
        response => cut(response),
    }
    Some(answer)
}

fn error(code: i32, id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "error": code, "id": id})
}

fn result(result: &Value, id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "result": result, "id": id})
}

#[test]
fn the_examples_of_the_specification_are_answered_as_it_says() {
    let examples = [
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
            Some(result(&json!(19), &json!(1))),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
            Some(result(&json!(-19), &json!(2))),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
            Some(result(&json!(19), &json!(3))),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
            Some(result(&json!(19), &json!(4))),
        ),
        (r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, None),
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, None),
        (r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#, Some(error(-32601, &json!("1")))),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
            Some(error(-32700, &Value::Null)),
        ),
        (r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, Some(error(-32600, &Value::Null))),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method""#,
            Some(error(-32700, &Value::Null)),
        ),
        ("[]", Some(error(-32600, &Value::Null))),
        ("[1]", Some(json!([error(-32600, &Value::Null)]))),
        (" \n[ 1 ]\n", Some(json!([error(-32600, &Value::Null)]))),
        ("", Some(error(-32700, &Value::Null))),
        ("\"text\"", Some(error(-32600, &Value::Null))),
        (
            "[1,2,3]",
            Some(json!([
                error(-32600, &Value::Null),
                error(-32600, &Value::Null),
                error(-32600, &Value::Null)
            ])),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]"#,
            Some(json!([
                result(&json!(7), &json!("1")),
                result(&json!(19), &json!("2")),
                error(-32600, &Value::Null),
                error(-32601, &json!("5")),
                result(&json!(["hello", 5]), &json!("9")),
            ])),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#,
            None,
        ),
    ];
    for (body, expected) in examples {
        assert_eq!(ask(body), expected, "{body}");
    }
}

#[test]
fn an_id_is_echoed_as_it_was_written_and_only_a_missing_one_means_silence() {
    let with = |id: &str| ask(&format!(r#"{{"jsonrpc":"2.0","method":"get_data","id":{id}}}"#));
    assert!(with("null").is_some());
    let exact =
        block_on(answer(br#"{"jsonrpc":"2.0","method":"get_data","id":12345678901234567890123.0}"#, example));
    let exact = String::from_utf8(exact.expect("an answer")).expect("text");
    assert!(exact.contains(r#""id":12345678901234567890123.0"#), "{exact}");
    for wrong in ["true", "false", "{}", "[]"] {
        assert_eq!(with(wrong), Some(error(-32600, &Value::Null)), "{wrong}");
    }
}

#[test]
fn a_wrong_envelope_does_not_hide_the_id_that_can_be_read() {
    let wrong = [
        (r#"{"method":"sum","id":5}"#, json!(5)),
        (r#"{"jsonrpc":2.0,"method":"sum","id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.0","method":"sum","params":7,"id":"x"}"#, json!("x")),
        (r#"{"jsonrpc":"2.0","id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.0","method":"sum","id":5,"id":6}"#, Value::Null),
    ];
    for (body, id) in wrong {
        assert_eq!(ask(body), Some(error(-32600, &id)), "{body}");
    }
}

#[test]
fn a_batch_has_an_end_and_its_calls_run_side_by_side() {
    let call = r#"{"jsonrpc":"2.0","method":"get_data","id":1}"#;
    let batch = |count: usize| format!("[{}]", vec![call; count].join(","));
    let answers = ask(&batch(BATCH_ENTRIES_MAX)).expect("answers");
    assert_eq!(answers.as_array().map(Vec::len), Some(BATCH_ENTRIES_MAX));
    assert_eq!(ask(&batch(BATCH_ENTRIES_MAX + 1)), Some(error(-32600, &Value::Null)));

    // Each call waits for the other: one after another they would never end.
    let meeting = tokio::sync::Barrier::new(2);
    let order = Mutex::new(Vec::new());
    let body = batch(2);
    let meet = |call: Call<'_>| {
        let method = call.method.into_owned();
        let (meeting, order) = (&meeting, &order);
        async move {
            meeting.wait().await;
            order.lock().expect("no panic").push(method);
            Err(Fault::new(FaultCode::Busy, "met"))
        }
    };
    assert!(block_on(answer(body.as_bytes(), meet)).is_some());
    assert_eq!(order.lock().expect("no panic").len(), 2);
}
