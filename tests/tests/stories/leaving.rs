//! Members that leave in order: nobody notices.

use lineside_tests::{Floor, PATIENCE, Plan};

#[tokio::test]
async fn a_node_that_is_told_to_end_under_load_loses_nothing_and_has_left() {
    let mut floor = Floor::with_nodes(["press", "weld", "paint"]).await;
    let load = floor.load(4, 4).await;
    let weld = floor.member("weld").node();
    load.answers_of(weld, 20).await;

    floor.member("weld").terminate();
    let status = floor.member_mut("weld").ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", floor.member("weld").log());
    load.answers(100).await;
    load.end().await.assert_nothing_lost();
    for watcher in ["door", "press", "paint"] {
        floor.sees(watcher, "weld", "has left", |row| row.state == "left").await;
    }
    assert!(!floor.member("weld").data().join("run/address").exists(), "it is no longer there");
}

#[tokio::test]
async fn a_door_that_is_told_to_end_finishes_what_it_was_asked() {
    let mut floor = Floor::empty(&["slow-add"]).await;
    floor.start_all([Plan::node("press"), Plan::gateway("door")]).await;
    let addends = lineside_tests::Addends::new(2.0, 3.0).slowly(std::time::Duration::from_millis(600));
    let mut http = floor.http("door");
    let asked = async {
        let answer =
            lineside_tests::add_by_http(&mut http, addends, &[lineside_tests::PATIENTLY]).await.unwrap();
        assert!(answer.added(addends).unwrap().right);
    };
    let told = async {
        let busy =
            |row: &lineside_wire::MemberRow| row.member.as_ref().is_some_and(|state| 0 < state.load.running);
        floor.sees("door", "press", "is busy", busy).await;
        floor.member("door").terminate();
    };
    tokio::join!(asked, told);
    assert!(floor.member_mut("door").ended(PATIENCE).await.success());
}

#[tokio::test]
async fn a_member_ends_with_whoever_started_it() {
    let mut floor = Floor::with_nodes(["press"]).await;
    floor.member_mut("press").abandon();
    assert_eq!(floor.member_mut("press").ended(PATIENCE).await.code(), Some(0));
    floor.sees("door", "press", "has left", |row| row.state == "left").await;
}
