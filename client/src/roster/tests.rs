use std::time::Duration;

use lineside_wire::{Datatype, EngineInfo, TensorSpec};

use super::*;
use crate::testing::row_of as row;

fn model(name: &str, state: ModelState) -> ModelInfo {
    let spec = TensorSpec { name: "x".to_owned(), datatype: Datatype::Fp32, shape: vec![-1] };
    let loaded = state == ModelState::Ready;
    ModelInfo {
        name: name.parse().unwrap(),
        version: ModelVersion(1),
        state,
        reason: (!loaded).then(|| "not yet".to_owned()),
        inputs: if loaded { vec![spec.clone()] } else { Vec::new() },
        outputs: if loaded { vec![spec] } else { Vec::new() },
        slots: 2,
        tasks: Vec::new(),
        engine: None,
    }
}

fn gateway(name: &str) -> MemberRow {
    let mut row = row(name, Standing::Alive, Vec::new());
    row.role = Some(Role::Gateway);
    let member = row.member.as_mut().unwrap();
    (member.role, member.door, member.load) = (Role::Gateway, true, LoadReport::default());
    row
}

fn roster(members: Vec<MemberRow>) -> Roster {
    let cluster = ClusterId::from_bytes([1; 16]);
    Roster::new(MembersResult { cluster, answered_by: NodeId::from_bytes([2; 16]), members })
}

#[test]
fn a_model_is_ready_when_one_node_serves_it() {
    let roster = roster(vec![
        row("glue", Standing::Alive, vec![model("add", ModelState::Loading)]),
        row("press", Standing::Alive, vec![model("add", ModelState::Ready)]),
        row("weld", Standing::Suspect, vec![model("add", ModelState::Ready)]),
    ]);
    let [add] = roster.models() else { panic!("{:?}", roster.models()) };
    assert_eq!((add.state, add.slots, &add.reason), (ModelState::Ready, 4, &None));
    assert_eq!(add.inputs.len(), 1);
}

#[test]
fn a_model_of_a_dead_node_stays_listed_and_says_why_it_does_not_serve() {
    let roster = roster(vec![
        row("press", Standing::Down, vec![model("add", ModelState::Ready)]),
        row("weld", Standing::Left, vec![model("defects", ModelState::Ready)]),
    ]);
    let [add] = roster.models() else { panic!("{:?}", roster.models()) };
    assert_eq!((add.state, add.slots), (ModelState::Unavailable, 0));
    assert_eq!(add.reason.as_deref(), Some("press is down"));
    // What is known of its inputs is still true.
    assert_eq!(add.inputs.len(), 1);
}

#[test]
fn how_a_model_is_run_is_what_the_node_that_serves_it_says() {
    let run = |state, sha256: &str, warning: &str| {
        let engine = EngineInfo {
            sha256: sha256.to_owned(),
            on_demand: state != ModelState::Ready,
            warnings: vec![warning.to_owned()],
            ..EngineInfo::default()
        };
        ModelInfo { engine: Some(Box::new(engine)), ..model("add", state) }
    };
    let seen = |members: Vec<MemberRow>| roster(members).models()[0].engine.clone().expect("somebody ran it");
    let engine = seen(vec![
        row("glue", Standing::Alive, vec![run(ModelState::Unavailable, "a1", "slow")]),
        row("press", Standing::Alive, vec![run(ModelState::Ready, "b2", "old")]),
        row("weld", Standing::Down, vec![run(ModelState::Ready, "c3", "old")]),
    ]);
    assert_eq!((engine.sha256.as_str(), engine.on_demand), ("b2", true));
    assert_eq!(engine.warnings, ["old", "slow"]);

    let engine = seen(vec![
        row("press", Standing::Alive, vec![run(ModelState::Ready, "b2", "old")]),
        row("weld", Standing::Alive, vec![run(ModelState::Ready, "c3", "old")]),
    ]);
    assert_eq!(engine.warnings.len(), 2, "two files under one version: {:?}", engine.warnings);
    let gone = run(ModelState::Unavailable, "a1", "slow");
    assert!(!seen(vec![row("glue", Standing::Down, vec![gone])]).on_demand, "a dead node loads nothing");
}

