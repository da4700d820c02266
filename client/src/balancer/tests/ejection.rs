//! Who rests and why, when bars are set aside, and how a peer comes back.

use super::*;

const NAMES: [&str; 4] = ["glue", "paint", "press", "weld"];

impl Floor {
    fn shown(&self, name: &str) -> PeerStatistics {
        self.balancer.statistics(self.now)[&id(name)]
    }

    fn rests(&self, name: &str) -> Option<Rest> {
        self.shown(name).rests
    }

    /// A call at this node that ends so after a while.
    fn end(&mut self, name: &str, took: Duration, outcome: Outcome) {
        let lease = self.lease_of(name);
        self.pass(took);
        self.report(lease, outcome);
    }

    fn err(&mut self, name: &str) {
        self.end(name, Duration::from_millis(1), Outcome::Erred);
    }

    fn good(&mut self, name: &str) {
        self.end(name, Duration::from_millis(1), answered(load(0)));
    }

    /// Every node answers so many calls in so many seconds, each in its own time.
    fn work(&mut self, seconds: u32, took: impl Fn(&str) -> Duration) {
        let names: Vec<_> = self.nodes.iter().map(|node| node.name.to_string()).collect();
        for _ in 0..seconds * 40 {
            for name in &names {
                // By hand: nobody else is asked only because this one rests.
                let lease = self.try_lease(&self.others(name));
                let Ok(lease) = lease else { continue };
                let load = self.nodes.iter().find(|node| &*node.name == name).unwrap().load;
                self.report(lease, Outcome::Answered { load, took: took(name) });
            }
            self.pass(Duration::from_millis(25));
        }
    }

    fn others(&self, name: &str) -> Vec<&str> {
        self.nodes.iter().map(|node| &*node.name).filter(|other| *other != name).collect()
    }

    /// Sends calls to whom the balancer chooses; the sick node fails all of its own. Gives its share.
    fn share_of_the_sick(&mut self, sick: NodeId, calls: u32, how: Outcome, fails_after: Duration) -> f64 {
        let mut failed = 0;
        for _ in 0..calls {
            let lease = self.lease();
            if lease.node() == sick {
                failed += 1;
                self.pass(fails_after);
                self.report(lease, how);
            } else {
                self.pass(Duration::from_millis(5));
                self.answer(lease);
            }
        }
        f64::from(failed) / f64::from(calls)
    }
}

#[test]
fn a_node_that_answers_errors_rests_after_three_in_a_row() {
    let mut floor = Floor::with(["press", "weld"]);
    for _ in 0..3 {
        floor.err("press");
        floor.err("press");
        floor.good("press");
    }
    assert_eq!(floor.rests("press"), None);
    (0..3).for_each(|_| floor.err("press"));
    assert_eq!(floor.rests("press"), Some(Rest::Errors));
    assert_eq!(floor.send(4), ["weld"; 4]);
    assert_eq!((floor.shown("press").ejections, floor.shown("press").failures), ([0, 1, 0, 0, 0], 9));
}

#[test]
fn a_node_that_heartbeats_but_hangs_rests_when_three_of_its_calls_came_to_nothing() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.good("press");
    floor.good("weld");
    let hung: Vec<_> = (0..3).map(|_| floor.lease_of("press")).collect();
    floor.pass(Duration::from_secs(10));
    hung.into_iter().for_each(|lease| floor.report(lease, Outcome::Late));
    assert_eq!(floor.rests("press"), Some(Rest::Errors));
    // Whoever only waits less than is usual blames nobody.
    for _ in 0..20 {
        floor.end("weld", Duration::from_millis(2), Outcome::Late);
    }
    assert_eq!(floor.rests("weld"), None);
}

