use clap::Parser as _;
use lineside_wire::{ClusterId, LoadReport, MemberRow, MemberState, ModelInfo, ModelVersion, NodeId, Role};

use super::*;
use crate::local::{Model, Plan};

const NODES: [&str; 3] = ["press", "weld", "paint"];

const PLAN: Plan = Plan {
    cluster: "trial",
    members: &[Member::node("press"), Member::node("weld"), Member::gateway("door")],
    models: &[Model { name: "add", onnx: b"", settings: None }],
    settings: "",
};

fn model(name: &str, state: ModelState) -> ModelInfo {
    ModelInfo {
        name: name.parse().unwrap(),
        version: ModelVersion(1),
        state,
        reason: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        slots: 1,
        tasks: Vec::new(),
        engine: None,
    }
}

fn row(index: u8, name: &str, state: &str) -> MemberRow {
    let node = NodeId::from_bytes([index; 16]);
    let address = SocketAddr::from(([127, 0, 0, 1], 7443));
    let models = ["add", "surface-defects", "vibration-anomaly"].map(|name| model(name, ModelState::Ready));
    let member = MemberState {
        node,
        name: name.into(),
        role: Role::Node,
        software: String::new(),
        address,
        http: None,
        door: false,
        epoch: 1,
        revision: 1,
        draining: false,
        cordoned: false,
        weight: 100,
        load: LoadReport::default(),
        models: models.into(),
        certificate_expires: 0,
        certificate_generation: 1,
        trust: lineside_wire::TrustStamp::default(),
        authority: false,
    };
    MemberRow {
        node,
        name: name.into(),
        address,
        state: state.into(),
        role: Some(Role::Node),
        member: Some(member),
        seen_ms_ago: 0,
        in_flight: 0,
        p95_us: None,
        calls: 0,
        failures: 0,
        rests: None,
        ejections: std::collections::BTreeMap::new(),
        clock_ahead_ms: None,
        double: None,
    }
}

/// A list of the three nodes, `weld` in this state.
pub(crate) fn list(weld: &str) -> MembersResult {
    let states = ["alive", weld, "alive"];
    let rows = NODES.iter().zip(states).zip(1..).map(|((name, state), index)| row(index, name, state));
    MembersResult {
        cluster: ClusterId::from_bytes([9; 16]),
        answered_by: NodeId::from_bytes([8; 16]),
        members: rows.collect(),
    }
}

#[test]
fn a_cluster_has_formed_when_every_node_is_alive() {
    assert_eq!(alive(&list("alive"), &NODES), NODES.len());
    assert_eq!(alive(&list("suspect"), &NODES), NODES.len() - 1);
    assert_eq!(alive(&MembersResult { members: Vec::new(), ..list("alive") }, &NODES), 0);
    let mut strangers = list("alive");
    strangers.members[0].name = "visitor".into();
    assert_eq!(alive(&strangers, &NODES), NODES.len() - 1);
}

#[test]
fn a_node_serves_when_all_its_models_do() {
    assert_eq!(serving(&list("alive"), 3), NODES.len());
    let mut list = list("alive");
    let models = &mut list.members[1].member.as_mut().unwrap().models;
    models[0].state = ModelState::Loading;
    assert_eq!((serving(&list, 3), unavailable(&list)), (NODES.len() - 1, None));
    let models = &mut list.members[1].member.as_mut().unwrap().models;
    (models[0].state, models[0].reason) = (ModelState::Unavailable, Some("no opset 99".into()));
    assert_eq!(unavailable(&list).unwrap(), "add on weld: no opset 99");
}

#[test]
fn the_members_are_started_with_flags_that_the_command_line_knows() {
    let floor = Floor::new(Home::make(PLAN).unwrap(), "lineside".into(), "/lib/libonnxruntime.so".into());
    let somewhere = SocketAddr::from(([127, 0, 0, 1], 8080));
    for name in floor.names(Role::Node).chain(floor.names(Role::Gateway)) {
        for start in [
            Start::new(name),
            Start { seeds: vec![somewhere], advertise: Some(somewhere), mdns: false, ..Start::new(name) },
        ] {
            let line = [vec!["lineside".into()], floor.arguments(&start)].concat();
            crate::args::Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
