//! Who does not belong here: certificates of other clusters, forged gossip, a copied identity.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lineside_certs::{Authority, IDENTITY_DIRECTORY, Identity, Refusal, Subject};
use lineside_mesh::DialError;
use lineside_tests::{Floor, Life, Outsider, PATIENCE, Packet, Plan, Standing, eventually};
use lineside_wire::{Empty, MembersResult, NodeId, Role, method};

/// An identity directory of another cluster.
fn foreign(floor: &Floor, role: Role) -> std::path::PathBuf {
    let authority = Authority::create(&floor.path("other-ca"), "other", SystemTime::now()).unwrap();
    let data = floor.path("stranger");
    let issued = authority.issue(&Subject::new(role, "stranger"), SystemTime::now()).unwrap();
    Identity::store(&data.join(IDENTITY_DIRECTORY), &issued).unwrap();
    data
}

fn names(members: &MembersResult) -> Vec<&str> {
    members.members.iter().map(|row| row.name.as_str()).collect()
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_and_told_why() {
    let mut floor = Floor::with_nodes(["press"]).await;
    let before = floor.seen_by("press").await.unwrap();
    let data = foreign(&floor, Role::Node);
    floor.start(Plan::node("stranger").in_directory(data)).await;

    floor.member("stranger").logs(PATIENCE, &["different clusters", "lineside token create"]).await;
    floor.member("press").logs(PATIENCE, &["connection refused"]).await;
    let after = floor.seen_by("press").await.unwrap();
    assert_eq!(names(&after), names(&before));
    assert!(after.members.iter().all(|row| row.state == "alive"), "{after:?}");
}

#[tokio::test]
async fn a_program_of_another_cluster_is_refused_and_told_why() {
    let floor = Floor::with_nodes(["press"]).await;
    let data = foreign(&floor, Role::Client);
    let door = floor.member("door").address();
    let identity = data.join(IDENTITY_DIRECTORY);

    let outsider = Outsider::new(std::sync::Arc::new(Identity::load(&identity).unwrap()));
    let refused = outsider.greet(door).await.unwrap_err();
    assert!(matches!(refused, DialError::Refused { refusal: Refusal::UnknownAuthority, .. }), "{refused}");
    let refused = lineside_client::Client::connect(identity, [door]).await.unwrap_err().to_string();
    assert!(refused.contains("different clusters"), "{refused}");
}

#[tokio::test]
async fn gossip_in_anothers_name_changes_nothing() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let (press, weld, door) =
        (life(&floor, "press").await, life(&floor, "weld").await, life(&floor, "door").await);
    // An enrolled machine, so that its connection is taken and its gossip is heard; but it is not weld.
    let mole = Outsider::new(floor.identity(Role::Node));
    let own = Life { node: mole.node(), epoch: 1, address: ([127, 0, 0, 1], 9).into() };
    let [forged, honest] = [1, 2].map(|id| Life { node: NodeId::from_bytes([id; 16]), ..own });
    let cluster = floor.cluster();
    let news = vec![(forged, Standing::Alive), (door, Standing::Down)];
    let in_welds_name = Packet { cluster, from: weld, to: press, news }.bytes();
    let in_its_own = Packet { cluster, from: own, to: press, news: vec![(honest, Standing::Alive)] }.bytes();

    for _ in 0..5 {
        mole.gossip(press.address, in_welds_name.clone()).await;
    }
    // What it says in its own name is believed, as hearsay: so what was sent before it has been judged.
    eventually("press hears the honest news", PATIENCE, async || {
        mole.gossip(press.address, in_its_own.clone()).await;
        let rows = floor.seen_by("press").await?.members;
        assert!(rows.iter().all(|row| row.node != forged.node), "forged news was believed: {rows:?}");
        let heard = rows.iter().find(|row| row.node == honest.node).ok_or("not yet")?;
        assert!(heard.member.is_none(), "nobody has proved to be it");
        Ok(())
    })
    .await;
    assert_eq!(life(&floor, "door").await.epoch, door.epoch, "the door had to come back to life");
    still_alive(&floor, &["press", "weld", "door"]).await;
}

#[tokio::test]
async fn gossip_of_a_program_is_not_listened_to() {
    let mut floor = Floor::empty(&["add"]).await;
    let press = Plan::node("press").set("log.level", "info,lineside_mesh=debug");
    floor.start_all([press, Plan::node("weld"), Plan::gateway("door")]).await;
    let (press, weld) = (life(&floor, "press").await, life(&floor, "weld").await);
    let program = Outsider::new(floor.identity(Role::Client));
    let own = Life { node: program.node(), epoch: 1, address: ([127, 0, 0, 1], 9).into() };

    let packet =
        Packet { cluster: floor.cluster(), from: own, to: press, news: vec![(weld, Standing::Down)] };
    program.gossip(press.address, packet.bytes()).await;
    program.gossip(press.address, Bytes::from_static(b"\x01 no packet at all")).await;
    floor.member("press").logs(PATIENCE, &["takes no part", &program.node().to_string()]).await;
    still_alive(&floor, &["press", "weld", "door"]).await;
}