#[test]
fn an_overtaken_try_blames_only_who_took_far_too_long() {
    let mut floor = Floor::with(["press", "weld"]);
    (0..20).for_each(|_| floor.good("press"));
    (0..20).for_each(|_| floor.end("press", Duration::from_millis(4), Outcome::Overtaken));
    assert_eq!((floor.rests("press"), floor.shown("press").failures), (None, 0));
    (0..3).for_each(|_| floor.end("press", Duration::from_secs(2), Outcome::Overtaken));
    assert_eq!((floor.rests("press"), floor.shown("press").failures), (Some(Rest::Errors), 3));
}

#[test]
fn a_node_that_callers_give_up_long_after_it_should_have_answered_rests() {
    let mut floor = Floor::with(["press", "weld"]);
    (0..20).for_each(|_| floor.good("press"));
    // Whoever goes away before that says nothing of it: it is not even full.
    for _ in 0..20 {
        floor.end("press", Duration::from_millis(99), Outcome::Abandoned);
    }
    assert_eq!((floor.rests("press"), floor.shown("press").failures), (None, 0));
    assert!(floor.send(4).contains(&"press".to_owned()));
    (0..3).for_each(|_| floor.end("press", Duration::from_millis(800), Outcome::Abandoned));
    assert_eq!((floor.rests("press"), floor.shown("press").failures), (Some(Rest::Errors), 3));
}

#[test]
fn what_a_node_has_rested_for_is_not_held_against_it_once_more() {
    let mut floor = Floor::with(["press", "weld"]);
    // Nineteen calls, too few to judge by; then one that breaks.
    for call in 0..19 {
        if call % 3 == 2 {
            floor.good("press");
        } else {
            floor.err("press");
        }
        floor.good("weld");
    }
    floor.lose("press");
    assert_eq!(floor.rests("press"), Some(Rest::Broken));
    floor.pass(Duration::from_secs(3));
    // Back, and looked at a second later, with the old calls not ten seconds ago.
    floor.good("press");
    for _ in 0..4 {
        floor.pass(Duration::from_millis(500));
        floor.good("press");
        floor.good("weld");
    }
    assert_eq!((floor.rests("press"), floor.shown("press").ejections), (None, [1, 0, 0, 0, 0]));
}

#[test]
fn what_the_process_before_did_is_not_held_against_this_one() {
    for how in [Outcome::Failed, Outcome::Late, Outcome::Erred] {
        let mut floor = Floor::with(["press", "weld"]);
        (0..10).for_each(|_| floor.good("weld"));
        let old: Vec<_> = (0..30).map(|_| floor.lease_of("press")).collect();
        floor.pass(Duration::from_secs(2));
        floor.change("press", |node| node.epoch = 2);
        // They come to nothing only now.
        floor.pass(Duration::from_millis(10));
        old.into_iter().for_each(|lease| floor.report(lease, how));
        for _ in 0..3 {
            floor.pass(Duration::from_millis(600));
            floor.good("press");
            floor.good("weld");
        }
        assert_eq!((floor.rests("press"), floor.shown("press").ejections), (None, [0; 5]), "{how:?}");
        // One failure of its own is one.
        floor.err("press");
        assert_eq!(floor.rests("press"), None, "{how:?}");
    }
}

#[test]
fn an_error_of_a_call_from_before_a_restart_is_not_one_in_a_row() {
    let mut floor = Floor::with(["press", "weld"]);
    let old: Vec<_> = (0..2).map(|_| floor.lease_of("press")).collect();
    floor.pass(Duration::from_millis(1));
    floor.change("press", |node| node.epoch = 2);
    floor.pass(Duration::from_millis(1));
    old.into_iter().for_each(|lease| floor.report(lease, Outcome::Erred));
    floor.err("press");
    assert_eq!(floor.rests("press"), None);
    (0..2).for_each(|_| floor.err("press"));
    assert_eq!(floor.rests("press"), Some(Rest::Errors));
}

