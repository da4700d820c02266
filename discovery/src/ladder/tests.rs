use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::sim::node;

const OWN: u8 = 1;

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7443))
}

/// A ladder with a clock, and a cluster of which some members are there.
struct Climb {
    ladder: Ladder,
    start: Instant,
    now: Instant,
    active: BTreeSet<NodeId>,
}

impl Climb {
    fn new() -> Self {
        let now = Instant::now();
        let ladder = Ladder::new(node(OWN), address(OWN), StdRng::seed_from_u64(7));
        Self { ladder, start: now, now, active: BTreeSet::new() }
    }

    fn dial(&mut self) -> Option<Dial> {
        self.ladder.next_dial(|node| self.active.contains(&node), self.now)
    }

    fn dials(&mut self) -> Vec<Dial> {
        std::iter::from_fn(|| self.dial()).collect()
    }

    fn end(&mut self, dial: Dial, answer: Answer) -> Verdict {
        self.ladder.ended(dial, answer, self.now)
    }

    /// The moments at which something was dialled, in seconds, when nobody ever answers.
    fn moments(&mut self, within: u64) -> Vec<f64> {
        let mut moments = Vec::new();
        let end = self.now + Duration::from_secs(within);
        while self.now <= end {
            for dial in self.dials() {
                moments.push((self.now - self.start).as_secs_f64());
                self.end(dial, Answer::Nobody);
            }
            let Some(wake) = self.ladder.next_wake(|node| self.active.contains(&node)) else { break };
            assert!(self.now < wake, "it turns without rest");
            self.now = wake;
        }
        moments
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

fn rests(moments: &[f64]) -> Vec<f64> {
    moments.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn who_is_alone_tries_a_seed_at_once_and_then_less_often() {
    let mut climb = Climb::new();
    climb.ladder.seeds(&[address(2)], climb.now);
    let moments = climb.moments(60);
    assert!(moments[0].abs() < f64::EPSILON);
    let rests = rests(&moments);
    for (rest, rung) in rests.iter().zip([1.0, 2.0, 5.0, 10.0, 10.0, 10.0]) {
        assert!((rung * 0.8..=rung * 1.2).contains(rest), "{rests:?}");
    }
}

#[test]
fn the_first_round_has_every_source_in_it() {
    let mut climb = Climb::new();
    climb.ladder.seeds(&[address(10), address(11)], climb.now);
    climb.ladder.remember((20..30).map(|n| (node(n), address(n))), climb.now);
    (40..50).for_each(|n| assert!(climb.ladder.hint(node(n), &[address(n)], climb.now)));
    let first = climb.dials();
    assert_eq!(first.len(), DIALS_MAX);
    assert_eq!(first[0], Dial { address: address(20), expect: Some(node(20)) });
    assert_eq!(first[1], Dial { address: address(10), expect: None });
    assert_eq!(first[2], Dial { address: address(40), expect: Some(node(40)) });
}

#[test]
fn four_dials_are_on_their_way_at_most_and_the_next_when_one_has_ended() {
    let mut climb = Climb::new();
    (2..=250).for_each(|n| assert!(climb.ladder.hint(node(n), &[address(n)], climb.now)));
    let mut flying = climb.dials();
    assert_eq!((DIALS_MAX, flying.len()), (4, 4));
    let wake = |climb: &Climb| climb.ladder.next_wake(|node| climb.active.contains(&node));
    for _ in 0..20 {
        climb.pass(60);
        assert_eq!((climb.dial(), wake(&climb)), (None, None), "only an end makes room");
        climb.end(flying.remove(0), Answer::Nobody);
        assert!(wake(&climb).is_some());
        flying.extend(climb.dials());
        assert_eq!(flying.len(), DIALS_MAX);
    }
}

#[test]
fn a_flood_of_false_hints_does_not_hold_up_the_seeds() {
    let mut climb = Climb::new();
    (2..=250).for_each(|n| assert!(climb.ladder.hint(node(n), &[address(n)], climb.now)));
    climb.dials();
    climb.ladder.seeds(&[SocketAddr::from(([10, 1, 1, 1], 7443))], climb.now);
    let flying = *climb.ladder.flying.first().unwrap();
    climb.end(flying, Answer::Nobody);
    assert_eq!(climb.dial().map(|dial| dial.expect), Some(None));
}

#[test]
fn who_has_company_leaves_remembered_members_and_reached_seeds_alone() {
    let mut climb = Climb::new();
    climb.ladder.seeds(&[address(2), address(3)], climb.now);
    for dial in climb.dials() {
        let answer = if dial.address == address(2) { Answer::Member(node(2)) } else { Answer::Nobody };
        climb.end(dial, answer);
    }
    climb.active.insert(node(2));
    climb.ladder.alone(false);
    let moments = climb.moments(400);
    let rests = rests(&moments);
    assert!((4..=8).contains(&moments.len()), "{moments:?}");
    assert!(rests.iter().all(|rest| (48.0..=72.0).contains(rest)), "{rests:?}");
}

#[test]
fn who_has_become_alone_begins_again() {
    let mut climb = Climb::new();
    climb.ladder.seeds(&[address(2)], climb.now);
    climb.ladder.remember([(node(3), address(3))], climb.now);
    for dial in climb.dials() {
        climb.end(dial, Answer::Member(node(dial.address.to_string().as_bytes()[7] - b'0')));
    }
    climb.active.extend([node(2), node(3)]);
    climb.ladder.alone(false);
    climb.pass(100);
    assert_eq!(climb.dials(), []);

    climb.active.clear();
    climb.ladder.alone(true);
    assert_eq!(climb.dials().len(), 2);
}

#[test]
fn a_hint_is_dialled_whether_alone_or_not_unless_its_member_is_there() {
    let mut climb = Climb::new();
    climb.ladder.alone(false);
    climb.active.insert(node(3));
    climb.ladder.hint(node(2), &[address(2)], climb.now);
    climb.ladder.hint(node(3), &[address(3)], climb.now);
    assert_eq!(climb.dials(), [Dial { address: address(2), expect: Some(node(2)) }]);
}

#[test]
fn a_hint_that_leads_nowhere_is_tried_less_and_less() {
    let mut climb = Climb::new();
    climb.ladder.hint(node(2), &[address(2)], climb.now);
    let rests = rests(&climb.moments(400));
    for (rest, wanted) in rests.iter().zip([5.0, 10.0, 20.0, 40.0, 60.0, 60.0]) {
        assert!((f64::max(5.0, wanted * 0.8)..=wanted * 1.2).contains(rest), "{rests:?}");
    }
}

#[test]
fn where_somebody_else_was_nobody_is_looked_for_for_a_while() {
    let mut climb = Climb::new();
    climb.ladder.hint(node(2), &[address(2)], climb.now);
    let dial = climb.dial().unwrap();
    assert_eq!(climb.end(dial, Answer::Member(node(3))), Verdict::WrongIdentity);
    let rest = climb.ladder.next_wake(|_| false).unwrap() - climb.now;
    assert!(rest >= QUARANTINE, "{rest:?}");
    // Told again, it rests all the same.
    climb.pass(10);
    climb.ladder.hint(node(2), &[address(2)], climb.now);
    assert_eq!(climb.dials(), []);
    // A true claim about the same address does not suffer for the false one.
    climb.ladder.hint(node(3), &[address(2)], climb.now);
    assert_eq!(climb.dials(), [Dial { address: address(2), expect: Some(node(3)) }]);
}

#[test]
fn a_peer_that_is_no_member_is_left_alone_for_a_while() {
    let mut climb = Climb::new();
    climb.ladder.seeds(&[address(2)], climb.now);
    let dial = climb.dial().unwrap();
    assert_eq!(climb.end(dial, Answer::NoMember), Verdict::NoMember);
    assert!(climb.ladder.next_wake(|_| false).unwrap() - climb.now >= QUARANTINE);
}

#[test]
fn a_member_does_not_dial_itself_twice() {
    let mut climb = Climb::new();
    let other_name = SocketAddr::from(([127, 0, 0, 1], 7443));
    climb.ladder.seeds(&[address(OWN), other_name], climb.now);
    climb.ladder.hint(node(OWN), &[address(OWN)], climb.now);
    let dials = climb.dials();
    assert_eq!(dials, [Dial { address: other_name, expect: None }]);
    assert_eq!(climb.end(dials[0], Answer::Member(node(OWN))), Verdict::Ourselves);
    assert_eq!(climb.ladder.next_wake(|_| false), None);
}

#[test]
fn where_our_own_id_is_said_to_live_is_dialled_although_we_are_here() {
    let mut climb = Climb::new();
    climb.active.insert(node(OWN));
    climb.ladder.alone(false);
    climb.ladder.hint(node(OWN), &[address(9)], climb.now);
    let dial = Dial { address: address(9), expect: Some(node(OWN)) };
    assert_eq!(climb.dials(), [dial]);
    assert_eq!(climb.end(dial, Answer::Double), Verdict::Double);
    // Named again as often as it likes, it is dialled three times a minute.
    let mut dials = 0;
    for _ in 0..120 {
        climb.pass(1);
        climb.ladder.elsewhere(&[address(9)], climb.now);
        for dial in climb.dials() {
            dials += 1;
            climb.end(dial, Answer::Double);
        }
    }
    assert!((5..=8).contains(&dials), "{dials} dials");
    // Nobody names it any more, and nobody is there.
    assert!(!climb.moments(300).is_empty());
    assert!(climb.ladder.places.is_empty());
}

#[test]
fn our_own_id_is_looked_for_at_few_places_at_once() {
    let mut climb = Climb::new();
    for _ in 0..60 {
        let many: Vec<_> = (10..250).map(address).collect();
        climb.ladder.elsewhere(&many, climb.now);
        assert!(climb.ladder.places.len() <= DOUBTS_MAX);
        let dials = climb.dials();
        assert!(dials.len() <= 1, "one after the other");
        for dial in dials {
            climb.end(dial, Answer::Nobody);
        }
        climb.pass(1);
    }
}

#[test]
fn a_place_where_we_were_is_dialled_again_after_we_moved() {
    let mut climb = Climb::new();
    climb.ladder.seeds(&[address(9)], climb.now);
    let dials = climb.dials();
    assert_eq!(climb.end(dials[0], Answer::Member(node(OWN))), Verdict::Ourselves);
    climb.pass(60);
    assert_eq!(climb.dials(), []);
    climb.ladder.own_address(address(77));
    assert_eq!(climb.dials(), dials);
}

#[test]
fn a_member_with_two_addresses_is_dialled_at_one_of_them() {
    let mut climb = Climb::new();
    climb.ladder.hint(node(2), &[address(2), address(3)], climb.now);
    let dial = climb.dial().unwrap();
    assert_eq!(climb.dial(), None);
    climb.end(dial, Answer::Member(node(2)));
    assert_eq!(climb.dial(), None, "it is on its way into the cluster");
    climb.pass(7);
    assert!(climb.dial().is_some(), "it did not get there");
}

#[test]
fn too_many_hints_are_refused_unless_one_of_them_proved_false() {
    let mut climb = Climb::new();
    let id = |n: usize| NodeId::from_bytes((n as u128 + 1000).to_be_bytes());
    let place = |n: usize| SocketAddr::from(([10, 1, (n / 250) as u8, (n % 250) as u8], 7443));
    let admitted = (0..2 * HINTS_MAX).filter(|n| climb.ladder.hint(id(*n), &[place(*n)], climb.now)).count();
    assert_eq!(admitted, HINTS_MAX);
    let dial = climb.dial().unwrap();
    climb.end(dial, Answer::Nobody);
    assert!(climb.ladder.hint(id(9999), &[place(999)], climb.now));
    assert!(!climb.ladder.hint(id(9998), &[place(998)], climb.now));
    // What mDNS no longer knows makes room too.
    climb.ladder.hint_gone(id(9999));
    assert!(climb.ladder.hint(id(9998), &[place(998)], climb.now));
}

#[derive(Clone, Debug)]
enum Step {
    Hint(u8, Vec<u8>),
    Gone(u8),
    Remember(Vec<u8>),
    Seed(u8),
    Active(u8, bool),
    End(usize, u8),
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0..12_u8;
    let step = prop_oneof![
        (n.clone(), prop::collection::vec(n.clone(), 0..12)).prop_map(|(node, at)| Step::Hint(node, at)),
        n.clone().prop_map(Step::Gone),
        prop::collection::vec(n.clone(), 0..12).prop_map(Step::Remember),
        n.clone().prop_map(Step::Seed),
        (n.clone(), any::<bool>()).prop_map(|(node, active)| Step::Active(node, active)),
        (0..DIALS_MAX, n).prop_map(|(which, answer)| Step::End(which, answer)),
        (0..8000_u16).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn whatever_is_told_the_limits_hold(steps in steps()) {
        let mut climb = Climb::new();
        let mut flying: Vec<Dial> = Vec::new();
        let mut hint_dials: BTreeMap<SocketAddr, Instant> = BTreeMap::new();
        let mut seeds = BTreeSet::new();
        let mut remembered = BTreeSet::new();
        for step in steps {
            match step {
                Step::Hint(n, at) => {
                    let at: Vec<_> = at.into_iter().map(address).collect();
                    climb.ladder.hint(node(n), &at, climb.now);
                }
                Step::Gone(n) => climb.ladder.hint_gone(node(n)),
                Step::Remember(all) => {
                    remembered = all.iter().copied().map(address).collect();
                    climb.ladder.remember(all.into_iter().map(|n| (node(n), address(n))), climb.now);
                }
                Step::Seed(n) => {
                    seeds.insert(address(n));
                    climb.ladder.seeds(&[address(n)], climb.now);
                }
                Step::Active(n, true) => drop(climb.active.insert(node(n))),
                Step::Active(n, false) => drop(climb.active.remove(&node(n))),
                Step::End(which, n) if which < flying.len() => {
                    let dial = flying.swap_remove(which);
                    let answer = match n {
                        0 => Answer::Nobody,
                        11 => Answer::NoMember,
                        10 => Answer::Double,
                        n => Answer::Member(node(n)),
                    };
                    climb.end(dial, answer);
                }
                Step::End(..) => {}
                Step::Pass(ms) => climb.now += Duration::from_millis(ms.into()),
            }
            let alone = climb.active.is_empty();
            climb.ladder.alone(alone);
            for dial in climb.dials() {
                let there = |n: NodeId| n != node(OWN) && climb.active.contains(&n);
                prop_assert!(!dial.expect.is_some_and(there));
                prop_assert!(dial.address != address(OWN));
                prop_assert!(flying.iter().all(|other| other.address != dial.address));
                let by_hint = !seeds.contains(&dial.address) && !remembered.contains(&dial.address);
                if let Some(last) = hint_dials.insert(dial.address, climb.now).filter(|_| by_hint) {
                    prop_assert!(HINT_SPACING <= climb.now - last, "{dial:?} again after {:?}", climb.now - last);
                }
                flying.push(dial);
            }
            prop_assert!(flying.len() <= DIALS_MAX);
            prop_assert!(climb.ladder.places.len() <= 12 * HINT_ADDRESSES_MAX + 12 + 12 + DIALS_MAX);
            if let Some(wake) = climb.ladder.next_wake(|node| climb.active.contains(&node)) {
                prop_assert!(climb.now < wake, "it turns without rest");
            }
        }
    }
}
