//! To which node a session belongs, and what moves it.

use proptest::prelude::*;

use super::*;

const SESSION: &str = "belt 4";

impl Floor {
    fn try_lease_of(&self, session: &str, tried: &[NodeId]) -> Result<Lease, NoLease> {
        self.balancer.lease_of_session(session, Wanted::Model(&add(), None), tried, self.now)
    }

    /// Which node a session's next call goes to.
    fn home(&self, session: &str) -> String {
        name(&self.try_lease_of(session, &[]).unwrap())
    }

    /// The nodes in the order of a session.
    fn order(&self, session: &str) -> Vec<String> {
        let mut tried = Vec::new();
        let next = || {
            let lease = self.try_lease_of(session, &tried).ok()?;
            tried.push(lease.node());
            Some(name(&lease))
        };
        std::iter::from_fn(next).collect()
    }

    fn lose_of(&mut self, session: &str) -> String {
        let lease = self.try_lease_of(session, &[]).unwrap();
        let lost = name(&lease);
        self.pass(Duration::from_millis(1));
        self.report(lease, Outcome::Failed);
        lost
    }
}

#[test]
fn a_session_stays_with_its_node_whatever_that_has_to_do() {
    let floor = Floor::with(["glue", "press", "weld"]);
    let home = floor.home(SESSION);
    let leases: Vec<_> = (0..50).map(|_| floor.try_lease_of(SESSION, &[]).unwrap()).collect();
    assert!(leases.iter().all(|lease| name(lease) == home));
    let full = floor.lease_of(&home);
    floor.report(full, Outcome::Full { load: Some(load(99)), retry_after: None });
    assert_eq!(floor.home(SESSION), home);
    // Others go round it.
    assert!(!floor.send(4).contains(&home));
}

#[test]
fn gateways_agree_without_a_word() {
    let one = Floor::with(["glue", "paint", "press", "weld"]);
    let mut other = Floor::with(["weld", "press", "glue", "paint"]);
    other.change("press", |node| (node.slots, node.load) = (64, None));
    other.change("glue", |node| node.standing = Standing::Suspect);
    for number in 0..100 {
        let session = format!("belt {number}");
        assert_eq!(one.order(&session), other.order(&session));
    }
}

#[test]
fn the_order_of_a_session_is_the_same_in_every_release() {
    // Written down once: gateways of two releases must not tear a session apart.
    let floor = Floor::with(["glue", "paint", "press", "weld"]);
    let homes: Vec<_> = ["", "1", "2", "belt 4", "Läger"].map(|session| floor.home(session)).into();
    assert_eq!(homes, ["glue", "glue", "weld", "paint", "glue"]);
}

#[test]
fn a_node_that_rests_or_leaves_gives_way_to_the_next_and_takes_its_sessions_again() {
    let mut floor = Floor::with(["glue", "press", "weld"]);
    let order = floor.order(SESSION);
    assert_eq!(floor.lose_of(SESSION), order[0]);
    assert_eq!(floor.home(SESSION), order[1]);
    floor.pass(Duration::from_secs(3));
    let probe = floor.try_lease_of(SESSION, &[]).unwrap();
    assert_eq!((name(&probe), floor.home(SESSION)), (order[0].clone(), order[1].clone()));
    floor.answer(probe);
    assert_eq!(floor.home(SESSION), order[0]);

    floor.change(&order[0], |node| node.draining = true);
    floor.change(&order[1], |node| node.standing = Standing::Down);
    assert_eq!(floor.home(SESSION), order[2]);
}

#[test]
fn who_was_left_out_because_it_rests_is_named() {
    let mut floor = Floor::with(["press", "weld"]);
    let home = floor.lose_of(SESSION);
    let next = floor.try_lease_of(SESSION, &[]).unwrap();
    let reason = format!("{home} rests after a failed call");
    assert_eq!(floor.try_lease_of(SESSION, &[next.node()]).unwrap_err(), NoLease::NotServing { reason });
    let all = [id("press"), id("weld")];
    assert_eq!(floor.try_lease_of(SESSION, &all).unwrap_err(), NoLease::Exhausted);
    // Bars never close the last.
    floor.change(&name(&next), |node| node.standing = Standing::Down);
    assert_eq!(floor.home(SESSION), home);
}

#[test]
fn a_session_begins_where_its_model_is_loaded_and_else_where_a_call_loads_it() {
    let mut floor = Floor::with(["glue", "press", "weld"]);
    let order = floor.order(SESSION);
    let rest = |node: &mut Candidate| {
        let Serves::Models(models) = &mut node.serves else { unreachable!() };
        (models[0].state, models[0].on_demand) = (ModelState::Unavailable, true);
    };
    floor.change(&order[0], rest);
    assert_eq!(floor.order(SESSION), [&order[1], &order[2], &order[0]].map(String::clone));
    order[1..].iter().for_each(|name| floor.change(name, rest));
    assert_eq!(floor.order(SESSION), order);
}

#[test]
fn sessions_are_spread_over_the_nodes() {
    let floor = Floor::with(["glue", "paint", "press", "weld"]);
    let mut share = BTreeMap::<String, usize>::new();
    for number in 0..4_000 {
        *share.entry(floor.home(&number.to_string())).or_default() += 1;
    }
    assert!(share.len() == 4 && share.values().all(|count| (850..1_150).contains(count)), "{share:?}");
}

proptest! {
    #[test]
    fn only_the_sessions_of_a_node_that_comes_or_goes_move(
        ids in prop::collection::btree_set(any::<[u8; 16]>(), 2..9),
        which: prop::sample::Index,
        sessions in prop::collection::vec(".{0,12}", 1..20),
    ) {
        let nodes: Vec<_> = ids.into_iter().map(|id| Candidate { node: NodeId::from_bytes(id), ..node("n") }).collect();
        let comes_and_goes = nodes[which.index(nodes.len())].node;
        let with = Floor::new(nodes.clone());
        let without = Floor::new(nodes.into_iter().filter(|node| node.node != comes_and_goes));
        for session in sessions {
            let order = |floor: &Floor| {
                let mut tried = Vec::new();
                while let Ok(lease) = floor.try_lease_of(&session, &tried) {
                    tried.push(lease.node());
                }
                tried
            };
            let mut stays = order(&with);
            stays.retain(|node| *node != comes_and_goes);
            prop_assert_eq!(stays, order(&without));
        }
    }
}
