//! What the cluster does, told in virtual time.

mod doubles;
mod health;
mod rejoin;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use foca::{Header, Member, Message, State};
use lineside_wire::{LoadReport, NodeId, TrustStamp};

use crate::{
    MEMBERS_MAX, Pace, Standing,
    codec::{Codec, Packet},
    gossip::Input,
    identity::{ClusterTag, Identity},
    sim::{CLUSTER, Floor, Machine, model, node, state_of},
    summary::MemberSummary,
};

const SEEDS: std::ops::Range<u64> = 0..8;

fn identity(n: u8, epoch: u64) -> Identity {
    Identity::new(ClusterTag::of(CLUSTER), node(n), state_of(n, epoch).address, epoch)
}

fn packet(
    from: &Identity,
    to: &Identity,
    message: Message<Identity>,
    members: Vec<Member<Identity>>,
) -> Bytes {
    let header = Header { src: from.clone(), src_incarnation: 0, dst: to.clone(), message };
    let codec = Codec::new(ClusterTag::of(CLUSTER));
    Packet { header, members, tail: &[] }.write(codec).expect("a packet fits").into()
}

#[test]
fn a_cluster_forms_around_one_member() {
    for (count, seed) in SEEDS.flat_map(|seed| [(3, seed), (10, seed)]) {
        let mut floor = Floor::with_machines(count, seed, 0.0);
        let took = floor.until(3, "everybody sees everybody", |floor| floor.all_see(count));
        assert!(took < Duration::from_secs(3), "seed {seed}: {count} machines took {took:?}");
    }
}

#[test]
fn a_cluster_forms_while_packets_get_lost() {
    for (count, seed) in SEEDS.flat_map(|seed| [(3, seed), (10, seed)]) {
        Floor::with_machines(count, seed, 0.3).until(60, "everybody sees everybody", |f| f.all_see(count));
    }
}

#[test]
fn a_killed_member_is_down_for_all_in_time() {
    // Four seconds are the suspicion's. Until somebody's turn comes to probe the dead one, a few more periods can
    // pass among ten: nine members choose by lot. Of these seeds the unluckiest needs 9.7 s.
    for (pace, loss, count, seconds) in [
        (Pace::LAN, 0.0, 3, 8),
        (Pace::LAN, 0.0, 10, 10),
        (Pace::LAN, 0.05, 10, 10),
        (Pace::FAST, 0.0, 10, 6),
    ] {
        for seed in SEEDS {
            let mut floor = Floor::new(seed, loss);
            floor.pace = pace;
            for n in 1..=count {
                floor.start(n, 1);
                floor.greet(n, 1);
            }
            floor.until(30, "the cluster forms", |floor| floor.all_see(count));
            floor.pass(Duration::from_millis(seed * 130));
            floor.kill(2);
            let took = floor.until(20, "all see the dead one down", |floor| {
                floor.running().all(|m| m.view.member(node(2)).is_some_and(|m| m.standing == Standing::Down))
            });
            assert!(
                took < Duration::from_secs(seconds),
                "seed {seed}: {pace:?}, {count} machines took {took:?}"
            );
        }
    }
}

#[test]
fn nobody_is_declared_down_while_all_live() {
    for seed in SEEDS {
        let mut floor = Floor::formed(10, seed, 0.05);
        floor.pass(Duration::from_secs(60));
        assert!(floor.running().all(|machine| machine.lives == 0), "seed {seed}: somebody had to rejoin");
    }
}

#[test]
fn a_restarted_member_keeps_one_row() {
    for seed in SEEDS {
        let mut floor = Floor::formed(3, seed, 0.0);
        floor.kill(2);
        floor.pass(Duration::from_millis(200));
        floor.start(2, 2);
        floor.greet(2, 1);
        let took = floor.until(3, "the new life is seen by all", |floor| {
            floor.running().all(|m| m.view.member(node(2)).is_some_and(|m| m.epoch == 2 && m.is_usable()))
        });
        assert!(took < Duration::from_secs(3));
        assert!(floor.running().all(|machine| machine.view.members.len() == 3));
    }
}

