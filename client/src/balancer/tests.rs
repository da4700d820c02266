//! Stories of the balancer, in a clock that only the tests move.

mod affinity;
mod ejection;
mod policies;
mod properties;
mod silence;
mod truth;
mod two_gateways;

use lineside_wire::{LoadReport, ModelName, ModelState, ModelVersion};
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    Serves, Standing,
    testing::{add, id},
};

fn name_of(node: NodeId) -> String {
    String::from_utf8_lossy(node.as_bytes()).trim_end_matches('\0').to_owned()
}

fn node(name: &str) -> Candidate {
    crate::testing::node(name, 1)
}

fn load(running: u32) -> LoadReport {
    LoadReport { running, queued: 0, slots: 1, limit: 0, call_us: 0 }
}

/// A balancer, its candidates and a clock.
struct Floor {
    balancer: Balancer,
    nodes: Vec<Candidate>,
    now: Instant,
}

impl Floor {
    fn new(nodes: impl IntoIterator<Item = Candidate>) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let balancer = Balancer::new(Balancing::default(), &mut StdRng::seed_from_u64(7), now);
        let floor = Self { balancer, nodes: nodes.into_iter().collect(), now };
        floor.balancer.update(floor.nodes.clone(), now);
        floor
    }

    fn with(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self::new(names.into_iter().map(node))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Candidate)) {
        change(self.nodes.iter_mut().find(|node| node.node == id(name)).unwrap());
        self.balancer.update(self.nodes.clone(), self.now);
    }

    fn try_lease(&self, tried: &[&str]) -> Result<Lease, NoLease> {
        let tried: Vec<_> = tried.iter().map(|name| id(name)).collect();
        self.balancer.lease(Wanted::Model(&add(), None), &tried, self.now)
    }

    fn lease(&self) -> Lease {
        self.try_lease(&[]).unwrap()
    }

    /// Leases what would be leased if only this node were left.
    fn lease_of(&self, name: &str) -> Lease {
        let others: Vec<_> =
            self.nodes.iter().map(|node| &*node.name).filter(|other| *other != name).collect();
        self.try_lease(&others).unwrap()
    }

    fn report(&self, lease: Lease, outcome: Outcome) {
        self.balancer.report(lease, outcome, self.now);
    }

    fn answer(&self, lease: Lease) {
        self.report(lease, answered(load(0)));
    }

    /// Sends calls one after another; each is answered before the next.
    fn send(&self, calls: usize) -> Vec<String> {
        let send = |_| {
            let lease = self.lease();
            let name = name_of(lease.node());
            self.answer(lease);
            name
        };
        (0..calls).map(send).collect()
    }

    /// Fails a call at a node, a moment after whatever was before.
    fn lose(&mut self, name: &str) {
        let lease = self.lease_of(name);
        self.pass(Duration::from_millis(1));
        self.report(lease, Outcome::Failed);
    }

    fn in_flight(&self) -> u32 {
        self.balancer.statistics(self.now).values().map(|peer| peer.in_flight).sum()
    }

    fn barred_for(&self, name: &str) -> Option<Duration> {
        self.balancer.statistics(self.now)[&id(name)].barred_for
    }
}

fn answered(load: LoadReport) -> Outcome {
    Outcome::Answered { load: Some(load), took: Duration::from_millis(3) }
}

fn name(lease: &Lease) -> String {
    name_of(lease.node())
}

#[test]
fn the_node_with_the_fewest_calls_gets_the_next() {
    let floor = Floor::with(["press", "weld"]);
    let first = floor.lease();
    let second = floor.lease();
    assert_ne!(first.node(), second.node());
    let freed = first.node();
    floor.answer(first);
    assert_eq!(floor.lease().node(), freed);
}

#[test]
fn on_a_tie_the_node_that_waited_longest_gets_the_call() {
    let floor = Floor::with(["glue", "press", "weld"]);
    assert_eq!(floor.send(6), ["glue", "press", "weld", "glue", "press", "weld"]);
}

#[test]
fn a_node_with_more_slots_carries_more_calls() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("weld", |node| node.slots = 3);
    let leases: Vec<_> = (0..40).map(|_| floor.lease()).collect();
    let share = leases.iter().filter(|lease| name(lease) == "weld").count();
    assert!((29..=31).contains(&share), "weld has {share} of 40 calls");
}

#[test]
fn what_others_send_to_a_node_counts_too() {
    let floor = Floor::with(["press", "weld"]);
    let lease = floor.lease_of("press");
    floor.report(lease, answered(load(2)));
    let leases: Vec<_> = (0..4).map(|_| floor.lease()).collect();
    let names: Vec<_> = leases.iter().map(name).collect();
    assert_eq!(names, ["weld", "weld", "press", "weld"]);
}

#[test]
fn own_calls_are_not_counted_twice() {
    let floor = Floor::with(["press", "weld"]);
    let (kept, ended) = (floor.lease_of("press"), floor.lease_of("press"));
    // The node runs our own other call: nothing of it is foreign.
    floor.report(ended, answered(load(1)));
    drop(kept);
    let other = floor.lease_of("weld");
    assert_eq!(name(&floor.lease()), "press");
    drop(other);
}

