//! Nodes that are there and no good: they stand still, fail at once, hang, or are slow.

use std::{collections::BTreeMap, time::Duration};

use lineside_tests::{Floor, Load, Plan, Tally};
use tokio::time::{Instant, sleep};

/// Calls of the door to each node so far, by name.
async fn calls(floor: &Floor) -> BTreeMap<String, u64> {
    let rows = floor.seen_by("door").await.expect("the door answers").members;
    rows.into_iter().map(|row| (row.name, row.calls)).collect()
}

/// A node's part of the calls since an earlier look.
#[expect(clippy::cast_precision_loss, reason = "a story has few calls")]
fn share(name: &str, before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> f64 {
    let since = |name: &str| now[name] - before[name];
    let all: u64 = now.keys().map(|name| since(name)).sum();
    since(name) as f64 / all.max(1) as f64
}

#[tokio::test]
async fn nothing_is_lost_when_a_node_stands_still_for_three_and_for_ten_seconds() {
    let mut floor = Floor::with_nodes(["press", "weld", "paint"]).await;
    let load = Load::per_second(50, floor.member("door").http_address(), 10, None);
    let weld = floor.member("weld").node();
    for seconds in [3, 10] {
        load.answers_of(weld, 10).await;
        floor.member_mut("weld").pause();
        sleep(Duration::from_secs(seconds)).await;
        floor.member_mut("weld").resume();
    }
    floor.formed().await;
    load.answers_of(weld, 5).await;
    let tally = load.end().await;
    tally.assert_nothing_lost();
    floor.assert_ours(&tally);
}

#[tokio::test]
async fn a_node_that_fails_at_once_draws_no_calls_and_hardly_anybody_notices() {
    let mut floor = Floor::empty(&["add"]).await;
    let good = ["press", "weld"].map(Plan::node);
    let bad = Plan::node("paint").serving("add-fails", "add");
    floor.start_all(good.into_iter().chain([bad, Plan::gateway("door")])).await;
    let load = floor.load(4, 4).await;
    let before = calls(&floor).await;
    load.answers(2000).await;
    let now = calls(&floor).await;

    // Fast failures look like short calls: with least load alone, it would get most of them.
    let share = share("paint", &before, &now);
    assert!(share < 0.1, "the node that fails had {share:.3} of the calls: {before:?} {now:?}");
    let tally = load.end().await;
    floor.assert_ours(&tally);
    let Tally { sent, failures, .. } = &tally;
    // A second opinion costs a try, of which there are as many as the budget allows.
    assert!(failures.len() as u64 * 100 <= *sent, "{} of {sent} failed: {failures:?}", failures.len());
}

#[tokio::test]
async fn a_node_that_hangs_and_keeps_saying_that_it_lives_is_left_alone_soon_and_hardly_anybody_notices() {
    /// How long it may take until nobody asks it any more.
    const LEFT_ALONE_WITHIN: Duration = Duration::from_secs(15);
    /// The part of the calls that finds out, now and then, whether it works again.
    const LEFT_ALONE_SHARE: f64 = 0.05;
    /// How long is looked at.
    const LOOK_FOR: Duration = Duration::from_secs(4);
    let mut floor = Floor::empty(&["add"]).await;
    let good = ["press", "weld"].map(Plan::node);
    let bad = Plan::node("paint").serving("add-hangs", "add");
    floor.start_all(good.into_iter().chain([bad, Plan::gateway("door")])).await;
    let door = floor.member("door").http_address();
    // Time for a second try, which is made when the first takes far longer than is usual here, and a second at least.
    let load = Load::per_second(60, door, 12, Some(Duration::from_secs(5)));
    let begun = Instant::now();

    let mut before = calls(&floor).await;
    let mut part = 1.0;
    while LEFT_ALONE_SHARE < part && begun.elapsed() < LEFT_ALONE_WITHIN + LOOK_FOR {
        sleep(LOOK_FOR).await;
        let now = calls(&floor).await;
        part = share("paint", &before, &now);
        before = now;
    }
    let row = floor.sees("door", "paint", "is there", |_| true).await;
    assert_eq!(row.state, "alive", "its heart beats");
    assert!(part <= LEFT_ALONE_SHARE, "it still had {part:.3} of the calls after {:?}", begun.elapsed());
    let tally = load.end().await;
    floor.assert_ours(&tally);
    // Those that hang are done elsewhere in time, but for what the budget for second tries does not allow.
    let Tally { sent, failures, .. } = &tally;
    assert!(failures.len() as u64 * 50 <= *sent, "{} of {sent} failed: {tally:?}", failures.len());
}

#[tokio::test]
async fn three_doors_share_four_nodes_by_their_speed() {
    const CALLS_OF_A_DOOR: usize = 4;
    /// Speeds, as calls in the time in which the slowest node makes one.
    const SPEEDS: [(&str, &str, u32); 4] = [
        ("press", "slow-add", 4),
        ("weld", "slow-add", 4),
        ("paint", "slow-add-twice", 2),
        ("pack", "slow-add-fourfold", 1),
    ];
    /// How far from its speed's part a node's share may be here, where seven processes have two cores: that it is a tenth
    /// is shown where time is made, in the balancer's own stories.
    const APART_MAX: f64 = 0.5;
    let mut floor = Floor::alone(&["slow-add"]).await;
    let doors = ["east", "west", "north"];
    let nodes = SPEEDS.map(|(name, model, _)| Plan::node(name).serving(model, "slow-add"));
    floor.start_all(doors.map(Plan::gateway).into_iter().chain(nodes)).await;

    let at: Vec<_> = doors.iter().map(|door| floor.member(door).http_address()).collect();
    let load = Load::of_slow_adds_at(&at, CALLS_OF_A_DOOR, Duration::from_millis(8));
    load.answers(100).await; // Until the doors know the nodes' speeds.
    let before = load.tally();
    load.answers(400).await;
    let told: Vec<_> = floor.seen_by("east").await.unwrap().members;
    let tally = load.tally().since(&before);
    load.end().await.assert_nothing_lost();

    let all: u32 = SPEEDS.iter().map(|(_, _, speed)| speed).sum();
    for (name, _, speed) in SPEEDS {
        let (share, due) = (tally.share(floor.member(name).node()), f64::from(speed) / f64::from(all));
        let apart = (share - due).abs() / due;
        assert!(apart < APART_MAX, "{name} had {share:.3} and was due {due:.3}: {tally:?}");
    }
    for load in told.iter().filter_map(|row| row.member.as_ref()).map(|state| state.load) {
        let has = load.running + load.queued;
        assert!(load.limit == 0 || has <= load.limit, "more than its limit: {load:?}");
    }
}