#[test]
fn a_member_that_was_down_for_long_comes_back() {
    let mut floor = Floor::formed(3, 1, 0.0);
    floor.kill(2);
    floor.pass(Duration::from_secs(60));
    assert_eq!(floor.standing(2, 1), Some(Standing::Down));
    floor.start(2, 2);
    floor.greet(2, 3);
    floor.until(3, "it is back", |floor| floor.all_see(3));
}

#[test]
fn a_member_with_a_forgotten_epoch_gets_past_its_earlier_lives() {
    for seed in SEEDS {
        let mut floor = Floor::new(seed, 0.0);
        for n in 1..=3 {
            floor.start(n, 5 * 1024);
            floor.greet(n, 1);
        }
        floor.until(10, "the cluster forms", |floor| floor.all_see(3));
        floor.kill(2);
        floor.pass(Duration::from_secs(20));
        floor.start(2, 1);
        floor.greet(2, 1);
        floor.until(60, "it is back", |floor| floor.all_see(3));
        assert!(floor.machine(2).own.epoch > 5 * 1024);
        assert!(floor.machine(2).lives < 20, "it took {} lives", floor.machine(2).lives);
    }
}

#[test]
fn a_member_that_lost_its_state_and_its_address_gets_past_its_earlier_lives() {
    // Of two lives of one epoch the larger address is believed: a smaller one has to become a later life, however early
    // it comes back and whoever it meets first, also one that lost its state itself.
    let moved = "9.0.0.2:7443".parse().unwrap();
    for (seed, epoch, dead_for) in
        SEEDS.flat_map(|seed| [(seed, 1, 0), (seed, 1, 60), (seed, 7, 0), (seed, 5 * 1024, 20)])
    {
        let mut floor = Floor::new(seed, 0.05);
        for n in 1..=4 {
            floor.start(n, epoch);
            floor.greet(n, 1);
        }
        floor.until(10, "the cluster forms", |floor| floor.all_see(4));
        floor.kill(2);
        floor.pass(Duration::from_secs(dead_for));
        floor.start_at(2, 1, moved);
        floor.greet(2, 3);
        floor.until(15, "it is back, at its new address", |floor| {
            let there = |m: &Machine| m.view.member(node(2)).is_some_and(|row| row.address == moved);
            floor.all_see(4) && floor.running().all(there)
        });
        let lives = floor.machine(2).lives;
        assert!(lives <= 4, "seed {seed}, epoch {epoch}: it took {lives} lives");
        floor.pass(Duration::from_secs(30));
        let others = floor.running().filter(|machine| machine.own.node != node(2));
        assert!(
            others.map(|machine| machine.lives).sum::<u32>() == 0,
            "seed {seed}, epoch {epoch}: others paid"
        );
        assert!(floor.all_see(4), "seed {seed}, epoch {epoch}: it did not stay");
        assert!(
            floor.running().all(|m| m.doubles.is_empty()),
            "seed {seed}, epoch {epoch}: taken for a double"
        );
    }
}

#[test]
fn a_parted_cluster_heals() {
    for seed in SEEDS {
        let mut floor = Floor::formed(6, seed, 0.0);
        floor.cut_off([4, 5, 6]);
        floor.until(20, "both halves count the other out", |floor| floor.all_see(3));
        floor.pass(Duration::from_secs(40));
        floor.cut_off([]);
        floor.until(15, "the halves are one again", |floor| floor.all_see(6));
    }
}

#[test]
fn a_member_that_lost_everybody_is_taken_back_by_one_greeting() {
    let mut floor = Floor::formed(3, 3, 0.0);
    floor.cut_off([3]);
    floor.until(20, "the lonely one is alone", |floor| floor.machines[&3].gossip.is_alone());
    floor.cut_off([]);
    floor.greet(3, 1);
    floor.until(5, "it is back", |floor| floor.all_see(3));
}

