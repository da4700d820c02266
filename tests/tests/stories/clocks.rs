//! Machines whose clocks are wrong: boards without a battery, and jumps.

use std::time::Duration;

use lineside_tests::{Addends, Floor, PATIENCE, Plan, WrongClock, add_by_http, eventually};

/// The exit code of a mistake that trying again does not mend.
const CONFIG: i32 = 78;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn a_board_that_starts_in_1970_takes_part_and_says_so_once() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let clock = WrongClock::of_1970(&floor.path("."));
    floor.member_mut("weld").kill();
    floor.restart_as("weld", |plan| clock.on(plan)).await;
    floor.formed().await;
    floor.member_mut("press").kill();

    let mut http = floor.http("door");
    let weld = floor.member("weld").node();
    eventually("the board answers", PATIENCE, async || {
        let added =
            add_by_http(&mut http, Addends::new(2.0, 3.0), &[]).await.map_err(|error| error.to_string())?;
        let added = added.added(Addends::new(2.0, 3.0))?;
        if added.right && added.node == weld { Ok(()) } else { Err(format!("{added:?}")) }
    })
    .await;
    let log = floor.member("weld").log();
    let warned = log.lines().filter(|line| line.contains("WARN") && line.contains("clock"));
    assert_eq!(warned.clone().count(), 1, "{log}");
}

#[tokio::test]
async fn a_board_that_starts_in_1970_joins_with_a_line() {
    let mut floor = Floor::founded(&["add"], Plan::up("office")).await;
    let clock = WrongClock::of_1970(&floor.path("."));
    let token = floor.member("office").printed_token().await;
    floor.start(clock.on(Plan::node("weld").joining(&token))).await;
    floor.formed().await;
}

#[tokio::test]
async fn a_clock_that_jumped_ahead_ends_a_member_with_one_line_and_locks_nobody_out() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let clock = WrongClock::ahead(&floor.path("."), 30 * DAY);
    floor.member_mut("weld").kill();
    let plan = floor.member("weld").plan().clone();
    let ended = floor.fails(clock.on(plan)).await;
    ended.assert_failed(CONFIG, &["expired", "clock"]);

    floor.restart("weld").await;
    floor.formed().await;
}

#[tokio::test]
async fn a_clock_that_differs_is_shown_and_named_once_until_it_is_set_right() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let clock = WrongClock::ahead(&floor.path("."), Duration::from_secs(1800));
    floor.member_mut("weld").kill();
    floor.restart_as("weld", |plan| clock.on(plan)).await;
    floor.formed().await;

    let near = |ms: i64| (1_790_000..=1_810_000).contains(&ms);
    floor.sees("press", "weld", "is half an hour ahead", |row| row.clock_ahead_ms.is_some_and(near)).await;
    floor.member("press").logs(PATIENCE, &["WARN", "clock", &floor.member("weld").node().to_string()]).await;
    let told = floor.lineside("press", &["status"]).await;
    assert!(told.stdout.contains("clock"), "{told:?}");

    clock.set_right();
    let right = |ms: i64| ms.abs() < 10_000;
    floor.sees("press", "weld", "is right again", |row| row.clock_ahead_ms.is_some_and(right)).await;
}
