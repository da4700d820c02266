//! What a gateway says when it cannot give an answer, and that it goes on.

use std::time::Duration;

use lineside_tests::{Addends, Floor, Http, PATIENCE, PATIENTLY, Plan, add_by_http, eventually};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

const SUM: Addends = Addends::new(2.0, 3.0);

async fn still_adds(http: &mut Http) {
    let answer = add_by_http(http, SUM, &[]).await.unwrap();
    assert!(answer.added(SUM).unwrap().right);
}

#[tokio::test]
async fn a_broken_model_is_listed_with_its_reason_and_the_others_serve() {
    let mut floor = Floor::empty(&["add", "broken"]).await;
    floor.start_all([Plan::gateway("door"), Plan::node("press")]).await;
    let mut http = floor.http("door");

    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "models.list"}).to_string();
    let list = http.post("/rpc", &[], call.as_bytes()).await.unwrap().json();
    let models = list["result"]["models"].as_array().unwrap_or_else(|| panic!("{list}"));
    let state = |name| models.iter().find(|model| model["name"] == name).map(|model| &model["state"]);
    assert_eq!((state("add"), state("broken")), (Some(&"READY".into()), Some(&"UNAVAILABLE".into())));
    let broken = models.iter().find(|model| model["name"] == "broken").unwrap();
    assert!(broken["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{broken}");

    let refused = http.post("/v2/models/broken/infer", &[], br#"{"inputs":[]}"#).await.unwrap();
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (503, &"MODEL_UNAVAILABLE".into()),
        "{}",
        refused.text()
    );
    still_adds(&mut http).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_words_and_harms_nobody() {
    let mut floor = Floor::empty(&["add"]).await;
    let door = Plan::gateway("door").set("gateway.body_bytes_max", "64KiB");
    floor.start_all([door, Plan::node("press")]).await;
    let mut http = floor.http("door");
    let input = |name: &str, datatype: &str, shape: &[i64], data: &[f32]| json!({"name": name, "datatype": datatype, "shape": shape, "data": data});
    let a = || input("a", "FP32", &[2], &[1.0, 2.0]);
    let with = |b: serde_json::Value| json!({"inputs": [a(), b]}).to_string();
    let add = "/v2/models/add/infer";
    let cases = [
        (
            "unknown model",
            "/v2/models/subtract/infer",
            with(input("b", "FP32", &[2], &[1.0, 2.0])),
            404,
            "subtract",
        ),
        (
            "unknown version",
            "/v2/models/add/versions/7/infer",
            with(input("b", "FP32", &[2], &[1.0, 2.0])),
            404,
            "7",
        ),
        ("unknown input", add, with(input("c", "FP32", &[2], &[1.0, 2.0])), 400, "c"),
        ("missing input", add, json!({"inputs": [a()]}).to_string(), 400, "b"),
        ("wrong datatype", add, with(input("b", "FP64", &[2], &[1.0, 2.0])), 400, "FP"),
        ("no datatype", add, with(input("b", "FLOAT", &[2], &[1.0, 2.0])), 400, "FLOAT"),
        ("wrong rank", add, with(input("b", "FP32", &[2, 1], &[1.0, 2.0])), 400, "b"),
        ("too few elements", add, with(input("b", "FP32", &[2], &[1.0])), 400, "b"),
        ("negative dimension", add, with(input("b", "FP32", &[-2], &[1.0, 2.0])), 400, "b"),
        ("no JSON", add, "{\"inputs\": [".to_owned(), 400, ""),
        ("no object", add, "7".to_owned(), 400, ""),
        ("nothing", add, String::new(), 400, ""),
        ("oversize", add, " ".repeat(100 << 10), 413, ""),
    ];
    for (what, path, body, status, text) in cases {
        let answer = http.post(path, &[], body.as_bytes()).await.unwrap();
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let error = answer.json();
        assert!(error["error"].as_str().is_some_and(|error| error.contains(text)), "{what}: {error}");
        assert_eq!(error["executed"], "no", "{what}: {error}");
        assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"), "{what}: {error}");
    }
    let (body, length) = SUM.body();
    let cut = http
        .post(add, &[("inference-header-content-length", &length.to_string())], &body[..body.len() - 1])
        .await;
    assert_eq!(cut.unwrap().status, 400, "a byte is missing");
    let beyond = http.post(add, &[("inference-header-content-length", "999999")], &body).await;
    assert_eq!(beyond.unwrap().status, 400, "more JSON than body");
    still_adds(&mut http).await;
}

#[tokio::test]
async fn a_full_cluster_says_busy_at_once_and_serves_again_when_it_has_room() {
    let mut floor = Floor::empty(&["slow-add"]).await;
    let press = Plan::node("press").set("node.queue_max", 2);
    floor.start_all([Plan::gateway("door"), press]).await;
    let slowly = SUM.slowly(Duration::from_millis(200));
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let mut http = floor.http("door");
        calls.spawn(async move { add_by_http(&mut http, slowly, &[PATIENTLY]).await.unwrap() });
    }
    let answers = calls.join_all().await;
    let (served, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    // Two wait, and one runs if it got so far before the others came; what ended meanwhile made room for more.
    assert!(2 <= served.len() && !refused.is_empty(), "{} served", served.len());
    for answer in refused {
        assert_eq!((answer.status, &answer.json()["code"]), (503, &"BUSY".into()), "{}", answer.text());
        assert_eq!((&answer.json()["executed"], &answer.json()["retryable"]), (&"no".into(), &true.into()));
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds != "0"), "when to come again");
    }
    let mut http = floor.http("door");
    let answer = add_by_http(&mut http, SUM.slowly(Duration::from_millis(1)), &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_passed_deadline_is_an_answer_in_time() {
    let mut floor = Floor::empty(&["slow-add"]).await;
    floor.start_all([Plan::gateway("door"), Plan::node("press")]).await;
    let mut http = floor.http("door");
    let slowly = SUM.slowly(Duration::from_secs(4));
    let begun = Instant::now();
    let answer = add_by_http(&mut http, slowly, &[("x-request-timeout-ms", "150")]).await.unwrap();
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.json()["code"].as_str().is_some_and(|code| code.starts_with("DEADLINE_EXCEEDED")));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    // The node stops what nobody waits for: its only session is free long before the four seconds are over.
    eventually("the session is free", PATIENCE, async || {
        let quickly = SUM.slowly(Duration::from_millis(1));
        let answer = add_by_http(&mut http, quickly, &[]).await.map_err(|error| error.to_string())?;
        answer.added(quickly).map(|added| assert!(added.right))
    })
    .await;
}
