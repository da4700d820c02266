//! What each policy promises.

use proptest::prelude::*;

use super::*;

pub(super) const POLICIES: [Policy; 5] = [
    Policy::LeastLoad,
    Policy::RoundRobin,
    Policy::WeightedRoundRobin,
    Policy::PowerOfTwo,
    Policy::Rendezvous,
];

impl Floor {
    pub(super) fn by(policy: Policy, nodes: impl IntoIterator<Item = Candidate>) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let settings = Balancing { policy, ..Balancing::default() };
        let balancer = Balancer::new(settings, &mut StdRng::seed_from_u64(7), now);
        let floor = Self { balancer, nodes: nodes.into_iter().collect(), now };
        floor.balancer.update(floor.nodes.clone(), now);
        floor
    }

    fn lease_by(&self, affinity: Option<&str>) -> Lease {
        self.balancer.lease_for(affinity, Wanted::Model(&add(), None), &[], self.now).unwrap()
    }

    /// How many of so many calls, all in flight at once, each node gets.
    fn spread(&self, calls: usize) -> BTreeMap<String, usize> {
        let leases: Vec<_> = (0..calls).map(|_| self.lease()).collect();
        let mut spread: BTreeMap<_, _> = self.nodes.iter().map(|node| (node.name.to_string(), 0)).collect();
        leases.iter().for_each(|lease| *spread.get_mut(&name(lease)).unwrap() += 1);
        spread
    }
}

/// A node that says what it can do.
fn able(name: &str, slots: u32, call_us: u32) -> Candidate {
    let load = LoadReport { running: 0, queued: 0, slots, limit: 0, call_us };
    Candidate { slots, load: Some(load), ..node(name) }
}

#[test]
fn one_after_the_other_whatever_they_have_to_do() {
    let floor =
        Floor::by(Policy::RoundRobin, [able("glue", 9, 100), able("press", 1, 0), able("weld", 2, 9_000)]);
    let _held: Vec<_> = (0..5).map(|_| floor.lease_of("weld")).collect();
    let spread = floor.spread(30);
    assert!(spread.values().all(|count| (9..=11).contains(count)), "{spread:?}");
}

#[test]
fn another_policy_begins_at_once_and_without_debts() {
    let nodes = [able("glue", 2, 1_000), able("press", 2, 1_000), able("weld", 1, 9_000_000)];
    let floor = Floor::by(Policy::WeightedRoundRobin, nodes);
    drop(floor.spread(200));
    floor.balancer.set(Balancing { policy: Policy::RoundRobin, ..Balancing::default() });
    let spread = floor.spread(30);
    assert!(spread.values().all(|count| (9..=11).contains(count)), "{spread:?}");
}

#[test]
fn one_after_the_other_by_what_each_can_do_and_is_to_do() {
    let nodes = [able("glue", 4, 1_000), able("press", 4, 2_000), able("weld", 1, 1_000)];
    let mut floor = Floor::by(Policy::WeightedRoundRobin, nodes);
    assert_eq!(
        floor.spread(70),
        [("glue", 40), ("press", 20), ("weld", 10)].map(|(n, c)| (n.to_owned(), c)).into()
    );
    floor.change("glue", |node| node.weight = 50);
    let spread = floor.spread(50);
    assert!(spread["glue"].abs_diff(20) <= 1 && spread["press"].abs_diff(20) <= 1, "{spread:?}");
}

#[test]
fn who_says_that_it_can_do_everything_draws_no_more_than_the_largest_node_there_can_be() {
    for policy in [Policy::LeastLoad, Policy::WeightedRoundRobin, Policy::PowerOfTwo, Policy::Rendezvous] {
        let honest = Candidate { weight: 1_000, ..able("weld", 256, 1_000) };
        let boasts = Candidate { weight: u16::MAX, ..able("press", u32::MAX, 1_000) };
        let floor = Floor::by(policy, [boasts, honest]);
        let leases: Vec<_> = (0..400)
            .map(|number| {
                let affinity = (policy == Policy::Rendezvous).then(|| format!("part {number}"));
                floor.lease_by(affinity.as_deref())
            })
            .collect();
        let drawn = leases.iter().filter(|lease| name(lease) == "press").count();
        assert!((150..=250).contains(&drawn), "{policy:?}: {drawn} of 400");
    }
}