#[tokio::test]
async fn packets_that_make_no_sense_change_nothing() {
    let mut floor = Floor::with_nodes(["press"]).await;
    let press = life(&floor, "press").await;
    let mole = Outsider::new(floor.identity(Role::Node));
    for length in [0, 1, 8, 9, 60, 1100] {
        for filling in [0, 1, 0xff] {
            mole.gossip(press.address, vec![filling; length].into()).await;
        }
    }
    // An answer over the same connection: what was sent before has arrived.
    let _: Empty = mole.ask(press.address, method::PING, &Empty {}).await.unwrap();
    still_alive(&floor, &["press", "door"]).await;
}

#[tokio::test]
async fn a_copied_disk_is_named_on_both_machines_and_on_a_third() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let copy = floor.path("copy");
    copy_directory(floor.member("weld").data(), &copy);
    let weld = floor.member("weld").node();
    floor.start(Plan::node("copy").in_directory(copy)).await;

    let within = Duration::from_secs(30);
    let [first, second] = ["weld", "copy"].map(|name| floor.member(name).address().to_string());
    for (name, other) in [("weld", &second), ("copy", &first)] {
        floor
            .member(name)
            .logs(within, &["ERROR", "another machine has this machine's identity", other])
            .await;
    }
    eventually("a third member names the two", within, async || {
        let logs = ["press", "door"].map(|name| floor.member(name).log());
        let named = logs.iter().flat_map(|log| log.lines()).any(|line| {
            ["ERROR", "two machines have the same identity", &weld.to_string()]
                .iter()
                .all(|text| line.contains(text))
        });
        if named { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    // A door is asked, and that may hear of it after the others.
    eventually("the status names the two", within, async || {
        let told = floor.lineside("weld", &["status"]).await.stdout;
        if told.contains("copy") && told.contains(&second) { Ok(()) } else { Err(told) }
    })
    .await;
    still_alive(&floor, &["press", "door"]).await;
}

/// Copies a disk, as it is.
fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(to.join("run")).unwrap();
}

#[tokio::test]
async fn a_program_that_asks_for_what_is_not_its_roles_is_refused_and_goes_on() {
    let mut floor = Floor::with_nodes(["press"]).await;
    let program = Outsider::new(floor.identity(Role::Client));
    let press = floor.member("press").address();
    let model = lineside_wire::ModelParams { model: "add".parse().unwrap(), version: None };

    let greeted = program.greet(press).await.unwrap();
    for (method, asked) in [
        (
            method::MEMBER_STATE,
            program.ask::<_, serde_json::Value>(press, method::MEMBER_STATE, &Empty {}).await,
        ),
        (method::MODELS_UNLOAD, program.ask(press, method::MODELS_UNLOAD, &model).await),
        (method::ENROL_JOIN, program.ask(press, method::ENROL_JOIN, &Empty {}).await),
    ] {
        let refused = asked.unwrap_err();
        let expected = if method == method::ENROL_JOIN { "METHOD_NOT_FOUND" } else { "PERMISSION_DENIED" };
        assert!(refused.contains(expected), "{method}: {refused}");
    }
    let _: Empty = program.ask(press, method::PING, &Empty {}).await.unwrap();
    assert_eq!(greeted.identity.node, floor.member("press").node());
    floor
        .sees("door", "press", "still has its model", |row| {
            row.member.as_ref().is_some_and(|member| {
                member.models.iter().all(|model| model.state == lineside_wire::ModelState::Ready)
            })
        })
        .await;
}

/// The life of a member as its own list has it.
async fn life(floor: &Floor, name: &str) -> Life {
    let row = floor.sees(name, name, "is there", |row| row.member.is_some()).await;
    let state = row.member.expect("it was asked for");
    Life { node: state.node, epoch: state.epoch, address: state.address }
}

/// Every member still takes every other for living, with its own eyes.
async fn still_alive(floor: &Floor, members: &[&str]) {
    for name in members {
        let seen = floor.seen_by(name).await.unwrap();
        for other in members {
            let row = seen.members.iter().find(|row| row.node == floor.member(other).node());
            assert_eq!(row.map(|row| row.state.as_str()), Some("alive"), "{name} about {other}");
        }
    }
}
