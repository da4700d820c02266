//! What holds whatever happens.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What may happen to a balancer.
#[derive(Clone, Debug)]
enum Event {
    Lease { tried: Vec<usize> },
    End { which: usize, how: usize },
    Pass { ms: u64 },
    Stand { which: usize, standing: usize },
}

const NAMES: [&str; 4] = ["glue", "paint", "press", "weld"];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop::collection::vec(0..NAMES.len(), 0..3).prop_map(|tried| Event::Lease { tried }),
        4 => (0..64_usize, 0..9_usize).prop_map(|(which, how)| Event::End { which, how }),
        2 => (0..5_000_u64).prop_map(|ms| Event::Pass { ms }),
        1 => (0..NAMES.len(), 0..4_usize).prop_map(|(which, standing)| Event::Stand { which, standing }),
    ]
}

fn end(floor: &Floor, lease: Lease, how: usize) {
    match how {
        0 => drop(lease),
        1 => floor.report(lease, Outcome::Failed),
        2 => floor.report(lease, Outcome::Late),
        3 => floor.report(lease, Outcome::Full { load: Some(load(9)), retry_after: None }),
        4 => floor.report(lease, Outcome::Leaving),
        5 => floor.report(lease, Outcome::Heard),
        6 => floor.report(lease, Outcome::Erred),
        7 => floor.report(lease, Outcome::Overtaken),
        _ => floor.answer(lease),
    }
}

proptest! {
    #[test]
    fn leases_never_leak_and_go_only_where_they_may(
        events in prop::collection::vec(event(), 1..200),
        policy in prop::sample::select(super::policies::POLICIES.to_vec()),
    ) {
        let mut floor = Floor::by(policy, NAMES.map(node));
        let mut leases: Vec<Lease> = Vec::new();
        for event in events {
            match event {
                Event::Lease { tried } => {
                    let tried: Vec<_> = tried.into_iter().map(|i| NAMES[i]).collect();
                    let is_open = |name: &&str| floor.nodes.iter().any(|node| &*node.name == *name && node.is_open());
                    let open: BTreeSet<_> = NAMES.iter().copied().filter(|name| is_open(name)).collect();
                    match floor.try_lease(&tried) {
                        Ok(lease) => {
                            let leased = name(&lease);
                            prop_assert!(open.contains(&*leased) && !tried.contains(&&*leased), "{leased}");
                            leases.push(lease);
                        }
                        // With nobody tried, somebody open is always found: bars never close the last.
                        Err(no_lease) => prop_assert!(open.is_empty() || !tried.is_empty(), "{no_lease:?}"),
                    }
                }
                Event::End { which, how } if which < leases.len() => end(&floor, leases.swap_remove(which), how),
                Event::End { .. } => {}
                Event::Pass { ms } => floor.pass(Duration::from_millis(ms)),
                Event::Stand { which, standing } => {
                    let standings = [Standing::Alive, Standing::Suspect, Standing::Down, Standing::Left];
                    floor.change(NAMES[which], |node| node.standing = standings[standing]);
                }
            }
            prop_assert_eq!(floor.in_flight() as usize, leases.len());
        }
        drop(leases);
        prop_assert_eq!(floor.in_flight(), 0);
    }

    #[test]
    fn the_same_calls_in_the_same_order_go_to_the_same_nodes(hows in prop::collection::vec(0..9_usize, 1..100)) {
        let run = || {
            let mut floor = Floor::with(NAMES);
            hows.iter().map(|how| {
                floor.pass(Duration::from_millis(7));
                let lease = floor.lease();
                let leased = name(&lease);
                end(&floor, lease, *how);
                leased
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    /// Callers that each send a call as soon as the last is answered, to nodes of different speeds.
    #[test]
    fn each_node_gets_a_share_in_proportion_to_its_speed(speeds in prop::collection::vec(1_u32..=8, 2..5)) {
        let nodes = speeds.iter().zip(NAMES).map(|(slots, name)| Candidate { slots: *slots, ..node(name) });
        let mut floor = Floor::new(nodes);
        let total: u32 = speeds.iter().sum();
        let mut running: Vec<(Instant, Lease)> = Vec::new();
        let mut share = [0_u32; NAMES.len()];
        for _ in 0..total * 40 {
            if running.len() == 2 * total as usize {
                let next = (0..running.len()).min_by_key(|i| running[*i].0).unwrap();
                let (ends, lease) = running.swap_remove(next);
                floor.now = ends;
                let report = Outcome::Answered { load: None, took: Duration::from_millis(1) };
                floor.report(lease, report);
            }
            let lease = floor.lease();
            let at = NAMES.iter().position(|name| id(name) == lease.node()).unwrap();
            share[at] += 1;
            // Twice as many callers as slots: each call waits for one other and runs 10 ms.
            let queue = running.iter().filter(|(_, other)| other.node() == lease.node()).map(|(ends, _)| *ends);
            let slots = speeds[at] as usize;
            let mut ends: Vec<_> = queue.collect();
            ends.sort();
            let free = ends.len().checked_sub(slots).map_or(floor.now, |i| ends[i]);
            running.push((free.max(floor.now) + Duration::from_millis(10), lease));
        }
        for (i, speed) in speeds.iter().enumerate() {
            let (got, fair) = (f64::from(share[i]), f64::from(40 * speed));
            prop_assert!((0.8 * fair..=1.2 * fair).contains(&got), "{share:?} for {speeds:?}");
        }
    }
}
