//! The fifteen exchanges of section 7 of the JSON-RPC 2.0 specification, compared as JSON. Errors are compared by what the
//! specification fixes, their codes and ids: messages are ours.

use serde_json::{Value, json};

use super::*;

/// The methods of the examples.
pub(super) async fn example(call: Call<'_>) -> Outcome {
    let params: Value = call.params.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
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

/// Answers a body.
pub(super) async fn answer<'a, F, R>(body: &'a [u8], handle: F) -> Option<Vec<u8>>
where
    F: Fn(Call<'a>) -> R,
    R: Future<Output = Outcome>,
{
    Document::read(body).answer(handle).await
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

/// One exchange: what it is called, what is sent, what comes back.
type Exchange = (&'static str, &'static str, Option<Value>);

fn error(code: i32, id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "error": {"code": code}, "id": id})
}

fn result(result: &Value, id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "result": result, "id": id})
}

fn single() -> [Exchange; 9] {
    let null = Value::Null;
    [
        (
            "positional parameters, 1",
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
            Some(result(&json!(19), &json!(1))),
        ),
        (
            "positional parameters, 2",
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
            Some(result(&json!(-19), &json!(2))),
        ),
        (
            "named parameters, 1",
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
            Some(result(&json!(19), &json!(3))),
        ),
        (
            "named parameters, 2",
            r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
            Some(result(&json!(19), &json!(4))),
        ),
        ("a notification, 1", r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, None),
        ("a notification, 2", r#"{"jsonrpc": "2.0", "method": "foobar"}"#, None),
        (
            "a method that does not exist",
            r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
            Some(error(-32601, &json!("1"))),
        ),
        (
            "invalid JSON",
            r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
            Some(error(-32700, &null)),
        ),
        (
            "an invalid request",
            r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
            Some(error(-32600, &null)),
        ),
    ]
}

fn batches() -> [Exchange; 6] {
    let invalid = || error(-32600, &Value::Null);
    [
        (
            "a batch of invalid JSON",
            r#"[
                {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method"
            ]"#,
            Some(error(-32700, &Value::Null)),
        ),
        ("an empty array", "[]", Some(invalid())),
        ("an invalid batch that is not empty", "[1]", Some(json!([invalid()]))),
        ("an invalid batch", "[1,2,3]", Some(json!([invalid(), invalid(), invalid()]))),
        (
            "a batch",
            r#"[
                {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
            ]"#,
            Some(json!([
                result(&json!(7), &json!("1")),
                result(&json!(19), &json!("2")),
                invalid(),
                error(-32601, &json!("5")),
                result(&json!(["hello", 5]), &json!("9")),
            ])),
        ),
        (
            "a batch of notifications",
            r#"[
                {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
            ]"#,
            None,
        ),
    ]
}

/// Leaves of each error what the specification fixes, after a look at the rest.
fn fixed(mut answer: Value) -> Value {
    let fix = |response: &mut Value| {
        let members = response.as_object().map_or(0, serde_json::Map::len);
        assert_eq!(members, 3, "jsonrpc, id, and a result or an error: {response}");
        if let Some(error) = response.get_mut("error") {
            assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
            *error = json!({"code": error["code"]});
        }
    };
    match &mut answer {
        Value::Array(responses) => responses.iter_mut().for_each(fix),
        response => fix(response),
    }
    answer
}

#[test]
fn the_fifteen_exchanges_of_the_specification_go_as_it_says() {
    let exchanges: Vec<Exchange> = single().into_iter().chain(batches()).collect();
    assert_eq!(exchanges.len(), 15);
    for (name, sent, expected) in exchanges {
        let answered = block_on(answer(sent.as_bytes(), example));
        let answered = answered.map(|text| fixed(serde_json::from_slice(&text).expect("JSON")));
        assert_eq!(answered, expected, "{name}");
    }
}