#[test]
fn gateways_are_doors_and_nodes_are_nodes() {
    let roster = roster(vec![gateway("gate"), row("press", Standing::Alive, Vec::new())]);
    let names =
        |candidates: Vec<Candidate>| candidates.iter().map(|c| c.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(roster.doors()), ["gate"]);
    assert_eq!(names(roster.nodes()), ["press"]);
    let nodes = roster.nodes();
    assert_eq!((nodes[0].slots, nodes[0].load.map(|load| load.queued)), (4, Some(2)));
}

#[test]
fn a_member_that_has_not_said_what_it_is_gets_no_calls() {
    let mut silent = row("press", Standing::Alive, Vec::new());
    silent.member = None;
    let roster = roster(vec![silent]);
    assert!(roster.nodes().is_empty() && roster.doors().is_empty());
    assert!(roster.ready().is_err());
    assert_eq!(roster.status().alive, 1);
}

#[test]
fn a_standing_of_a_later_release_gets_no_calls() {
    let mut strange = row("press", Standing::Alive, Vec::new());
    strange.state = "resting".to_owned();
    assert!(!roster(vec![strange]).nodes()[0].is_open());
}

#[test]
fn the_status_counts_what_is_alive() {
    let roster = roster(vec![
        gateway("gate"),
        row("press", Standing::Alive, vec![model("add", ModelState::Ready)]),
        row("weld", Standing::Down, vec![model("defects", ModelState::Ready)]),
    ]);
    let status = roster.status();
    assert_eq!((status.alive, status.not_alive), (2, 1));
    assert_eq!((status.models_ready, status.models), (1, 2));
    assert_eq!((status.in_flight, status.slots), (3, 4));
}

#[test]
fn a_cluster_is_ready_when_a_node_takes_work() {
    assert!(roster(vec![gateway("gate")]).ready().unwrap_err().contains("no node"));
    let mut leaving = row("press", Standing::Alive, Vec::new());
    leaving.member.as_mut().unwrap().draining = true;
    let dead = row("weld", Standing::Down, Vec::new());
    assert!(roster(vec![leaving.clone(), dead.clone()]).ready().is_err());
    assert!(roster(vec![leaving, dead, row("glue", Standing::Alive, Vec::new())]).ready().is_ok());
}

#[test]
fn a_cluster_whose_nodes_all_load_their_first_models_is_not_ready() {
    let models = |first, second| vec![model("add", first), model("weld", second)];
    let press = |first, second| row("press", Standing::Alive, models(first, second));
    let (loading, failed, ready) = (ModelState::Loading, ModelState::Unavailable, ModelState::Ready);
    let reason = roster(vec![press(failed, loading)]).ready().unwrap_err();
    assert_eq!(reason, "the models are still being loaded: 1 of 2 are done on press");
    for (first, second) in [(ready, loading), (failed, failed)] {
        assert_eq!(roster(vec![press(first, second)]).ready(), Ok(()));
    }
    let glue = || row("glue", Standing::Alive, models(ready, ready));
    assert_eq!(roster(vec![press(loading, loading), glue()]).ready(), Ok(()));

    let press = press(ready, loading);
    let starts = Some(press.node);
    assert!(roster(vec![press.clone()]).ready_while(starts).is_err(), "it serves one of its two models");
    assert_eq!(roster(vec![press, glue()]).ready_while(starts), Ok(()), "glue serves");

    let bare = row("press", Standing::Alive, Vec::new());
    assert_eq!(roster(vec![bare]).ready_while(starts).unwrap_err(), "press still looks for its models");

    let mut asked = model("add", loading);
    asked.engine = Some(Box::new(EngineInfo { on_demand: true, ..EngineInfo::default() }));
    assert_eq!(roster(vec![row("press", Standing::Alive, vec![asked])]).ready(), Ok(()));
}

#[test]
fn rows_show_what_the_balancer_knows() {
    let roster =
        roster(vec![row("weld", Standing::Alive, Vec::new()), row("press", Standing::Alive, Vec::new())]);
    let known = PeerStatistics {
        in_flight: 3,
        p95: Some(Duration::from_millis(7)),
        calls: 10,
        failures: 1,
        ..PeerStatistics::default()
    };
    let list = roster.members(&[(roster.rows()[0].node, known)].into());
    let [press, weld] = &list.members[..] else { panic!() };
    assert_eq!((&*press.name, press.in_flight, press.p95_us), ("press", 3, Some(7_000)));
    assert_eq!((&*weld.name, weld.calls, weld.p95_us), ("weld", 0, None));
}
