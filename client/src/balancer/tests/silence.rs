//! A peer that lets calls wait without a sign: new calls go elsewhere, long before QUIC knows whether it is gone.

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Has this node answer calls that each take so long.
fn serve(floor: &mut Floor, name: &str, took: Duration, calls: usize) {
    for _ in 0..calls {
        let lease = floor.lease_of(name);
        floor.pass(took);
        floor.report(lease, Outcome::Answered { load: Some(load(0)), took });
    }
}

#[test]
fn new_calls_avoid_a_node_that_holds_one_and_gives_no_sign() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("press", |node| node.slots = 64);
    serve(&mut floor, "press", ms(3), 20);
    let _stuck = floor.lease_of("press");
    // With 63 of its 64 slots free it would be the first choice.
    let _waiting: Vec<_> = (0..3).map(|_| floor.lease_of("weld")).collect();
    assert_eq!(name(&floor.lease()), "press");
    floor.pass(ms(150));
    let weld = floor.lease_of("weld");
    floor.answer(weld);
    assert_eq!(floor.send(5), ["weld"; 5]);
    // When nobody else is left, it is asked all the same.
    assert_eq!(name(&floor.try_lease(&["weld"]).unwrap()), "press");
}

#[test]
fn any_sign_of_life_ends_the_silence() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("press", |node| node.slots = 64);
    serve(&mut floor, "press", ms(3), 20);
    let (_long, short) = (floor.lease_of("press"), floor.lease_of("press"));
    floor.pass(ms(150));
    assert_eq!(floor.send(1), ["weld"]);
    floor.report(short, Outcome::Heard);
    let _waiting = floor.lease_of("weld");
    assert_eq!(floor.send(3), ["press"; 3]);
}

#[test]
fn a_node_without_calls_is_not_silent_however_long_it_was_quiet() {
    let mut floor = Floor::with(["press", "weld"]);
    serve(&mut floor, "press", ms(3), 20);
    serve(&mut floor, "weld", ms(3), 20);
    floor.pass(Duration::from_secs(60));
    // Neither is its next call, in its first moment.
    let (first, second) = (floor.lease(), floor.lease());
    assert_ne!(first.node(), second.node());
}

#[test]
fn a_slow_model_is_not_taken_for_a_lost_node() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("press", |node| node.slots = 4);
    serve(&mut floor, "press", ms(500), 20);
    serve(&mut floor, "weld", ms(500), 20);
    let (_held, _other) = (floor.lease_of("press"), floor.lease_of("weld"));
    floor.pass(ms(900));
    assert_eq!(name(&floor.lease()), "press", "three of its slots are free");
    floor.pass(ms(1_000));
    // Both are silent now, and the one with room is asked.
    assert_eq!(name(&floor.lease()), "press");
    let weld = floor.lease_of("weld");
    floor.report(weld, Outcome::Heard);
    assert_eq!(name(&floor.lease()), "weld");
}

#[test]
fn a_node_that_never_answered_has_a_second_to_show_what_it_can() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("press", |node| node.slots = 64);
    let _held = floor.lease_of("press");
    let _other = floor.lease_of("weld");
    floor.pass(ms(900));
    assert_eq!(name(&floor.lease()), "press");
    floor.pass(ms(200));
    let weld = floor.lease_of("weld");
    floor.answer(weld);
    assert_eq!(name(&floor.lease()), "weld");
}