#[test]
fn a_node_that_fails_too_many_of_its_calls_rests_while_the_others_do_better() {
    let sick = |others_are_well: bool| {
        let mut floor = Floor::with(NAMES);
        for _ in 0..30 {
            floor.pass(Duration::from_millis(50));
            for name in NAMES {
                let is_sick = !others_are_well || name == "press";
                for errs in [false, is_sick] {
                    // Each report may be the one with which it is found out.
                    match (floor.rests(name), errs) {
                        (Some(_), _) => {}
                        (None, true) => floor.err(name),
                        (None, false) => floor.good(name),
                    }
                }
            }
        }
        floor
    };
    let floor = sick(true);
    assert_eq!(floor.rests("press"), Some(Rest::SuccessRate));
    assert!(["glue", "paint", "weld"].iter().all(|name| floor.rests(name).is_none()));
    // Where all do badly, it is not the node.
    let floor = sick(false);
    assert!(NAMES.iter().all(|name| floor.rests(name).is_none()));
}

#[test]
fn a_node_that_takes_far_longer_than_its_peers_rests() {
    let mut floor = Floor::with(NAMES);
    let took = |name: &str| Duration::from_millis(if name == "press" { 200 } else { 20 });
    floor.work(3, took);
    assert_eq!(floor.rests("press"), None, "a burst is over sooner");
    floor.work(7, took);
    assert_eq!(floor.shown("press").ejections, [0, 0, 0, 1, 0]);
    assert!(NAMES.iter().all(|name| *name == "press" || floor.shown(name).ejections == [0; 5]));
}

#[test]
fn small_differences_half_of_the_nodes_and_who_says_that_it_is_slow_do_not_make_anyone_rest() {
    let ejected = |floor: &Floor| NAMES.iter().any(|name| floor.shown(name).ejections != [0; 5]);
    let mut floor = Floor::with(NAMES);
    floor.work(15, |name| Duration::from_micros(if name == "press" { 8_000 } else { 100 }));
    assert!(!ejected(&floor), "eighty times next to nothing");

    let mut floor = Floor::with(NAMES);
    floor.work(15, |name| Duration::from_millis(if name < "press" { 200 } else { 20 }));
    let count = NAMES.iter().filter(|name| floor.rests(name).is_some()).count();
    assert!(count <= 2, "{count} of 4 rest");

    let mut floor = Floor::with(NAMES);
    for node in &mut floor.nodes {
        let call_us = if &*node.name == "press" { 200_000 } else { 20_000 };
        node.load = node.load.map(|load| LoadReport { call_us, ..load });
    }
    floor.work(15, |name| Duration::from_millis(if name == "press" { 200 } else { 20 }));
    assert!(!ejected(&floor), "it is as slow as it says");
}

#[test]
fn nobody_is_excused_for_anything_by_what_it_says_of_itself() {
    let mut floor = Floor::with(NAMES);
    for node in &mut floor.nodes {
        let call_us = if &*node.name == "press" { u32::MAX } else { 20_000 };
        node.load = node.load.map(|load| LoadReport { call_us, ..load });
    }
    floor.work(15, |name| Duration::from_millis(if name == "press" { 8_000 } else { 20 }));
    assert_eq!(floor.rests("press"), Some(Rest::Latency), "a minute for a call, it says");
}

#[test]
fn who_alone_has_a_slow_model_is_not_slow() {
    let mut floor = Floor::with(NAMES);
    let slow: ModelName = "slow".parse().unwrap();
    floor.change("press", |node| {
        let Serves::Models(models) = &mut node.serves else { unreachable!() };
        models.push(crate::Served { name: slow.clone(), ..models[0].clone() });
    });
    for _ in 0..15 {
        floor.work(1, |_| Duration::from_millis(20));
        for _ in 0..40 {
            let lease = floor.balancer.lease(Wanted::Model(&slow, None), &[], floor.now).unwrap();
            floor.report(lease, Outcome::Answered { load: None, took: Duration::from_secs(1) });
        }
    }
    assert_eq!(floor.rests("press"), None);
    assert!(Duration::from_millis(900) < floor.balancer.usual(&slow, 95).unwrap());
    assert!(floor.balancer.usual(&add(), 95).unwrap() < Duration::from_millis(30));
}

