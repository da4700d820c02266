//! Models with a state: a sequence stays with its node, and ends with it, unless its caller keeps the state.

use lineside_tests::{Floor, Http, HttpAnswer, PATIENCE, Plan, eventually};
use serde_json::{Value, json};

/// A cluster of two nodes and a door, which serve a model that adds up.
async fn two_nodes() -> Floor {
    let mut floor = Floor::empty(&["accumulate"]).await;
    floor.start_all([Plan::node("press"), Plan::node("weld"), Plan::gateway("door")]).await;
    floor
}

/// Adds a number to a sum.
async fn add(http: &mut Http, x: f32, parameters: Value, state: Option<&Value>) -> HttpAnswer {
    let mut inputs = vec![json!({"name": "x", "datatype": "FP32", "shape": [1], "data": [x]})];
    inputs.extend(
        state.map(
            |state| json!({"name": "sequence_state", "datatype": "BYTES", "shape": [1], "data": [state]}),
        ),
    );
    let body = json!({"inputs": inputs, "parameters": parameters}).to_string();
    http.post("/v2/models/accumulate/infer", &[], body.as_bytes()).await.unwrap()
}

/// An output's only element.
fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let output = outputs.iter().find(|output| output["name"] == name);
    &output.unwrap_or_else(|| panic!("no {name}: {answer}"))["data"][0]
}

fn total(answer: &HttpAnswer) -> f64 {
    output(&answer.json(), "total").as_f64().unwrap_or_else(|| panic!("{}", answer.text()))
}

#[tokio::test]
async fn a_sequence_stays_with_its_node_and_ends_with_it_in_words() {
    let mut floor = two_nodes().await;
    let mut http = floor.http("door");
    let mut nodes = Vec::new();
    // As many as it takes for both nodes to have one; their totals must not mix.
    for id in 1..=8_u8 {
        let begun = json!({"sequence_id": id, "sequence_start": true});
        let answer = add(&mut http, f32::from(id), begun, None).await;
        assert_eq!(total(&answer), f64::from(id));
        nodes.push(answer.header("x-lineside-node").unwrap().to_owned());
    }
    for round in 2..=4 {
        for (id, node) in (1..=8_u8).zip(&nodes) {
            let answer = add(&mut http, f32::from(id), json!({"sequence_id": id}), None).await;
            assert_eq!(
                (total(&answer), answer.header("x-lineside-node")),
                (f64::from(id) * f64::from(round), Some(&**node))
            );
        }
    }
    let of = |name: &str, floor: &Floor| {
        let node = floor.member(name).node().to_string();
        (1..=8_u8).zip(&nodes).find(|(_, on)| **on == node).map(|(id, _)| id)
    };
    let (press, weld) = (of("press", &floor), of("weld", &floor));
    let lost = press.or(weld).unwrap();
    let (gone, stays) = if press.is_some() { ("press", "weld") } else { ("weld", "press") };
    let kept = of(stays, &floor);

    floor.member_mut(gone).kill();
    // Until the cluster has found it to be gone, its state may still be somewhere: the call may come again.
    eventually("the sequence is lost", PATIENCE, async || {
        let answer = add(&mut http, 1.0, json!({"sequence_id": lost}), None).await;
        let (status, code) = (answer.status, answer.json()["code"].clone());
        assert_ne!(status, 200, "a state that nobody has: {}", answer.text());
        if code == "SEQUENCE_LOST" { Ok(()) } else { Err(format!("{status} {code}")) }
    })
    .await;
    let answer = add(&mut http, 1.0, json!({"sequence_id": lost}), None).await;
    let told = answer.json();
    assert_eq!(
        (answer.status, &told["executed"], &told["retryable"]),
        (400, &"no".into(), &false.into()),
        "{told}"
    );
    assert!(told["error"].as_str().unwrap().contains("begin it again with sequence_start"), "{told}");

    // It begins again at the node that is left, where the others go on.
    let answer = add(&mut http, 5.0, json!({"sequence_id": lost, "sequence_start": true}), None).await;
    assert_eq!(total(&answer), 5.0);
    let answer = add(&mut http, 6.0, json!({"sequence_id": lost, "sequence_end": true}), None).await;
    assert_eq!(total(&answer), 11.0);
    if let Some(id) = kept {
        let answer = add(&mut http, f32::from(id), json!({"sequence_id": id}), None).await;
        assert_eq!(total(&answer), f64::from(id) * 5.0);
    }
}

#[tokio::test]
async fn a_caller_that_keeps_the_state_does_not_notice_that_a_node_dies() {
    let mut floor = two_nodes().await;
    let mut http = floor.http("door");
    let answer = add(&mut http, 1.0, json!({"sequence_start": true, "sequence_state": true}), None).await;
    assert_eq!(total(&answer), 1.0);
    let mut state = output(&answer.json(), "sequence_state").clone();
    for count in 2..=60_u8 {
        if count == 20 {
            floor.member_mut("press").kill();
        }
        let answer = add(&mut http, 1.0, json!({}), Some(&state)).await;
        assert_eq!((answer.status, total(&answer)), (200, f64::from(count)), "{}", answer.text());
        state = output(&answer.json(), "sequence_state").clone();
    }
}

#[tokio::test]
async fn what_a_model_with_a_state_needs_is_said_in_words() {
    let mut floor = Floor::empty(&["accumulate", "add"]).await;
    floor.start_all([Plan::node("press"), Plan::gateway("door")]).await;
    let mut http = floor.http("door");
    let model = http.get("/v2/models/accumulate").await.unwrap().json();
    let names = |side: &str| {
        model[side].as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((names("inputs"), names("outputs")), (vec![json!("x")], vec![json!("total")]), "{model}");

    let answer = add(&mut http, 1.0, json!({}), None).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    for word in ["sequence_id", "sequence_start", "sequence_state"] {
        assert!(answer.text().contains(word), "{}", answer.text());
    }
    let answer = add(&mut http, 1.0, json!({}), Some(&json!("no state"))).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("damaged"), "{}", answer.text());
}