#[test]
fn a_packet_in_another_members_name_changes_nothing() {
    let mut floor = Floor::formed(3, 1, 0.0);
    let down = Member::new(identity(2, 1), 9, State::Down);
    let forged = packet(&identity(3, 1), &identity(1, 1), Message::Gossip, vec![down]);
    let before = floor.machine(1).gossip.counters().src_mismatch;
    // The connection is the one with machine 2; the packet says that it comes from machine 3.
    floor.tell(1, Input::Packet { from: node(2), bytes: forged });
    assert_eq!(floor.machine(1).gossip.counters().src_mismatch, before + 1);
    assert_eq!(floor.standing(2, 1), Some(Standing::Alive));
}

#[test]
fn a_packet_in_our_own_name_changes_nothing() {
    let mut floor = Floor::formed(3, 1, 0.0);
    let forged = packet(&identity(1, 7), &identity(1, 1), Message::Gossip, vec![]);
    floor.tell(1, Input::Packet { from: node(1), bytes: forged });
    assert_eq!(floor.machine(1).gossip.counters().src_mismatch, 1);
}

#[test]
fn a_packet_of_another_cluster_changes_nothing() {
    let mut floor = Floor::formed(3, 1, 0.0);
    let tag = ClusterTag(7);
    let foreign = |n| Identity::new(tag, node(n), state_of(n, 1).address, 1);
    let header = Header { src: foreign(9), src_incarnation: 0, dst: foreign(1), message: Message::Announce };
    let bytes = Packet { header, members: vec![], tail: &[] }.write(Codec::new(tag)).unwrap();
    floor.tell(1, Input::Packet { from: node(9), bytes: bytes.into() });
    assert_eq!(floor.machine(1).gossip.counters().foreign_cluster, 1);
    assert_eq!(floor.standing(9, 1), None);
}

#[test]
fn invented_members_cannot_make_the_list_longer_than_its_limit() {
    let mut floor = Floor::formed(3, 1, 0.0);
    let tag = ClusterTag::of(CLUSTER);
    for batch in 0..100_u16 {
        let invent = |n: u16| {
            let id = u128::from(batch * 10 + n + 1000).to_be_bytes();
            let address = "10.1.0.1:7443".parse().unwrap();
            Member::alive(Identity::new(tag, NodeId::from_bytes(id), address, 1))
        };
        let bytes = packet(&identity(3, 1), &identity(1, 1), Message::Gossip, (0..10).map(invent).collect());
        floor.tell(1, Input::Packet { from: node(3), bytes });
    }
    floor.pass(Duration::from_secs(1));
    let machine = floor.machine(1);
    assert!(machine.gossip.counters().over_limit > 0);
    assert_eq!(machine.view.members.len(), MEMBERS_MAX);
    // None of them gets any work, because none can prove who it is.
    assert_eq!(machine.view.members.values().filter(|member| member.is_usable()).count(), 3);
}

#[test]
fn load_reaches_everybody_and_late_joiners_too() {
    for seed in SEEDS {
        let mut floor = Floor::formed(5, seed, 0.0);
        let busy = LoadReport { running: 4, queued: 7, slots: 4, limit: 0, call_us: 0 };
        floor.change(2, |own| own.load = busy);
        let knows = |floor: &Floor| {
            floor.running().all(|m| m.view.member(node(2)).is_some_and(|member| member.load == busy))
        };
        floor.until(3, "all know the load", knows);

        floor.start(6, 1);
        floor.greet(6, 3);
        floor.until(4, "the late one knows it too", |floor| floor.all_see(6) && knows(floor));
    }
}

#[test]
fn new_models_are_asked_for_and_draining_is_seen() {
    for seed in SEEDS {
        let mut floor = Floor::formed(4, seed, 0.05);
        floor.change(2, |own| own.models = vec![model("add")]);
        floor.until(5, "all know the model", |floor| {
            floor.running().all(|m| {
                let state = m.view.member(node(2)).and_then(|member| member.state.as_ref());
                state.is_some_and(|state| state.models.len() == 1)
            })
        });
        floor.change(2, |own| own.draining = true);
        floor.until(3, "nobody sends work there", |floor| {
            floor.running().all(|m| m.view.member(node(2)).is_some_and(|member| !member.is_usable()))
        });
    }
}