#[test]
fn of_two_nodes_one_must_be_slower_by_far() {
    let rests = |millis: u64| {
        let mut floor = Floor::with(["press", "weld"]);
        floor.work(10, |name| Duration::from_millis(if name == "press" { millis } else { 20 }));
        floor.shown("press").ejections != [0; 5]
    };
    assert!(!rests(70) && rests(300));
}

#[test]
fn an_answer_to_a_call_from_before_the_bar_does_not_end_it() {
    let mut floor = Floor::with(["press", "weld"]);
    let old = floor.lease_of("press");
    (0..3).for_each(|_| floor.err("press"));
    floor.answer(old);
    assert_eq!(floor.send(4), ["weld"; 4]);
}

#[test]
fn one_real_call_is_the_test_whether_a_node_is_back_even_where_others_are_faster() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("press", |node| node.load = Some(LoadReport { call_us: 50_000, ..load(0) }));
    floor.change("weld", |node| node.load = Some(LoadReport { call_us: 1_000, ..load(0) }));
    floor.lose("press");
    floor.pass(Duration::from_secs(3));
    // A call that was tried already is not the one.
    assert_eq!(name(&floor.try_lease(&["glue"]).unwrap()), "weld");
    let probe = floor.lease();
    assert_eq!(name(&probe), "press");
    assert_eq!(floor.rests("press"), Some(Rest::Broken));
    floor.report(probe, answered(LoadReport { call_us: 50_000, ..load(0) }));
    assert_eq!(floor.rests("press"), None);
}

#[test]
fn a_node_that_keeps_failing_soon_after_it_came_back_rests_for_longer_each_time() {
    let mut floor = Floor::with(["press", "weld"]);
    let mut bars = Vec::new();
    for _ in 0..5 {
        floor.lose("press");
        bars.push(floor.barred_for("press").unwrap());
        floor.pass(*bars.last().unwrap());
        floor.good("press");
        floor.pass(Duration::from_millis(100));
    }
    assert!(bars.is_sorted() && Duration::from_secs(20) < bars[4], "{bars:?}");
    floor.pass(5 * bars[4]);
    floor.lose("press");
    assert!(floor.barred_for("press").unwrap() < Duration::from_secs(3), "it had worked for long enough");
}

#[test]
fn when_most_nodes_rest_those_that_answer_are_used_all_the_same() {
    let mut floor = Floor::with(NAMES);
    for name in &NAMES[..2] {
        (0..3).for_each(|_| floor.err(name));
    }
    assert!(floor.send(20).iter().all(|name| NAMES[2..].contains(&&**name)));
    assert_eq!(floor.balancer.panic(floor.now), Panic::default());
    (0..3).for_each(|_| floor.err("press"));
    floor.pass(Duration::from_millis(1));
    let leases: Vec<_> = (0..20).map(|_| floor.lease()).collect();
    for name_of in NAMES {
        assert_eq!(leases.iter().filter(|lease| name(lease) == name_of).count(), 5, "{name_of}");
    }
    assert!(floor.balancer.panic(floor.now).is_on);
    assert_eq!(floor.balancer.panic(floor.now).leases, 15);
    leases.into_iter().for_each(|lease| floor.answer(lease));
    assert!(NAMES.iter().all(|name| floor.rests(name).is_none()), "they have shown that they work");
    floor.pass(Duration::from_secs(11));
    assert!(!floor.balancer.panic(floor.now).is_on);
}