#[test]
fn turns_do_not_overflow_whatever_is_said_of_the_time_that_calls_take() {
    for reached in [u64::MAX >> 2, choose::TURNS_MAX] {
        let slow = |name| Candidate { weight: 1, ..able(name, 1, u32::MAX) };
        let floor = Floor::by(Policy::WeightedRoundRobin, ["glue", "press"].map(slow));
        floor.balancer.turn.store(reached, Relaxed);
        let calls = 1_000;
        let glue = floor.send(calls).iter().filter(|name| *name == "glue").count();
        assert_eq!(glue, calls / 2);
        assert!(floor.balancer.turn.load(Relaxed) < u64::MAX / 2);
    }
}

#[test]
fn who_was_away_does_not_get_all_that_it_missed() {
    let mut floor = Floor::by(Policy::RoundRobin, ["glue", "press"].map(node));
    floor.change("press", |node| node.draining = true);
    floor.spread(100);
    floor.change("press", |node| node.draining = false);
    assert!(floor.spread(10)["press"] <= 6);
}

#[test]
fn of_two_that_are_drawn_the_one_with_less_to_do() {
    let names: Vec<_> = (0..20).map(|i| format!("n{i:02}")).collect();
    let floor = Floor::by(Policy::PowerOfTwo, names.iter().map(|name| node(name)));
    let spread = floor.spread(400);
    assert!(spread.values().all(|count| (15..=23).contains(count)), "{spread:?}");
    let floor = Floor::by(Policy::PowerOfTwo, [able("glue", 12, 0), able("press", 4, 0), able("weld", 4, 0)]);
    let spread = floor.spread(400);
    assert!(spread["glue"].abs_diff(240) < 25, "{spread:?}");
}

#[test]
fn an_affinity_goes_to_one_node_under_every_policy_while_that_has_room() {
    for policy in POLICIES {
        let mut floor = Floor::by(policy, ["glue", "press", "weld"].map(node));
        let home = name(&floor.lease_by(Some("belt 4")));
        let held: Vec<_> = (0..9).map(|_| floor.lease_by(Some("belt 4"))).collect();
        assert!(held.iter().all(|lease| name(lease) == home), "{policy:?}");
        // It takes no more than nine.
        floor.change(&home, |node| node.load = Some(LoadReport { limit: 9, ..load(0) }));
        let next = name(&floor.lease_by(Some("belt 4")));
        assert_ne!(next, home);
        assert_eq!(name(&floor.lease_by(Some("belt 4"))), next);
        drop(held);
        assert_eq!(name(&floor.lease_by(Some("belt 4"))), home);
        floor.lose(&home);
        assert_eq!(name(&floor.lease_by(Some("belt 4"))), next, "who rests gives way, too");
    }
}

#[test]
fn without_an_affinity_rendezvous_goes_by_load() {
    let floor = Floor::by(Policy::Rendezvous, ["glue", "press", "weld"].map(node));
    assert!(floor.spread(30).values().all(|count| *count == 10));
}

#[test]
fn affinities_are_spread_by_what_each_can_do_and_come_back_step_by_step() {
    let mut floor = Floor::with(["glue", "press"]);
    floor.change("glue", |node| node.slots = 3);
    let of_press = |floor: &Floor| {
        let keys = (0..2_000).map(|key| key.to_string());
        keys.filter(|key| name(&floor.lease_by(Some(key))) == "press").collect::<Vec<_>>()
    };
    let all = of_press(&floor);
    assert!((420..=580).contains(&all.len()), "{} of 2000", all.len());
    floor.send(10);
    floor.change("press", |node| node.epoch = 2);
    let some = of_press(&floor);
    assert!((20..=100).contains(&some.len()) && some.iter().all(|key| all.contains(key)), "{}", some.len());
    floor.pass(Duration::from_secs(10));
    assert_eq!(of_press(&floor), all);
}