#[test]
fn a_new_trust_list_is_heard_of_within_a_second_and_by_late_joiners_too() {
    for (seed, loss) in SEEDS.flat_map(|seed| [(seed, 0.0), (seed, 0.05)]) {
        let mut floor = Floor::formed(10, seed, loss);
        floor.pass(Duration::from_secs(5));
        let stamp = TrustStamp { number: 2, hash: 7 };
        floor.change(2, |own| own.trust = stamp);
        let knows = |floor: &Floor| {
            floor.running().all(|m| m.view.member(node(2)).is_some_and(|member| member.trust == stamp))
        };
        let took = floor.until(5, "all know of the list", knows);
        assert!(took <= Duration::from_secs(1), "seed {seed}, loss {loss}: it took {took:?}");

        floor.start(11, 1);
        floor.greet(11, 3);
        floor.until(10, "the late one knows it too", |floor| floor.all_see(11) && knows(floor));
    }
}

#[test]
fn a_renewed_certificate_is_asked_for() {
    for seed in SEEDS {
        let mut floor = Floor::formed(4, seed, 0.05);
        floor.change(2, |own| (own.certificate_expires, own.certificate_generation) = (99, 2));
        floor.until(5, "all know the certificate", |floor| {
            floor.running().all(|m| {
                let state = m.view.member(node(2)).and_then(|member| member.state.as_ref());
                state.is_some_and(|s| (s.certificate_expires, s.certificate_generation) == (99, 2))
            })
        });
    }
}

#[test]
fn a_forged_summary_lives_until_its_owners_next_word() {
    let mut floor = Floor::formed(3, 1, 0.0);
    let forged = |sequence| MemberSummary {
        node: node(2),
        epoch: 1,
        sequence,
        revision: u64::MAX,
        draining: true,
        cordoned: true,
        leaving: false,
        door: false,
        load: LoadReport::default(),
        digest: 1,
        trust: TrustStamp { number: 9, hash: 9 },
    };
    let codec = Codec::new(ClusterTag::of(CLUSTER));
    let packet = |sequence| {
        let bytes = forged(sequence).encode();
        let mut tail = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        tail.extend(bytes);
        let (src, dst) = (identity(3, 1), identity(1, 1));
        let header = Header { src, src_incarnation: 0, dst, message: Message::Broadcast };
        let bytes = Packet { header, members: vec![], tail: &tail }.write(codec).unwrap();
        Input::Packet { from: node(3), bytes: bytes.into() }
    };
    floor.tell(1, packet(1 << 31));
    assert!(!floor.machine(1).view.member(node(2)).unwrap().is_usable());
    floor.until(5, "all believe the owner again", |floor| floor.all_see(3));
    floor.pass(Duration::from_secs(5));
    assert!(floor.all_see(3));
    // A number that leaves the owner none above it is not even believed until then.
    floor.tell(1, packet(u64::MAX));
    assert!(floor.all_see(3));
}

#[test]
fn a_member_that_says_goodbye_has_left() {
    for (count, seed) in SEEDS.flat_map(|seed| [(3, seed), (10, seed)]) {
        let mut floor = Floor::formed(count, seed, 0.0);
        floor.tell(2, Input::Leave);
        let took = floor.until(2, "the goodbye is said", |floor| floor.machines[&2].left);
        assert!(took < Duration::from_secs(1));
        floor.kill(2);
        floor.until(3, "all know that it left", |floor| {
            floor.running().all(|m| m.view.member(node(2)).is_some_and(|m| m.standing == Standing::Left))
        });
        floor.start(2, 2);
        floor.greet(2, 1);
        floor.until(5, "it is back", |floor| floor.all_see(count));
    }
}

#[test]
fn a_member_that_leaves_while_it_waits_for_an_answer_leaves_in_time() {
    let mut floor = Floor::formed(3, 1, 0.0);
    // Machine 9 greets and is never heard of again: announcements to it are due all the while.
    floor.tell(2, Input::Met(Box::new(state_of(9, 1))));
    floor.tell(2, Input::Leave);
    floor.until(2, "the goodbye is said", |floor| {
        let now = floor.now;
        let machine = &floor.machines[&2];
        assert!(
            machine.left || machine.gossip.next_wake(now).is_none_or(|wake| now < wake),
            "it turns without rest"
        );
        machine.left
    });
}