#[test]
fn when_most_nodes_are_gone_they_are_asked_once_in_a_second_with_one_call() {
    let mut floor = Floor::with(["glue", "press", "weld"]);
    floor.lose("glue");
    floor.lose("press");
    assert_eq!(floor.send(10), ["weld"; 10]);
    let mut asked = 0;
    for _ in 0..200 {
        floor.pass(Duration::from_millis(10));
        let lease = floor.lease();
        if name(&lease) == "weld" {
            floor.answer(lease);
        } else {
            asked += 1;
            floor.report(lease, Outcome::Failed);
        }
    }
    assert!((2..=4).contains(&asked), "{asked}");
}

#[test]
fn a_session_stays_with_a_node_that_only_does_worse_than_others() {
    let mut floor = Floor::with(["press", "weld"]);
    let session = (0..).map(|number| format!("belt {number}"));
    let wanted = add();
    let home = |floor: &Floor, session: &str| {
        let lease = floor.balancer.lease_of_session(session, Wanted::Model(&wanted, None), &[], floor.now);
        name(&lease.unwrap())
    };
    let session = session.into_iter().find(|session| home(&floor, session) == "press").unwrap();
    (0..3).for_each(|_| floor.err("press"));
    assert_eq!((floor.send(2), home(&floor, &session)), (vec!["weld".to_owned(); 2], "press".to_owned()));
}

#[test]
fn nobody_is_slow_where_all_are_new_and_who_comes_later_gets_more_step_by_step() {
    let mut floor = Floor::with(["press", "weld"]);
    assert_eq!(floor.shown("press").slow_start, None);
    floor.send(10);
    floor.nodes.push(node("glue"));
    floor.balancer.update(floor.nodes.clone(), floor.now);
    assert_eq!(floor.shown("glue").slow_start, Some(10));
    // Busy nodes: it gets what it can bear.
    let mut share = Vec::new();
    for _ in 0..4 {
        let leases: Vec<_> = (0..60).map(|_| floor.lease()).collect();
        share.push(leases.iter().filter(|lease| name(lease) == "glue").count());
        leases.into_iter().for_each(|lease| floor.answer(lease));
        floor.pass(Duration::from_millis(3_400));
    }
    assert!(share.is_sorted() && (2..=5).contains(&share[0]) && share[3] == 20, "{share:?}");
    // Idle ones: not all, and not nothing.
    floor.change("glue", |node| node.epoch = 2);
    let count = floor.send(600).iter().filter(|name| *name == "glue").count();
    assert!((5..60).contains(&count), "{count} of 600");
    floor.pass(Duration::from_secs(10));
    let count = floor.send(60).iter().filter(|name| *name == "glue").count();
    assert!((20..=24).contains(&count), "{count} of 60");
}

#[test]
fn a_node_that_fails_all_of_its_calls_gets_few_and_is_back_soon_after_it_is_mended() {
    let ways = [
        (Outcome::Failed, Duration::from_micros(200)),
        (Outcome::Erred, Duration::from_micros(200)),
        (Outcome::Late, Duration::from_secs(1)),
    ];
    for (nodes, calls) in [(2_u8, 6_000), (3, 2_000), (10, 2_000), (200, 400)] {
        for (how, after) in ways {
            let candidate = |i| Candidate { node: NodeId::from_bytes([i; 16]), ..node("n") };
            let mut floor = Floor::new((0..nodes).map(candidate));
            let sick = floor.nodes[0].node;
            let share = floor.share_of_the_sick(sick, calls, how, after);
            assert!(share < 0.1, "{share} of the calls to one of {nodes} that ends them with {how:?}");
            let mended = floor.now;
            while floor.shown_of(sick).rests.is_some() {
                let lease = floor.lease();
                floor.pass(Duration::from_millis(200));
                floor.answer(lease);
                assert!(floor.now < mended + Duration::from_secs(61), "{nodes} nodes, {how:?}");
            }
        }
    }
}

impl Floor {
    fn shown_of(&self, node: NodeId) -> PeerStatistics {
        self.balancer.statistics(self.now)[&node]
    }
}
