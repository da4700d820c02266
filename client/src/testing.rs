//! What the stories of the pure parts have together: nodes, as candidates and as rows of the member list.

use lineside_wire::{
    LoadReport, MemberRow, MemberState, ModelInfo, ModelName, ModelState, ModelVersion, NodeId, Role,
    TrustStamp,
};

use crate::{Candidate, Served, Serves, Standing};

pub(crate) fn id(name: &str) -> NodeId {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    NodeId::from_bytes(bytes)
}

pub(crate) fn add() -> ModelName {
    "add".parse().unwrap()
}

/// A node that serves [`add`] and has nothing to do.
pub(crate) fn node(name: &str, slots: u32) -> Candidate {
    Candidate {
        node: id(name),
        name: name.into(),
        address: ([127, 0, 0, 1], 7443).into(),
        standing: Standing::Alive,
        draining: false,
        weight: 100,
        epoch: 1,
        slots,
        load: Some(LoadReport { running: 0, queued: 0, slots, limit: 0, call_us: 0 }),
        serves: Serves::Models(vec![Served {
            name: add(),
            version: ModelVersion(1),
            state: ModelState::Ready,
            on_demand: false,
        }]),
    }
}

/// A node in the member list.
pub(crate) fn row_of(name: &str, state: Standing, models: Vec<ModelInfo>) -> MemberRow {
    let node = id(name);
    let address = ([127, 0, 0, 1], 7443).into();
    let member = MemberState {
        node,
        name: name.to_owned(),
        role: Role::Node,
        software: "0.1.0".to_owned(),
        address,
        http: None,
        door: false,
        epoch: 1,
        revision: 1,
        draining: false,
        cordoned: false,
        weight: 100,
        load: LoadReport { running: 1, queued: 2, slots: 4, limit: 0, call_us: 0 },
        models,
        certificate_expires: 0,
        certificate_generation: 1,
        trust: TrustStamp::default(),
        authority: false,
    };
    MemberRow {
        node,
        name: name.to_owned(),
        address,
        state: state.to_string(),
        role: Some(Role::Node),
        member: Some(member),
        seen_ms_ago: 12,
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

/// A node in the member list that is alive and serves nothing.
pub(crate) fn row(name: &str) -> MemberRow {
    row_of(name, Standing::Alive, Vec::new())
}
