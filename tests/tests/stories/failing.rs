//! Members that fail under load: what was asked is answered.

use std::time::Duration;

use lineside_tests::{Addends, Floor, PATIENCE, Plan, add_by_quic};
use lineside_wire::Role;
use tokio::time::sleep;

#[tokio::test]
async fn nothing_is_lost_when_one_of_three_nodes_is_killed_under_load() {
    let mut floor = Floor::with_nodes(["press", "weld", "paint"]).await;
    let load = floor.load(4, 4).await;
    let weld = floor.member("weld").node();
    load.answers_of(weld, 20).await;

    floor.member_mut("weld").kill();
    load.until("a call has moved to another node", |tally| 0 < tally.moved).await;
    load.answers(100).await;
    floor.sees("door", "weld", "is down", |row| row.state == "down").await;
    let before = load.tally();
    load.answers(100).await;

    let tally = load.end().await;
    tally.assert_nothing_lost();
    assert_eq!(tally.by(weld), before.by(weld), "a dead node answered");
}

#[tokio::test]
async fn a_killed_node_that_is_started_again_takes_its_part_again() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let load = floor.load(4, 4).await;
    let weld = floor.member("weld").node();
    load.answers_of(weld, 20).await;

    floor.member_mut("weld").kill();
    floor.restart("weld").await;
    load.answers_of(weld, 50).await;
    load.end().await.assert_nothing_lost();
}

#[tokio::test]
async fn nothing_is_lost_when_a_node_stands_still_for_a_while() {
    /// Less than the idle timeout of a connection: QUIC does not notice, callers do.
    const A_WHILE: Duration = Duration::from_millis(1500);
    let mut floor = Floor::with_nodes(["press", "weld", "paint"]).await;
    let load = floor.load(4, 4).await;
    let weld = floor.member("weld").node();
    load.answers_of(weld, 20).await;

    floor.member_mut("weld").pause();
    sleep(A_WHILE).await;
    floor.member_mut("weld").resume();
    load.answers_of(weld, 20).await;
    load.end().await.assert_nothing_lost();
}

#[tokio::test]
async fn a_program_that_knows_two_doors_outlives_one() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::node("press"), Plan::gateway("east"), Plan::gateway("west")]).await;
    let client = floor.client(&["east", "west"]).await;
    assert_eq!(client.roster().doors().len(), 2);

    let addends = Addends::new(2.0, 3.0);
    for _ in 0..20 {
        assert!(add_by_quic(&client, addends).await.unwrap().right);
    }
    floor.member_mut("east").kill();
    for _ in 0..200 {
        assert!(add_by_quic(&client, addends).await.unwrap().right);
    }
    assert_eq!(client.members().await.unwrap().answered_by, floor.member("west").node());
}

#[tokio::test]
async fn a_program_that_was_told_of_one_door_learns_of_the_other() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::node("press"), Plan::gateway("east"), Plan::gateway("west")]).await;
    let identity = floor.identity(Role::Client);
    let client = lineside_client::Client::connect(identity, [floor.member("east").address()]).await.unwrap();
    floor.member_mut("east").kill();
    let addends = Addends::new(0.5, 0.25);
    assert!(add_by_quic(&client, addends).await.unwrap().right);
}

#[tokio::test]
async fn without_any_node_the_door_says_so_and_comes_back_with_the_node() {
    let mut floor = Floor::with_nodes(["press"]).await;
    let addends = Addends::new(2.0, 3.0);
    let mut http = floor.http("door");
    floor.member_mut("press").kill();
    floor.sees("door", "press", "is down", |row| row.state == "down").await;

    let answer = lineside_tests::add_by_http(&mut http, addends, &[]).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "when to come again");
    assert_eq!((&answer.json()["executed"], &answer.json()["retryable"]), (&"no".into(), &true.into()));

    floor.restart("press").await;
    floor.formed().await;
    lineside_tests::eventually("the sum", PATIENCE, async || {
        let answer = lineside_tests::add_by_http(&mut http, addends, &[]).await;
        answer.map_err(|error| error.to_string())?.added(addends).map(|added| assert!(added.right))
    })
    .await;
}
