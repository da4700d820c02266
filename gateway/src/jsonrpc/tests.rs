use std::sync::Mutex;

use serde_json::{Value, json};

use super::{
    spec::{answer, block_on, example},
    *,
};

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

#[test]
fn an_id_is_echoed_as_it_was_written_and_only_a_missing_one_means_silence() {
    let text = |id: &str| format!(r#"{{"jsonrpc":"2.0","method":"get_data","id":{id}}}"#);
    let with = |id: &str| ask(&text(id));
    for id in [
        "null",
        "0",
        "-0",
        "-7",
        "1.50",
        "1e2",
        "12345678901234567890123.0",
        "1e999",
        r#""""#,
        r#""a\u0062\n""#,
        r#""\ud800""#,
        r#""1""#,
    ] {
        let answered = block_on(answer(text(id).as_bytes(), example)).expect("an answer");
        let answered = String::from_utf8(answered).expect("text");
        assert!(answered.ends_with(&format!(r#","id":{id}}}"#)), "{answered}");
    }
    for wrong in ["true", "false", "{}", "[]"] {
        assert_eq!(with(wrong), Some(error(-32600, &Value::Null)), "{wrong}");
    }
}

#[test]
fn nothing_that_is_sent_comes_back_longer_than_an_id_or_a_message_may_be() {
    let long =
        |letters: usize| format!(r#"{{"jsonrpc":"2.0","method":"get_data","id":"{}"}}"#, "x".repeat(letters));
    assert!(ask(&long(ID_BYTES_MAX - 2)).is_some_and(|answer| answer["result"].is_array()));
    assert_eq!(ask(&long(ID_BYTES_MAX - 1)), Some(error(-32600, &Value::Null)));
    let repeats =
        |_: Call<'_>| std::future::ready(Err(Fault::new(FaultCode::InvalidParams, "ä".repeat(5_000))));
    let answered = block_on(answer(long(1).as_bytes(), repeats)).expect("an answer");
    assert!(answered.len() < 2_500, "{} bytes", answered.len());
}

#[test]
fn a_wrong_envelope_does_not_hide_the_id_that_can_be_read() {
    let wrong = [
        (r#"{"method":"sum","id":5}"#, json!(5)),
        (r#"{"jsonrpc":2.0,"method":"sum","id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.0","method":"sum","params":7,"id":"x"}"#, json!("x")),
        (r#"{"jsonrpc":"2.0","id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.0","method":"sum","id":5,"id":6}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","method":"sum","method":"sum","id":5}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","method":"sum","params":[1],"params":[2],"id":5}"#, Value::Null),
        (r#"{"jsonrpc":"2.0","method":"sum","params":null,"id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.0","method":null,"id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.00","method":"sum","id":5}"#, json!(5)),
        (r#"{"jsonrpc":"2.0","method":"sum","id":{"a":1}}"#, Value::Null),
        (r#""jsonrpc""#, Value::Null),
        ("null", Value::Null),
        ("7", Value::Null),
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

#[test]
fn what_is_no_json_at_all_is_one_error_and_never_a_stack_overflow() {
    let deep = "[".repeat(100_000);
    let closed = deep.clone() + &"]".repeat(100_000);
    for broken in ["", " ", "{", "[1,", "[1] 2", "{'a':1}", "\u{feff}[]", "nul", deep.as_str()] {
        assert_eq!(ask(broken), Some(error(-32700, &Value::Null)), "{broken:.20}");
    }
    assert_eq!(block_on(answer(b"\"\xff\"", example)).map(|text| text.starts_with(b"{")), Some(true));
    // One entry, which is no object.
    assert_eq!(ask(&closed), Some(json!([error(-32600, &Value::Null)])));
    let params = format!(r#"{{"jsonrpc":"2.0","method":"foobar","params":{closed},"id":1}}"#);
    assert_eq!(ask(&params), Some(error(-32601, &json!(1))));
}

#[test]
fn a_notification_of_ours_has_no_id() {
    let text = notification("$/item", &json!({"number": 0}));
    assert_eq!(text, br#"{"jsonrpc":"2.0","method":"$/item","params":{"number":0}}"#);
}
