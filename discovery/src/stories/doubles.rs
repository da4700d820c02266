//! Two machines with one node id: a disk that was copied, in all the ways in which they can meet.

use super::*;
use crate::ladder::DOUBTS_MAX;

/// The machine with a copy of machine 2's disk.
const COPY: u8 = 9;

/// Fewer than elsewhere: each is tried with several epochs, and lives through minutes.
const SEEDS: std::ops::Range<u64> = 0..3;

/// The epochs of machine 2 and of the copy: a copied count may be the same, further, or behind.
const EPOCHS: [(u64, u64); 4] = [(5, 5), (5, 6), (6, 5), (5, 2000)];

fn address(n: u8) -> SocketAddr {
    state_of(n, 1).address
}

/// Whether both machines name the other.
fn both_know(floor: &Floor) -> bool {
    floor.machines[&2].double_of(2) == Some(address(COPY))
        && floor.machines[&COPY].double_of(2) == Some(address(2))
}

fn lives(floor: &Floor) -> u32 {
    floor.machines.values().map(|machine| machine.lives).sum()
}

/// What holds once both know of each other: the same one of them takes part, neither begins another life, a person hears of
/// it once a minute, and it is forgotten a minute after it has ended; then the one that is left takes part.
fn lives_in_peace(floor: &mut Floor) {
    let told = |floor: &Floor, n: u8| floor.machines[&n].doubles.len();
    let taking_part = |floor: &Floor| {
        let third = floor.running().find(|machine| machine.own.node != node(2))?;
        third.view.member(node(2)).map(|row| (row.address, row.epoch, row.standing))
    };
    // Whoever is passed over hears nobody, finds itself slow, and gives the others five times as long as usual.
    floor.pass(Duration::from_secs(30));
    let (lives_before, dials_before) = (lives(floor), [2, COPY].map(|n| floor.machines[&n].dials));
    let row_before = taking_part(floor);
    let told_before = [2, COPY].map(|n| told(floor, n));
    for _ in 0..120 {
        floor.pass(Duration::from_secs(1));
        assert!(both_know(floor), "a machine forgot its double while it was there");
    }
    assert_eq!(lives(floor), lives_before, "they go on declaring each other dead");
    assert_eq!(taking_part(floor), row_before, "they take turns");
    assert!(row_before.is_none_or(|(.., standing)| standing == Standing::Alive), "neither takes part");
    for (n, (dials, before)) in [2, COPY].into_iter().zip(dials_before.into_iter().zip(told_before)) {
        let machine = &floor.machines[&n];
        // One that is alone asks each of those who were there last every 10 s.
        assert!(machine.dials - dials <= 130, "machine {n}: {} dials in two minutes", machine.dials - dials);
        assert!((1..=3).contains(&(machine.doubles.len() - before)), "machine {n}: {:?}", machine.doubles);
        assert!(machine.gossip.counters().doubles_met > 0);
    }
    floor.kill(COPY);
    floor.until(100, "the double is forgotten", |floor| floor.running().all(|m| m.double_of(2).is_none()));
    let count = u8::try_from(floor.running().count()).unwrap();
    floor.until(30, "the machine that stays takes part", |floor| floor.all_see(count));
    floor.pass(Duration::from_secs(30));
    assert!(floor.running().all(|machine| machine.double_of(2).is_none()), "it came back");
    assert!(floor.all_see(count));
}

#[test]
fn two_copies_that_share_a_seed_are_named_on_both_and_by_the_third() {
    for (seed, (epoch, copied)) in SEEDS.flat_map(|seed| EPOCHS.map(|epochs| (seed, epochs))) {
        let loss = if seed % 2 == 0 { 0.0 } else { 0.05 };
        let mut floor = Floor::new(seed, loss);
        floor.start(1, 3);
        floor.start_with(2, state_of(2, epoch), &[1]);
        floor.until(20, "the cluster forms", |floor| floor.all_see(2));
        floor.start_copy(COPY, 2, copied, &[1]);
        floor.until(30, "all three name the double", |floor| {
            both_know(floor) && floor.machines[&1].double_of(2).is_some()
        });
        assert!(lives(&floor) <= 16, "seed {seed}, epochs {epoch} and {copied}: {} lives", lives(&floor));
        assert_eq!(floor.machines[&1].lives, 0);
        lives_in_peace(&mut floor);
    }
}

#[test]
fn two_copies_that_start_together_are_named_in_a_larger_cluster_that_loses_packets() {
    for (seed, (epoch, copied)) in (0..2).flat_map(|seed| EPOCHS.map(|epochs| (seed, epochs))) {
        let mut floor = Floor::new(seed, 0.05);
        for n in [1, 3, 4, 5, 6, 7, 8] {
            floor.start(n, 3);
            floor.greet(n, 1);
        }
        floor.start_with(2, state_of(2, epoch), &[1]);
        floor.start_copy(COPY, 2, copied, &[5]);
        let took = floor.until(30, "both name the other, and some third the double", |floor| {
            both_know(floor) && floor.running().filter(|machine| machine.double_of(2).is_some()).count() > 2
        });
        assert!(took < Duration::from_secs(15), "seed {seed}, epochs {epoch} and {copied}: it took {took:?}");
        let others = floor.machines.iter().filter(|(n, _)| ![2, COPY].contains(n));
        assert_eq!(others.map(|(_, machine)| machine.lives).sum::<u32>(), 0, "seed {seed}: others paid");
        lives_in_peace(&mut floor);
    }
}

