//! Who gets how much: least connection between uneven nodes, and limits between clients.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lineside_tests::{Addends, Floor, Load, Outsider, Plan, add_by_http};
use lineside_wire::Role;
use tokio::task::JoinSet;

const SLOWLY: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_node_with_twice_the_sessions_gets_about_twice_the_calls() {
    let mut floor = Floor::alone(&["slow-add"]).await;
    let weld = Plan::node("weld").set("node.sessions", 2);
    floor.start_all([Plan::gateway("door"), Plan::node("press"), weld]).await;

    let load = Load::of_slow_adds(floor.member("door").http_address(), 6, SLOWLY);
    load.answers(150).await;
    let tally = load.end().await;

    tally.assert_nothing_lost();
    let share = tally.share(floor.member("weld").node());
    // Two thirds, give or take what two cores do to three sessions.
    assert!((0.55..0.85).contains(&share), "weld had {share:.2} of {tally:?}");
}

#[tokio::test]
async fn nodes_that_are_alike_get_alike() {
    let mut floor = Floor::alone(&["slow-add"]).await;
    floor.start_all([Plan::gateway("door"), Plan::node("press"), Plan::node("weld")]).await;

    let load = Load::of_slow_adds(floor.member("door").http_address(), 4, SLOWLY);
    load.answers(120).await;
    let tally = load.end().await;

    tally.assert_nothing_lost();
    let share = tally.share(floor.member("weld").node());
    assert!((0.35..0.65).contains(&share), "weld had {share:.2} of {tally:?}");
}

#[tokio::test]
async fn a_node_that_others_keep_busy_is_spared() {
    let mut floor = Floor::alone(&["slow-add"]).await;
    floor.start_all([Plan::gateway("door"), Plan::node("press"), Plan::node("weld")]).await;
    // The door sees these calls only in what press reports.
    let press = floor.member("press").address();
    let past_the_door = Arc::new(Outsider::new(floor.identity(Role::Node)));
    let mut busy = JoinSet::new();
    for _ in 0..6 {
        busy.spawn(keep_busy(Arc::clone(&past_the_door), press));
    }
    floor
        .sees("door", "press", "is busy", |row| {
            row.member.as_ref().is_some_and(|state| 2 < state.load.queued)
        })
        .await;

    let load = Load::of_slow_adds(floor.member("door").http_address(), 4, SLOWLY);
    load.answers(60).await;
    let tally = load.end().await;
    busy.shutdown().await;

    tally.assert_nothing_lost();
    let share = tally.share(floor.member("weld").node());
    assert!(0.7 < share, "weld had {share:.2} of {tally:?}");
}

/// Calls one node without a door, again and again.
async fn keep_busy(outsider: Arc<Outsider>, node: SocketAddr) {
    loop {
        outsider.add(node, Addends::new(1.0, 2.0).slowly(Duration::from_millis(100))).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_over_its_rate_waits_and_another_does_not() {
    let mut floor = Floor::empty(&["add"]).await;
    let door = Plan::gateway("door").set("gateway.rate_per_second", 1).set("gateway.burst", 5);
    floor.start_all([door, Plan::node("press")]).await;
    let mut http = floor.http("door");
    let addends = Addends::new(2.0, 3.0);

    let mut statuses = Vec::new();
    let mut refused = None;
    for _ in 0..20 {
        let answer = add_by_http(&mut http, addends, &[("x-api-key", "greedy")]).await.unwrap();
        statuses.push(answer.status);
        refused = refused.or_else(|| (answer.status == 429).then_some(answer));
    }
    assert_eq!(statuses[..5], [200; 5]);
    let refused = refused.expect("twenty at once are more than five");
    let seconds: u64 = refused.header("retry-after").expect("when to come again").parse().unwrap();
    assert!(
        (1..=2).contains(&seconds),
        "one a second, and a little more so that not all come at once: {seconds}"
    );
    assert_eq!(refused.json()["code"], "RATE_LIMITED");

    for _ in 0..5 {
        let answer = add_by_http(&mut http, addends, &[("x-api-key", "modest")]).await.unwrap();
        assert!(answer.added(addends).unwrap().right);
    }
}
