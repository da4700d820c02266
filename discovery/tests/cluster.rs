//! Whole members with their threads and their files, joined in memory.

mod floor;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use floor::{CLUSTER, Floor, PATIENCE, Start, address, content, node, state};
use lineside_discovery::{
    BoxFuture, Carrier, Discovery, DiscoveryConfig, DiscoveryError, GreetError, MdnsState, Pace, Standing,
};
use lineside_wire::{LoadReport, MemberState, NodeId};
use tokio::time::{Instant, timeout};

const BY_FIRST: Start<'_> = Start { cluster: None, seeds: &[1], mdns: false, copy_of: None };

#[tokio::test]
async fn a_cluster_forms_by_one_seed_and_remembers_itself() {
    let floor = Floor::new();
    let begin = Instant::now();
    let members = [1, 2, 3].map(|n| floor.start(n, BY_FIRST));
    for member in &members {
        member.sees_usable(3).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(members[1].discovery.counters().mdns, MdnsState::Off);

    // All go; the next time nobody is given a seed.
    for member in members {
        member.kill().await;
    }
    assert!(content(&floor.state_dir(3).join("members")).contains(&address(1).to_string()));
    let members = [1, 2, 3].map(|n| floor.start(n, Start::default()));
    for member in &members {
        member.sees_usable(3).await;
    }
}

#[tokio::test]
async fn a_member_whose_disk_hangs_is_heard_all_the_same_and_leaves_in_time() {
    let floor = Floor::new();
    let unfinished = floor.state_dir(2).join(".members.tmp");
    std::fs::create_dir_all(floor.state_dir(2)).unwrap();
    // Whoever opens a pipe to write waits for a reader, and there is none.
    assert!(std::process::Command::new("mkfifo").arg(&unfinished).status().unwrap().success());
    let [first, second] = [1, 2].map(|n| floor.start(n, BY_FIRST));
    first.sees_usable(2).await;
    // Long enough to be taken for dead in.
    let watched = Instant::now() + Duration::from_secs(6);
    while Instant::now() < watched {
        let is_there = first.discovery.view().borrow().member(node(2)).is_some_and(|row| row.is_usable());
        assert!(is_there, "it is silent");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let begin = Instant::now();
    second.leave().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    first.sees_standing(2, Standing::Left).await;
}

#[tokio::test]
async fn a_seed_that_starts_late_is_found() {
    let floor = Floor::new();
    let early = floor.start(2, BY_FIRST);
    early.counts("the seed was tried in vain", |counters| 2 <= counters.dials_failed).await;
    let late = floor.start(1, Start::default());
    early.sees_usable(2).await;
    late.sees_usable(2).await;
}

#[tokio::test]
async fn a_list_of_seeds_that_all_share_may_name_oneself() {
    let floor = Floor::new();
    let everybody = Start { seeds: &[1, 2, 3], ..Start::default() };
    let members = [1, 2, 3].map(|n| floor.start(n, everybody));
    for member in &members {
        member.sees_usable(3).await;
    }
}

#[tokio::test]
async fn who_says_goodbye_has_left_and_who_does_not_is_down() {
    let floor = Floor::new();
    let [first, second, third] = [1, 2, 3].map(|n| floor.start(n, BY_FIRST));
    for member in [&first, &second, &third] {
        member.sees_usable(3).await;
    }
    let begin = Instant::now();
    third.leave().await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    first.sees_standing(3, Standing::Left).await;
    second.sees_standing(3, Standing::Left).await;

    second.kill().await;
    first.sees_standing(2, Standing::Down).await;
}

#[tokio::test]
async fn a_restarted_member_counts_one_more_and_keeps_its_row() {
    let floor = Floor::new();
    let [first, second] = [1, 2].map(|n| floor.start(n, BY_FIRST));
    first.sees_usable(2).await;
    let before = second.epoch;
    second.kill().await;
    let second = floor.start(2, BY_FIRST);
    assert_eq!(second.epoch, before + 1);
    first
        .sees("the next life of machine 2", |view| {
            view.member(node(2)).is_some_and(|member| before < member.epoch && member.is_usable())
        })
        .await;
    assert_eq!(first.discovery.view().borrow().members.len(), 2);
}

#[tokio::test]
async fn a_member_whose_count_was_lost_goes_past_its_earlier_lives() {
    let floor = Floor::new();
    floor.write(2, "epoch", "epoch 40\n");
    let first = floor.start(1, Start::default());
    let second = floor.start(2, BY_FIRST);
    assert_eq!(second.epoch, 41);
    first.sees_usable(2).await;
    second.kill().await;

    std::fs::remove_file(floor.state_dir(2).join("epoch")).unwrap();
    let second = floor.start(2, BY_FIRST);
    assert_eq!(second.epoch, 1);
    second
        .sees("a life past the forgotten one", |view| view.member(node(2)).is_some_and(|m| 41 < m.epoch))
        .await;
    first.sees("that life", |view| view.member(node(2)).is_some_and(|m| 41 < m.epoch && m.is_usable())).await;
    let epoch = second.discovery.epoch();
    assert!(41 < epoch);
    second.kill().await;
    assert!(epoch < floor.start(2, BY_FIRST).epoch);
}

/// Far below what is promised: half a minute.
const DOUBLE_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn two_copies_of_a_disk_that_share_a_seed_are_named_by_all_three() {
    let floor = Floor::new();
    let [first, original] = [1, 2].map(|n| floor.start(n, BY_FIRST));
    original.sees_usable(2).await;
    let begin = Instant::now();
    // The count of its starts was copied too.
    floor.write(9, "epoch", &content(&floor.state_dir(2).join("epoch")));
    let copy = floor.start(9, Start { copy_of: Some(2), ..BY_FIRST });
    original.sees_double(2, Some(9)).await;
    copy.sees_double(2, Some(2)).await;
    first
        .sees("a double of machine 2", |view| view.member(node(2)).is_some_and(|m| m.double.is_some()))
        .await;
    assert!(begin.elapsed() < DOUBLE_WITHIN, "{:?}", begin.elapsed());
    for member in [&original, &copy] {
        assert!(0 < member.discovery.counters().gossip.doubles_met);
    }
    assert_eq!(first.discovery.counters().gossip.doubles_met, 0);
}

#[tokio::test]
async fn two_copies_of_a_disk_alone_are_named_by_a_seed() {
    let floor = Floor::new();
    let original = floor.start(2, Start { seeds: &[9], ..Start::default() });
    original.counts("the seed was tried in vain", |counters| 1 <= counters.dials_failed).await;
    let begin = Instant::now();
    let copy = floor.start(9, Start { seeds: &[2], copy_of: Some(2), ..Start::default() });
    original.sees_double(2, Some(9)).await;
    copy.sees_double(2, Some(2)).await;
    assert!(begin.elapsed() < DOUBLE_WITHIN, "{:?}", begin.elapsed());
    // It is not counted as anything that a dial may come to otherwise.
    let counters = copy.discovery.counters();
    assert_eq!((counters.dials_good, counters.dials_wrong_identity, counters.dials_no_member), (0, 0, 0));
}

#[tokio::test]
async fn a_damaged_list_of_members_stops_nobody() {
    let floor = Floor::new();
    floor.write(2, "members", "lineside members 1\nwho knows\n");
    let [first, second] = [1, 2].map(|n| floor.start(n, BY_FIRST));
    first.sees_usable(2).await;
    second.sees_usable(2).await;
    second.kill().await;
    let list = content(&floor.state_dir(2).join("members"));
    assert!(list.contains(&node(1).to_string()), "{list}");
}

#[test]
fn a_damaged_count_of_starts_is_refused_with_what_to_do() {
    let floor = Floor::new();
    floor.write(1, "epoch", "epoch seven\n");
    let Err(error) = floor.try_start(1, Start::default()) else { panic!("a damaged count was believed") };
    assert!(matches!(error, DiscoveryError::EpochDamaged { .. }));
    assert!(error.to_string().contains("delete the file"), "{error}");
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("file"), "").unwrap();
    let config = DiscoveryConfig {
        cluster: CLUSTER,
        pace: Pace::LAN,
        seeds: vec![],
        mdns: None,
        state_dir: home.path().join("file").join("state"),
    };
    let error = Discovery::open(config).unwrap_err();
    assert!(error.to_string().contains("state"), "{error}");
}

/// A carrier with a defect.
struct Broken {
    at_once: bool,
}

impl Carrier for Broken {
    fn send(&self, _: NodeId, _: SocketAddr, _: Bytes) {}

    fn greet(
        &self,
        _: SocketAddr,
        _: Option<NodeId>,
    ) -> BoxFuture<'static, Result<Option<MemberState>, GreetError>> {
        assert!(!self.at_once, "the carrier breaks on the gossip thread itself");
        Box::pin(async { panic!("the carrier breaks in a task") })
    }

    fn fetch(&self, _: NodeId, _: SocketAddr) -> BoxFuture<'static, Result<MemberState, String>> {
        Box::pin(std::future::pending())
    }
}