#[test]
fn what_a_node_said_long_ago_gives_way_to_gossip() {
    let mut floor = Floor::with(["press", "weld"]);
    let lease = floor.lease_of("press");
    floor.report(lease, answered(load(50)));
    assert_eq!(floor.send(3), ["weld"; 3]);
    floor.pass(Duration::from_secs(3));
    assert!(floor.send(2).contains(&"press".to_owned()));
}

#[test]
fn a_node_that_never_said_anything_is_the_last_choice() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("press", |node| node.load = None);
    let leases: Vec<_> = (0..10).map(|_| floor.lease()).collect();
    assert!(leases.iter().all(|lease| name(lease) == "weld"));
    let lease = floor.try_lease(&["weld"]).unwrap();
    floor.answer(lease);
    assert_eq!(name(&floor.lease()), "press");
}

#[test]
fn a_suspect_is_the_last_choice_and_the_dead_and_the_leaving_are_none() {
    let mut floor = Floor::with(["glue", "press", "weld"]);
    floor.change("glue", |node| node.standing = Standing::Suspect);
    floor.change("press", |node| node.draining = true);
    assert_eq!(floor.send(3), ["weld"; 3]);
    assert_eq!(name(&floor.try_lease(&["weld"]).unwrap()), "glue");
    floor.change("glue", |node| node.standing = Standing::Down);
    assert_eq!(floor.try_lease(&["weld"]).unwrap_err(), NoLease::Exhausted);
}

#[test]
fn a_lost_node_rests_and_shows_with_one_call_that_it_is_back() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.lose("press");
    assert_eq!(floor.send(4), ["weld"; 4]);

    floor.pass(Duration::from_millis(2_500));
    let probe = floor.lease();
    assert_eq!(name(&probe), "press");
    assert_eq!(floor.send(4), ["weld"; 4]);

    floor.answer(probe);
    floor.pass(Duration::from_secs(10));
    assert!(floor.send(2).contains(&"press".to_owned()));
}

#[test]
fn a_cancelled_probe_leaves_the_place_for_the_next() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.lose("press");
    floor.pass(Duration::from_secs(3));
    drop(floor.lease_of("press"));
    assert_eq!(name(&floor.lease_of("press")), "press");
}

#[test]
fn each_failure_bars_for_twice_as_long_up_to_a_minute() {
    let mut floor = Floor::with(["press", "weld"]);
    for seconds in [2_u64, 4, 8, 16, 32, 60, 60] {
        floor.lose("press");
        let bar = floor.barred_for("press").unwrap();
        let wanted = Duration::from_secs(seconds);
        let bounds = wanted.mul_f64(0.79)..=wanted.mul_f64(1.21).min(Duration::from_secs(60));
        assert!(bounds.contains(&bar), "{bar:?} instead of about {wanted:?}");
        floor.pass(bar);
    }
}

#[test]
fn calls_that_break_together_count_as_one_failure() {
    let mut floor = Floor::with(["press", "weld"]);
    let leases: Vec<_> = (0..64).map(|_| floor.lease_of("press")).collect();
    floor.pass(Duration::from_millis(5));
    for lease in leases {
        floor.report(lease, Outcome::Failed);
        floor.pass(Duration::from_micros(20));
    }
    assert!(floor.barred_for("press").unwrap() < Duration::from_secs(3));
}

#[test]
fn the_last_node_is_never_barred_from_calls() {
    let mut alone = Floor::with(["press"]);
    for _ in 0..5 {
        alone.lose("press");
        assert_eq!(name(&alone.lease()), "press");
    }
}

#[test]
fn when_all_are_barred_the_one_that_returns_first_is_asked() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.lose("press");
    floor.pass(Duration::from_millis(900));
    let lease = floor.try_lease(&["press"]).unwrap();
    floor.pass(Duration::from_millis(1));
    floor.report(lease, Outcome::Failed);
    assert_eq!(name(&floor.lease()), "press");
}

#[test]
fn a_barred_node_is_not_asked_only_because_the_others_are_busy() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.lose("press");
    assert_eq!(floor.try_lease(&["weld"]).unwrap_err(), NoLease::Exhausted);
}

#[test]
fn a_busy_node_is_not_blamed_but_asked_last_for_a_while() {
    let mut floor = Floor::with(["press", "weld"]);
    let lease = floor.lease_of("press");
    floor.report(lease, Outcome::Full { load: None, retry_after: Some(Duration::from_millis(300)) });
    let leases: Vec<_> = (0..5).map(|_| floor.lease()).collect();
    assert!(leases.iter().all(|lease| name(lease) == "weld"));
    assert_eq!(floor.barred_for("press"), None);
    assert_eq!(floor.balancer.statistics(floor.now)[&id("press")].failures, 0);
    floor.pass(Duration::from_millis(301));
    assert_eq!(name(&floor.lease()), "press");
}