#[test]
fn a_change_after_the_goodbye_does_not_take_it_back() {
    let mut floor = Floor::formed(3, 1, 0.0);
    floor.tell(2, Input::Leave);
    floor.change(2, |own| own.load.running = 3);
    floor.pass(Duration::from_millis(50));
    assert!(floor.machine(1).view.member(node(2)).is_some_and(|member| member.draining));
    floor.until(2, "the goodbye is said", |floor| floor.machines[&2].left);
    assert_eq!(floor.standing(2, 2), Some(Standing::Left));
}

#[test]
fn a_peer_that_gives_an_address_nobody_can_dial_is_not_taken_in() {
    let mut floor = Floor::formed(2, 1, 0.0);
    let mut state = state_of(9, 1);
    state.address = "0.0.0.0:7443".parse().unwrap();
    floor.tell(1, Input::Met(Box::new(state)));
    assert_eq!(floor.machine(1).gossip.counters().malformed, 1);
}

#[test]
fn a_member_that_moved_is_the_same_member() {
    let mut floor = Floor::formed(3, 5, 0.0);
    let moved = "10.0.0.77:7443".parse().unwrap();
    floor.change(2, |own| own.address = moved);
    floor.until(5, "all know the new address", |floor| {
        floor.running().all(|m| m.view.member(node(2)).is_some_and(|m| m.address == moved && m.is_usable()))
    });
    assert!(floor.running().all(|machine| machine.view.members.len() == 3));
}

#[test]
fn two_processes_with_one_node_id_do_not_fight_at_the_speed_of_the_network() {
    // Somebody keeps declaring machine 2 dead, as its double would, or suspects it in a way that nothing refutes.
    for (incarnation, state) in [(0, State::Down), (u16::MAX, State::Suspect)] {
        let mut floor = Floor::formed(3, 1, 0.0);
        let begin = floor.elapsed();
        while floor.elapsed() < begin + Duration::from_secs(10) {
            let epoch = floor.machine(2).own.epoch;
            let doubted = Member::new(identity(2, epoch), incarnation, state);
            let bytes = packet(&identity(3, 1), &identity(2, epoch), Message::Gossip, vec![doubted]);
            floor.tell(2, Input::Packet { from: node(3), bytes });
            floor.pass(Duration::from_millis(50));
        }
        let machine = floor.machine(2);
        assert!(machine.contested, "{state:?}");
        assert!(machine.lives <= 2 * 8, "{state:?}: {} lives", machine.lives);
    }
}

#[test]
fn no_packet_uses_up_the_lives_of_a_member() {
    let mut floor = Floor::formed(3, 1, 0.0);
    for last in [u64::MAX, u64::MAX - 1, 1 << 40] {
        let bytes = packet(&identity(3, 1), &identity(2, last), Message::Gossip, vec![]);
        floor.tell(2, Input::Packet { from: node(3), bytes });
    }
    floor.pass(Duration::from_secs(5));
    assert_eq!((floor.machine(2).own.epoch, floor.machine(2).gossip.counters().malformed), (1, 3));
    assert!(floor.all_see(3));
}

#[test]
fn two_processes_with_one_node_id_are_told_of_by_whoever_hears_both() {
    let mut floor = Floor::formed(3, 1, 0.0);
    let double = Identity { address: "9.0.0.99:7443".parse().unwrap(), ..identity(2, 1) };
    let bytes = packet(&double, &identity(1, 1), Message::Gossip, vec![]);
    for _ in 0..60 {
        floor.tell(1, Input::Packet { from: node(2), bytes: bytes.clone() });
        floor.pass(Duration::from_millis(100));
    }
    assert_eq!(floor.machine(1).double_of(2), Some(double.address));
    assert!(floor.machine(3).doubles.is_empty(), "it has heard one of them only");
}
