//! Members that find each other by real mDNS, on the loopback interface.

mod floor;

use std::time::Duration;

use floor::{Floor, Start, node};
use lineside_discovery::{MdnsState, Standing};
use lineside_wire::ClusterId;
use tokio::time::Instant;

const BY_MDNS: Start<'_> = Start { cluster: None, seeds: &[], mdns: true, copy_of: None };

#[tokio::test]
async fn members_find_each_other_by_mdns_and_hear_a_goodbye() {
    let floor = Floor::new();
    // Of another cluster on the same LAN.
    let foreign = Start { cluster: Some(ClusterId::from_bytes([0xd2; 16])), ..BY_MDNS };
    let stranger = floor.start(11, foreign);
    let begin = Instant::now();
    let members = [1, 2, 3].map(|n| floor.start(n, BY_MDNS));
    for member in &members {
        member.sees_usable(3).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    for member in &members {
        member
            .counts("members and the stranger were heard", |counters| {
                counters.mdns == MdnsState::Working && 0 < counters.hints && 0 < counters.mdns_foreign
            })
            .await;
    }
    assert!(stranger.discovery.view().borrow().members.len() == 1, "the stranger was taken in");
    assert_eq!(stranger.discovery.counters().dials_good, 0);

    let [first, second, third] = members;
    let begin = Instant::now();
    third.leave().await;
    assert!(begin.elapsed() < Duration::from_millis(2500), "{:?}", begin.elapsed());
    first.sees_standing(3, Standing::Left).await;
    second.sees_standing(3, Standing::Left).await;

    // The next life is found again, by the others' hints or by its own.
    let third = floor.start(3, BY_MDNS);
    first
        .sees("machine 3 again", |view| view.member(node(3)).is_some_and(|m| m.epoch == 2 && m.is_usable()))
        .await;
    third.sees_usable(3).await;
}

#[tokio::test]
async fn a_member_that_is_alone_hears_at_least_itself() {
    let floor = Floor::new();
    let alone = Start { cluster: Some(ClusterId::from_bytes([0xe3; 16])), ..BY_MDNS };
    let member = floor.start(21, alone);
    member.counts("multicast works", |counters| counters.mdns == MdnsState::Working).await;
}

#[tokio::test]
async fn two_copies_of_a_disk_alone_hear_each_others_records() {
    let floor = Floor::new();
    let alone = Start { cluster: Some(ClusterId::from_bytes([0xf4; 16])), ..BY_MDNS };
    let original = floor.start(32, alone);
    original.counts("multicast works", |counters| counters.mdns == MdnsState::Working).await;
    let begin = Instant::now();
    let copy = floor.start(39, Start { copy_of: Some(32), ..alone });
    original.sees_double(32, Some(39)).await;
    copy.sees_double(32, Some(32)).await;
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_record_of_another_cluster_is_counted_and_nobody_is_dialled() {
    let floor = Floor::new();
    let of = |id: u8| Start { cluster: Some(ClusterId::from_bytes([id; 16])), ..BY_MDNS };
    let [ours, theirs] = [floor.start(41, of(0x41)), floor.start(51, of(0x51))];
    for member in [&ours, &theirs] {
        let heard = |counters: &lineside_discovery::Counters| 0 < counters.mdns_foreign;
        let counters = member.counts("the other cluster's record was heard", heard).await;
        assert_eq!((counters.hints, counters.hints_refused), (0, 0), "it was taken for a hint");
        let dials = [counters.dials_good, counters.dials_failed, counters.dials_wrong_identity];
        assert_eq!((dials, counters.dials_no_member), ([0; 3], 0), "somebody was dialled");
        assert_eq!(member.discovery.view().borrow().members.len(), 1);
    }
}
