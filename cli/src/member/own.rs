//! What this process says of itself: one value, read by every greeting and every thread.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::ArcSwap;
use lineside_wire::{ClusterId, Greeting, MemberState, NodeId, PROTOCOL_VERSION};

use super::skew;

/// The state that greetings, `member.state` and gossip tell. Written by the network's thread alone.
pub(crate) struct Own {
    cluster: ClusterId,
    state: ArcSwap<MemberState>,
    /// The revision from which on the state tells what became of every model that was found at the start.
    loaded: OnceLock<u64>,
    /// Whether the gossip thread takes turns.
    gossips: AtomicBool,
}

impl Own {
    /// Begins with this state.
    pub(crate) fn new(cluster: ClusterId, state: MemberState) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            state: ArcSwap::from_pointee(state),
            loaded: OnceLock::new(),
            gossips: AtomicBool::new(true),
        })
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

    /// The state now is that of a member that has loaded what it found at its start, or has nothing to load. For good.
    pub(crate) fn set_loaded(&self) {
        let _before = self.loaded.set(self.state.load().revision);
    }

    /// Whether [`Self::set_loaded`] was called.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.get().is_some()
    }

    /// Whether an operator keeps new work from this member. For the path of a call: copies nothing.
    pub(crate) fn is_cordoned(&self) -> bool {
        self.state.load().cordoned
    }

    /// Whether the gossip thread took a turn of late.
    pub(crate) fn gossips(&self) -> bool {
        self.gossips.load(Ordering::Relaxed)
    }

    /// Notes that it did, or not.
    pub(crate) fn set_gossips(&self, gossips: bool) {
        self.gossips.store(gossips, Ordering::Relaxed);
    }

    /// This member, while whoever has heard this of its state may not know yet what became of its models.
    pub(crate) fn starts(&self, told: impl FnOnce(NodeId) -> Option<u64>) -> Option<NodeId> {
        let node = self.state.load().node;
        let is_told = |loaded: &u64| told(node).is_some_and(|told| *loaded <= told);
        (!self.loaded.get().is_some_and(is_told)).then_some(node)
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

    fn state() -> MemberState {
        MemberState {
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
            cordoned: false,
            weight: 100,
            load: LoadReport::default(),
            models: Vec::new(),
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        }
    }

    #[test]
    fn a_member_starts_until_others_have_heard_what_became_of_its_models() {
        let own = Own::new(ClusterId::from_bytes([9; 16]), state());
        assert_eq!(own.starts(|_| Some(7)), Some(NodeId::from_bytes([1; 16])));
        own.change(|state| state.door = true).expect("something changed");
        own.set_loaded();
        assert!(own.starts(|_| Some(0)).is_some() && own.starts(|_| None).is_some());
        assert_eq!(own.starts(|_| Some(1)), None);
        own.change(|state| state.door = false).expect("something changed");
        own.set_loaded();
        assert_eq!(own.starts(|_| Some(1)), None, "once and for good");
    }

    #[test]
    fn every_change_is_a_new_revision_and_no_change_is_none() {
        let own = Own::new(ClusterId::from_bytes([9; 16]), state());
        assert_eq!(own.change(|state| state.draining = false), None);
        let changed = own.change(|state| state.draining = true).expect("something changed");
        assert_eq!((changed.revision, changed.draining), (1, true));
        assert_eq!(own.greeting().member.expect("a member").revision, 1);
    }
}