#[test]
fn two_copies_alone_are_named_by_an_mdns_record_that_one_of_them_hears() {
    for (seed, (epoch, copied)) in SEEDS.flat_map(|seed| EPOCHS.map(|epochs| (seed, epochs))) {
        for hears in [2, COPY] {
            let mut floor = Floor::new(seed, 0.05);
            floor.start(2, epoch);
            floor.start_copy(COPY, 2, copied, &[]);
            // Its own record comes back too, and where nobody is.
            let now = floor.now;
            floor.machine(hears).ladder.hint(node(2), &[address(2), address(77), address(COPY)], now);
            floor.tell(hears, Input::Wake);
            floor.until(30, "both name the other", both_know);
            lives_in_peace(&mut floor);
        }
    }
}

#[test]
fn two_copies_alone_are_named_when_one_is_the_others_seed() {
    for (seed, (epoch, copied)) in SEEDS.flat_map(|seed| EPOCHS.map(|epochs| (seed, epochs))) {
        for (seeds, of_copy) in [(&[COPY][..], &[2][..]), (&[COPY], &[]), (&[], &[2])] {
            let mut floor = Floor::new(seed, 0.05);
            floor.start_with(2, state_of(2, epoch), seeds);
            floor.pass(Duration::from_secs(40));
            floor.start_copy(COPY, 2, copied, of_copy);
            floor.until(30, "both name the other", both_know);
            lives_in_peace(&mut floor);
        }
    }
}

#[test]
fn a_double_that_restarts_with_its_next_count_is_still_one() {
    let mut floor = Floor::new(1, 0.0);
    floor.start(1, 3);
    floor.start_with(2, state_of(2, 5), &[1]);
    floor.start_copy(COPY, 2, 5, &[1]);
    floor.until(30, "both name the other", both_know);
    let later = floor.machines[&COPY].own.epoch + 1;
    floor.start_copy(COPY, 2, later, &[1]);
    floor.until(30, "both name the other again", both_know);
    lives_in_peace(&mut floor);
}

#[test]
fn neither_a_restart_nor_another_address_makes_a_double() {
    for (seed, epoch) in SEEDS.flat_map(|seed| [(seed, 1), (seed, 5)]) {
        let mut floor = Floor::new(seed, 0.05);
        for n in 1..=4 {
            floor.start(n, epoch);
            floor.greet(n, 1);
        }
        floor.until(20, "the cluster forms", |floor| floor.all_see(4));
        // By DHCP while it runs, there and back again.
        for place in [77, 78, 2] {
            floor.change(2, |own| own.address = address(place));
            floor.pass(Duration::from_secs(7));
        }
        // A restart at once and one after it was taken for dead, at the same place, at another, and at the first again.
        for (lives, (place, off)) in [(2, 0), (2, 30), (77, 0), (78, 30), (2, 0)].into_iter().enumerate() {
            floor.kill(2);
            floor.pass(Duration::from_secs(off));
            let next = floor.machine(2).own.epoch + 1;
            floor.start_at(2, next, address(place));
            floor.greet(2, 1);
            let what = format!("it is back, restart {lives}");
            floor.until(30, &what, |floor| floor.all_see(4));
            floor.pass(Duration::from_secs(20));
        }
        for machine in floor.machines.values() {
            assert!(machine.doubles.is_empty(), "seed {seed}: {:?}", machine.doubles);
            assert_eq!(machine.double_of(2), None);
            assert_eq!(machine.gossip.counters().doubles_met, 0);
        }
    }
}

#[test]
fn who_meets_itself_by_another_way_meets_no_double() {
    let mut floor = Floor::formed(2, 1, 0.0);
    let before = floor.machine(2).own.clone();
    floor.tell(2, Input::Met(Box::new(before.clone())));
    // A connection with ourselves that stands tells the address that we had when it was made.
    floor.change(2, |own| own.address = address(77));
    floor.tell(2, Input::Met(Box::new(before)));
    let now = floor.machine(2).own.clone();
    floor.tell(2, Input::Met(Box::new(now)));
    floor.pass(Duration::from_secs(5));
    let machine = floor.machine(2);
    assert!(machine.doubles.is_empty() && machine.double_of(2).is_none());
}

#[test]
fn a_false_claim_about_our_id_has_some_addresses_dialled_and_no_more() {
    let mut floor = Floor::formed(3, 1, 0.0);
    // Machine 3 says for two minutes that machine 2 lives where nobody is, where machine 1 is, and at ever new places.
    for round in 0..240_u32 {
        let epoch = floor.machine(2).own.epoch;
        let place = |n: u32| SocketAddr::from(([10, 7, u8::try_from(n % 250).unwrap(), 1], 7443));
        let claims = [address(77), address(1), place(round), place(round + 100)];
        let members = claims.map(|address| Member::alive(Identity { address, ..identity(2, epoch - 1) }));
        let bytes = packet(&identity(3, 1), &identity(2, epoch), Message::Gossip, members.to_vec());
        floor.tell(2, Input::Packet { from: node(3), bytes });
        floor.pass(Duration::from_millis(500));
    }
    let machine = floor.machine(2);
    assert!(machine.doubles.is_empty(), "an invention was named: {:?}", machine.doubles);
    let dials = usize::try_from(machine.dials).unwrap();
    assert!((2..=12 * DOUBTS_MAX).contains(&dials), "{dials} dials in two minutes");
    assert_eq!(machine.lives, 0);
    assert!(floor.all_see(3));
}
