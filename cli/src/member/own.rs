//! What this process says of itself: one value, read by every greeting and every thread.

use std::sync::Arc;

use arc_swap::ArcSwap;
use lineside_wire::{ClusterId, Greeting, MemberState, PROTOCOL_VERSION};

use super::skew;

/// The state that greetings, `member.state` and gossip tell. Written by the network's thread alone.
pub(crate) struct Own {
    cluster: ClusterId,
    state: ArcSwap<MemberState>,
}

impl Own {
    /// Begins with this state.
    pub(crate) fn new(cluster: ClusterId, state: MemberState) -> Arc<Self> {
        Arc::new(Self { cluster, state: ArcSwap::from_pointee(state) })
    }

    /// The state now.
    pub(crate) fn state(&self) -> Arc<MemberState> {
        self.state.load_full()
    }

    /// What a greeting says.
    pub(crate) fn greeting(&self) -> Greeting {
        Greeting {
            protocol: PROTOCOL_VERSION,
            cluster: self.cluster,
            member: Some(MemberState::clone(&self.state.load())),
            clock_ms: skew::clock_ms(),
        }
    }

    /// Changes the state; gives the new one, under its next revision, when something is different.
    pub(crate) fn change(&self, change: impl FnOnce(&mut MemberState)) -> Option<MemberState> {
        let old = self.state.load();
        let mut new = MemberState::clone(&old);
        change(&mut new);
        if new == **old {
            return None;
        }
        new.revision = old.revision + 1;
        self.state.store(Arc::new(new.clone()));
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{LoadReport, NodeId, Role};

    use super::*;

    #[test]
    fn every_change_is_a_new_revision_and_no_change_is_none() {
        let state = MemberState {
            node: NodeId::from_bytes([1; 16]),
            name: "press".into(),
            role: Role::Node,
            software: "0.1.0".into(),
            address: ([127, 0, 0, 1], 7443).into(),
            http: None,
            door: false,
            epoch: 3,
            revision: 0,
            draining: false,
            load: LoadReport::default(),
            models: Vec::new(),
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        };
        let own = Own::new(ClusterId::from_bytes([9; 16]), state);
        assert_eq!(own.change(|state| state.draining = false), None);
        let changed = own.change(|state| state.draining = true).expect("something changed");
        assert_eq!((changed.revision, changed.draining), (1, true));
        assert_eq!(own.greeting().member.expect("a member").revision, 1);
    }
}
