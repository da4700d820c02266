//! What the stories of balancer and pool have together: nodes that serve one model.

use lineside_wire::{LoadReport, ModelName, ModelState, ModelVersion, NodeId};

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
        epoch: 1,
        slots,
        load: Some(LoadReport { running: 0, queued: 0, slots }),
        serves: Serves::Models(vec![Served {
            name: add(),
            version: ModelVersion(1),
            state: ModelState::Ready,
        }]),
    }
}