#[test]
fn an_address_that_nobody_can_dial_is_refused() {
    let floor = Floor::new();
    let unspecified = MemberState { address: "0.0.0.0:7443".parse().unwrap(), ..state(1, 1) };
    let opened = Discovery::open(floor.config(1, Start::default())).unwrap();
    let error = opened.start(unspecified, Arc::new(Broken { at_once: false })).unwrap_err();
    assert!(matches!(error, DiscoveryError::Address { .. }));
}

#[tokio::test]
async fn a_dial_that_panics_is_a_dial_that_failed() {
    let floor = Floor::new();
    let opened = Discovery::open(floor.config(1, Start { seeds: &[2], ..Start::default() })).unwrap();
    let discovery = opened.start(state(1, 1), Arc::new(Broken { at_once: false })).unwrap();
    let member = floor.holding(1, discovery);
    // It is tried again: the dial that panicked did not keep its place.
    member.counts("two dials failed", |counters| 2 <= counters.dials_failed).await;
}

#[tokio::test]
async fn a_panic_of_the_thread_ends_the_view() {
    let floor = Floor::new();
    let opened = Discovery::open(floor.config(1, Start { seeds: &[2], ..Start::default() })).unwrap();
    let discovery = opened.start(state(1, 1), Arc::new(Broken { at_once: true })).unwrap();
    let mut views = discovery.view();
    let ended = async { while views.changed().await.is_ok() {} };
    timeout(PATIENCE, ended).await.expect("nobody waits for a thread that is gone");
    discovery.leave().await;
}

