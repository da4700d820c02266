//! Members that are killed and come back: at once, and all together.

use std::time::Duration;

use lineside_tests::{Floor, Load, PATIENCE, Plan, add_by_http, eventually};
use lineside_wire::MemberRow;
use tokio::time::Instant;

/// A connection whose peer was killed and is there again ends within this time: the new process says that it knows nothing
/// of it.
const RESET_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_node_that_is_killed_and_back_at_once_is_the_same_member_in_its_next_life() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let load = floor.load(4, 4).await;
    let weld = floor.member("weld").node();
    load.answers_of(weld, 20).await;
    let epoch = |row: &MemberRow| row.member.as_ref().map(|state| state.epoch);
    let before = floor.sees("door", "weld", "is alive", |row| row.state == "alive").await;

    floor.member_mut("weld").kill();
    let killed = Instant::now();
    floor.restart("weld").await;
    let gone_for = killed.elapsed();
    let next = epoch(&before).map(|epoch| epoch + 1);
    for watcher in ["door", "press", "weld"] {
        let row = floor.sees(watcher, "weld", "lives again", |row| next <= epoch(row)).await;
        assert_eq!((row.node, epoch(&row)), (weld, next), "one life after the other");
        let rows = floor.seen_by(watcher).await.unwrap().members;
        assert_eq!(rows.len(), 3, "one row for one machine: {rows:?}");
    }
    load.answers_of(weld, 20).await;
    let tally = load.end().await;
    tally.assert_nothing_lost();
    assert!(
        tally.slowest < gone_for + RESET_WITHIN,
        "a call waited for {:?}, and its node was there again after {gone_for:?}",
        tally.slowest
    );
}

#[tokio::test]
async fn after_a_power_cut_members_find_each_other_by_what_they_remember() {
    let mut floor = Floor::with_nodes(["press", "weld", "paint"]).await;
    // Written soon after the first member was met, and then seldom.
    eventually("all have written down whom they met", PATIENCE, async || {
        for name in ["press", "weld", "paint", "door"] {
            let file = floor.member(name).data().join("state/members");
            let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
            text.lines().nth(1).ok_or_else(|| format!("{name} remembers nobody"))?;
        }
        Ok(())
    })
    .await;

    floor.restart_all_at_once().await;
    floor.formed().await;
    let mut http = floor.http("door");
    let sum = lineside_tests::Addends::new(2.0, 3.0);
    let answer = add_by_http(&mut http, sum, &[]).await.unwrap();
    assert!(answer.added(sum).unwrap().right);
    for name in ["press", "weld", "paint", "door"] {
        let rows = floor.seen_by(name).await.unwrap().members;
        assert_eq!(rows.len(), 4, "one row for each machine: {rows:?}");
    }
}

#[tokio::test]
async fn nothing_is_lost_when_one_of_three_is_killed_and_all_know_within_seconds() {
    /// What the fast preset promises on a machine that is not busy, and as much again.
    const KNOWN_WITHIN: Duration = Duration::from_secs(8);
    let mut floor = Floor::alone(&["add"]).await;
    let nodes = ["press", "weld", "paint"].map(Plan::node);
    floor.start_all(nodes.into_iter().chain([Plan::gateway("door")])).await;
    let load = Load::per_second(50, floor.member("door").http_address(), 10, None);
    let weld = floor.member("weld").node();
    load.answers_of(weld, 10).await;

    floor.member_mut("weld").kill();
    let killed = Instant::now();
    for watcher in ["door", "press", "paint"] {
        floor.sees(watcher, "weld", "is down", |row| row.state == "down").await;
    }
    let known_after = killed.elapsed();
    load.answers(50).await;
    let tally = load.end().await;
    tally.assert_nothing_lost();
    floor.assert_ours(&tally);
    assert!(known_after < KNOWN_WITHIN, "all knew after {known_after:?}; {tally:?}");
}
