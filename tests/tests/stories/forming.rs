//! How members find each other, and what they remember.

use lineside_tests::{Floor, PATIENCE, Plan, eventually};

#[tokio::test]
async fn three_nodes_and_a_gateway_find_each_other_by_one_seed() {
    let mut floor = Floor::empty(&["add"]).await;
    let plans = ["press", "weld", "paint"].map(Plan::node);
    floor.start_all(plans.into_iter().chain([Plan::gateway("door")])).await;

    let ready = floor.http("door").get("/v2/health/ready").await.unwrap();
    assert_eq!(ready.status, 200, "{}", ready.text());
    let seen = floor.seen_by("paint").await.unwrap();
    assert_eq!((seen.cluster, seen.members.len()), (floor.cluster(), 4));
}

#[tokio::test]
async fn three_nodes_and_a_gateway_find_each_other_by_mdns() {
    let mut floor = Floor::empty(&["add"]).await;
    let plans = ["press", "weld", "paint"].map(|name| Plan::node(name).by_mdns());
    floor.start_all(plans.into_iter().chain([Plan::gateway("door").by_mdns()])).await;
    assert_eq!(floor.seen_by("door").await.unwrap().members.len(), 4);
}

#[tokio::test]
async fn node_and_gateway_in_one_process_are_one_member_and_serve() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::up("line")]).await;
    let answer = floor.http("line").get("/v2/models/add/ready").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(floor.seen_by("line").await.unwrap().members.len(), 1);
}

#[tokio::test]
async fn a_machine_that_starts_alone_is_ready_when_its_models_are() {
    let models = ["add", "echo", "slow-add"];
    let mut floor = Floor::empty(&models).await;
    floor.start(Plan::up("line")).await;
    let mut http = floor.http("line");
    eventually("the door is ready", PATIENCE, async || {
        let answer = http.get("/v2/health/ready").await.map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    // Once: whoever waited for the door has no need to wait for them.
    for model in models {
        let answer = http.get(&format!("/v2/models/{model}/ready")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_killed_node_stays_listed_and_comes_back_in_its_own_row() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let before = floor.sees("door", "weld", "is alive", |row| row.state == "alive").await;

    floor.member_mut("weld").kill();
    for watcher in ["door", "press"] {
        floor.sees(watcher, "weld", "is down", |row| row.state == "down").await;
    }
    assert_eq!(floor.seen_by("door").await.unwrap().members.len(), 3);

    floor.restart("weld").await;
    floor.formed().await;
    let epoch = |row: &lineside_wire::MemberRow| row.member.as_ref().map(|state| state.epoch);
    let after = floor.sees("door", "weld", "lives again", |row| epoch(&before) < epoch(row)).await;
    assert_eq!((after.node, after.state.as_str()), (before.node, "alive"));
    assert_eq!(floor.seen_by("door").await.unwrap().members.len(), 3, "one row for one machine");
}

#[tokio::test]
async fn a_member_remembers_the_others_when_nobody_names_one() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    floor.member("weld").terminate();
    floor.member_mut("weld").ended(PATIENCE).await;
    floor.sees("door", "weld", "has left", |row| row.state == "left").await;
    floor.restart_as("weld", |plan| plan.set("member.seeds", "")).await;
    floor.formed().await;
}

#[tokio::test]
async fn a_member_that_is_alone_is_not_ready_and_says_why() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start(Plan::gateway("door")).await;
    let answer = floor.http("door").get("/readyz").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.json()["error"].as_str().is_some_and(|reason| !reason.is_empty()), "{}", answer.text());

    floor.start(Plan::node("press")).await;
    let mut http = floor.http("door");
    eventually("the door is ready", PATIENCE, async || {
        let answer = http.get("/readyz").await.map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}