#[test]
fn a_node_is_not_given_more_than_it_takes_while_another_has_room() {
    for policy in POLICIES {
        let limited = |name: &str, limit| {
            let candidate = able(name, 8, 0);
            Candidate {
                load: candidate.load.map(|load| LoadReport { running: 2, limit, ..load }),
                ..candidate
            }
        };
        let floor = Floor::by(policy, [limited("press", 5), limited("weld", 50)]);
        let spread = floor.spread(40);
        // Two of the five are another gateway's.
        assert!(spread["press"] <= 3 && 37 <= spread["weld"], "{policy:?}: {spread:?}");
        let _full: Vec<_> = (0..20).map(|_| floor.lease()).collect();
        assert!(floor.try_lease(&["weld"]).is_ok(), "when nobody else is left");
        let wanted = add();
        let with_room =
            floor.balancer.lease_with_room(Wanted::Model(&wanted, None), &[id("weld")], floor.now);
        assert_eq!(with_room.map(drop), Err(NoLease::Exhausted), "who was sent away is not sent there");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn few_affinities_move_when_a_node_comes_or_goes(nodes in 2_u8..30, seed: u64) {
        let candidate = |i| Candidate { node: NodeId::from_bytes([i; 16]), ..node("n") };
        let with = Floor::by(Policy::Rendezvous, (0..=nodes).map(candidate));
        let without = Floor::by(Policy::Rendezvous, (0..nodes).map(candidate));
        let keys: Vec<_> = (0..200_u64).map(|key| (seed ^ key).to_string()).collect();
        let mut moved = 0_u32;
        for key in &keys {
            let (one, other) = (with.lease_by(Some(key)).node(), without.lease_by(Some(key)).node());
            prop_assert!(one == other || one == NodeId::from_bytes([nodes; 16]), "only to who has come");
            moved += u32::from(one != other);
        }
        let fair = 1.0 / f64::from(nodes + 1);
        prop_assert!(f64::from(moved) / 200.0 <= fair + 0.12, "{moved} of 200 with {nodes} nodes");
    }

    /// As many as there are callers in flight, each call as long as its node takes.
    #[test]
    fn shares_are_in_proportion_to_weights(weights in prop::collection::vec(20_u16..=100, 2..5), which in 0..3_usize) {
        let policy = [Policy::LeastLoad, Policy::WeightedRoundRobin, Policy::PowerOfTwo][which];
        let names = ["glue", "paint", "press", "weld"];
        let nodes = weights.iter().zip(names).map(|(weight, name)| Candidate { weight: *weight, ..able(name, 16, 0) });
        let floor = Floor::by(policy, nodes);
        let spread = floor.spread(400);
        let total: u16 = weights.iter().sum();
        for (weight, name) in weights.iter().zip(names) {
            let fair = 400.0 * f64::from(*weight) / f64::from(total);
            let got = spread[name] as f64;
            prop_assert!((0.85 * fair - 3.0..=1.15 * fair + 3.0).contains(&got), "{policy:?} {spread:?} {weights:?}");
        }
    }
}

/// What a lease costs with many peers, for a person: `cargo test -p lineside-client a_lease_costs -- --nocapture`.
#[test]
fn a_lease_costs_little_with_many_peers() {
    for nodes in [2_u8, 20, 200] {
        let candidate = |i| Candidate { node: NodeId::from_bytes([i; 16]), ..node("n") };
        for policy in POLICIES {
            let floor = Floor::by(policy, (0..nodes).map(candidate));
            let begun = tokio::time::Instant::now();
            let affinity = (policy == Policy::Rendezvous).then_some("belt 4");
            (0..50).for_each(|_| drop(floor.lease_by(affinity)));
            println!("{policy:?} with {nodes} peers: {:?} per lease", begun.elapsed() / 50);
        }
    }
}