#[test]
fn a_node_that_falls_silent_counts_as_full_and_never_as_empty() {
    let mut floor = Floor::with(["press", "weld"]);
    let stuck = floor.lease_of("press");
    floor.pass(Duration::from_secs(1));
    floor.report(stuck, Outcome::Late);
    let leases: Vec<_> = (0..5).map(|_| floor.lease()).collect();
    assert!(leases.iter().all(|lease| name(lease) == "weld"));
}

#[test]
fn an_impatient_caller_does_not_spoil_a_nodes_name() {
    let mut floor = Floor::with(["press", "weld"]);
    let impatient = floor.lease_of("press");
    floor.pass(Duration::from_millis(2));
    floor.report(impatient, Outcome::Late);
    assert!(floor.send(2).contains(&"press".to_owned()));
}

#[test]
fn a_node_that_restarted_is_tried_at_once() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.lose("press");
    floor.pass(Duration::from_millis(600));
    assert_eq!(floor.send(2), ["weld"; 2]);
    floor.change("press", |node| node.epoch = 2);
    let probe = floor.lease();
    assert_eq!(name(&probe), "press");
    assert_eq!(name(&floor.lease()), "weld");
}

#[test]
fn a_leaving_node_gets_no_further_call_and_no_blame() {
    let floor = Floor::with(["press", "weld"]);
    let lease = floor.lease_of("press");
    floor.report(lease, Outcome::Leaving);
    assert_eq!(floor.send(3), ["weld"; 3]);
    assert_eq!(floor.balancer.statistics(floor.now)[&id("press")].failures, 0);
}

#[test]
fn unknown_models_are_told_from_models_that_cannot_serve_now() {
    let mut floor = Floor::with(["press", "weld"]);
    let lease = |floor: &Floor, model: &str, version| {
        let wanted: ModelName = model.parse().unwrap();
        floor.balancer.lease(Wanted::Model(&wanted, version), &[], floor.now).map(drop)
    };
    assert_eq!(lease(&floor, "subtract", None), Err(NoLease::Unknown));
    assert_eq!(lease(&floor, "add", Some(ModelVersion(2))), Err(NoLease::UnknownVersion));
    assert_eq!(lease(&floor, "add", Some(ModelVersion(1))), Ok(()));
    floor.change("press", |node| node.standing = Standing::Down);
    floor.change("weld", |node| {
        let Serves::Models(models) = &mut node.serves else { unreachable!() };
        models[0].state = ModelState::Loading;
    });
    let reason = "press is down, LOADING on weld".to_owned();
    assert_eq!(lease(&floor, "add", None), Err(NoLease::NotServing { reason }));
}

#[test]
fn a_node_that_loads_on_demand_is_asked_where_nobody_else_has_room() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.change("weld", |node| {
        let Serves::Models(models) = &mut node.serves else { unreachable!() };
        (models[0].state, models[0].on_demand) = (ModelState::Unavailable, true);
    });
    assert_eq!(floor.send(3), ["press"; 3], "whoever has loaded it comes first, however busy");
    assert_eq!(name(&floor.try_lease(&["press"]).unwrap()), "weld");
    floor.change("press", |node| node.standing = Standing::Down);
    assert_eq!(floor.send(1), ["weld"]);
}

#[test]
fn a_door_takes_calls_for_any_model() {
    let floor = Floor::new([Candidate { serves: Serves::Anything, ..node("gate") }]);
    let wanted: ModelName = "whatever".parse().unwrap();
    assert!(floor.balancer.lease(Wanted::Model(&wanted, None), &[], floor.now).is_ok());
}

#[test]
fn a_nodes_counters_survive_an_update_and_its_leases_survive_its_leaving() {
    let mut floor = Floor::with(["press", "weld"]);
    let lease = floor.lease_of("press");
    floor.change("weld", |node| node.slots = 2);
    assert_eq!(floor.in_flight(), 1);
    floor.nodes.retain(|node| &*node.name == "weld");
    floor.balancer.update(floor.nodes.clone(), floor.now);
    floor.answer(lease);
    assert_eq!(floor.in_flight(), 0);
}

#[test]
fn threads_that_lease_at_once_send_one_probe_only() {
    let mut floor = Floor::with(["press", "weld"]);
    floor.lose("press");
    floor.pass(Duration::from_secs(3));
    let leases: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| floor.lease())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(leases.iter().filter(|lease| name(lease) == "press").count(), 1);
}

#[test]
fn threads_that_call_and_fail_at_once_leave_nothing_in_flight() {
    let floor = Floor::with(["glue", "press", "weld"]);
    let work = |thread: u64| {
        for call in 0..2_000 {
            let now = floor.now + Duration::from_millis(call * 3);
            let lease = floor.balancer.lease(Wanted::Model(&add(), None), &[], now).unwrap();
            match (call + thread) % 7 {
                0 => drop(lease),
                1 => floor.balancer.report(lease, Outcome::Failed, now),
                _ => floor.balancer.report(lease, answered(load(1)), now),
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || work(thread)))));
    assert_eq!(floor.in_flight(), 0);
}