#[tokio::test]
async fn who_lost_everybody_finds_them_again_by_memory() {
    let floor = Floor::new();
    let [first, second] = [1, 2].map(|n| floor.start(n, BY_FIRST));
    first.sees_usable(2).await;
    second.sees_usable(2).await;
    let plug_in = floor.network.cut(address(2));
    first.sees_standing(2, Standing::Down).await;
    second.sees_standing(1, Standing::Down).await;
    plug_in();
    first.sees_usable(2).await;
    second.sees_usable(2).await;
}

#[tokio::test]
async fn load_and_draining_reach_the_others_and_the_newest_state_wins() {
    let floor = Floor::new();
    let [first, second] = [1, 2].map(|n| floor.start(n, BY_FIRST));
    first.sees_usable(2).await;
    for running in 1..=100 {
        let load = LoadReport { running, queued: 0, slots: 4, limit: 0, call_us: 0 };
        second.discovery.own(MemberState { revision: running.into(), load, ..state(2, 0) });
    }
    first.sees("the last load", |view| view.member(node(2)).is_some_and(|m| m.load.running == 100)).await;
    second.discovery.own(MemberState { revision: 101, draining: true, ..state(2, 0) });
    first.sees("machine 2 takes no more work", |view| view.member(node(2)).is_some_and(|m| m.draining)).await;
}

#[tokio::test]
async fn what_the_thread_has_no_time_for_is_dropped_and_counted() {
    let floor = Floor::new();
    let member = floor.start(1, Start::default());
    let begin = Instant::now();
    for _ in 0..200_000 {
        member.discovery.packet(node(9), Bytes::from_static(b"nonsense"));
    }
    member.discovery.packet(node(9), Bytes::from(vec![0; 5000]));
    assert!(begin.elapsed() < Duration::from_secs(10));
    let counted = member
        .counts("all packets are accounted for", |counters| {
            counters.gossip.malformed + counters.dropped == 200_001
        })
        .await;
    assert!(0 < counted.dropped);
    // Afterwards it is as well as before.
    let second = floor.start(2, BY_FIRST);
    member.sees_usable(2).await;
    second.sees_usable(2).await;
}

#[tokio::test]
async fn who_is_no_member_or_somebody_else_is_counted_and_left_alone() {
    let floor = Floor::new();
    floor.listen_without_being_a_member(8);
    floor.listen_in_place_of(9, 7);
    floor.write(1, "members", &format!("lineside members 1\n{} {}\n", node(9), address(9)));
    let member = floor.start(1, Start { seeds: &[8], ..Start::default() });
    let counters = member
        .counts("both were dialled", |counters| {
            (counters.dials_no_member, counters.dials_wrong_identity) == (1, 1)
        })
        .await;
    assert_eq!(counters.dials_good, 0);
    assert!(counters.last_turn.is_some());
    assert_eq!(member.discovery.view().borrow().members.len(), 1);
}

#[tokio::test]
async fn leaving_alone_and_leaving_twice_are_quick() {
    let floor = Floor::new();
    let member = floor.start(1, Start::default());
    let begin = Instant::now();
    member.discovery.leave().await;
    member.discovery.leave().await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(member.discovery.view().has_changed().is_err(), "the view goes on without its thread");
    // What is said to a member that left is lost, and nobody waits for it.
    member.discovery.own(state(1, 1));
    member.discovery.packet(node(2), Bytes::new());
    member.discovery.met(state(2, 1));
}

#[test]
fn a_pace_that_nobody_can_keep_is_refused_with_the_reason() {
    let floor = Floor::new();
    let pace = Pace { timeout: Duration::from_millis(300), ..Pace::FAST };
    let error = Discovery::open(DiscoveryConfig { pace, ..floor.config(1, Start::default()) }).unwrap_err();
    assert!(error.to_string().contains("more than half of the interval"), "{error}");
}
