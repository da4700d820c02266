//! The cluster as this process knows it, in the form that callers ask for: discovery's view made into a roster.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use lineside_client::{Balancer, PeerStatistics, Roster};
use lineside_discovery::{ClusterView, Member};
use lineside_wire::{MemberRow, MembersResult, NodeId, Standing};
use tokio::{sync::watch, time::Instant};

use super::skew::Skews;

/// What is known now. Read by every thread without a lock; written by [`Known::follow`] alone.
pub(crate) struct Known {
    now: ArcSwap<Snapshot>,
    changed: watch::Sender<()>,
    /// Of the door, where there is one: it takes the nodes as candidates, and knows how they do.
    balancer: Option<Arc<Balancer>>,
    around: Around,
}

/// What rows say beside what discovery knows.
pub(crate) struct Around {
    /// How far others' clocks are ahead.
    pub(crate) skews: Arc<Skews>,
    /// Whether the trust list in force has taken a node's id.
    pub(crate) revoked: Box<dyn Fn(NodeId) -> bool + Send + Sync>,
}

struct Snapshot {
    view: Arc<ClusterView>,
    roster: Arc<Roster>,
}

impl Known {
    /// Begins with a view; `balancer` learns of the nodes.
    pub(crate) fn new(view: Arc<ClusterView>, balancer: Option<Arc<Balancer>>, around: Around) -> Arc<Self> {
        let known = Self {
            now: ArcSwap::from_pointee(Snapshot { roster: Arc::new(roster(&view, &around)), view }),
            changed: watch::Sender::new(()),
            balancer,
            around,
        };
        known.inform(&known.roster());
        Arc::new(known)
    }

    /// Keeps up with discovery until it ends.
    pub(crate) async fn follow(self: Arc<Self>, mut views: watch::Receiver<Arc<ClusterView>>) {
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            let roster = Arc::new(roster(&view, &self.around));
            // The balancer first: whoever reads here that a node serves a model can send it calls.
            self.inform(&roster);
            self.now.store(Arc::new(Snapshot { roster, view }));
            self.changed.send_replace(());
            if views.changed().await.is_err() {
                return;
            }
        }
    }

    fn inform(&self, roster: &Roster) {
        if let Some(balancer) = &self.balancer {
            balancer.update(roster.nodes(), Instant::now().into_std());
        }
    }

    /// Models and numbers; times since members were seen are those of its making.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.now.load().roster)
    }

    /// The member list at this moment.
    pub(crate) fn members(&self) -> MembersResult {
        roster(&self.now.load().view, &self.around).members(&self.statistics())
    }

    /// Told at every change of the roster.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn statistics(&self) -> BTreeMap<NodeId, PeerStatistics> {
        let now = Instant::now().into_std();
        self.balancer.as_ref().map(|balancer| balancer.statistics(now)).unwrap_or_default()
    }
}

fn roster(view: &ClusterView, around: &Around) -> Roster {
    let now = Instant::now();
    Roster::new(MembersResult {
        cluster: view.cluster,
        answered_by: view.own,
        members: view.members.values().map(|member| row(member, view.own, around, now)).collect(),
    })
}

fn row(member: &Member, own: NodeId, around: &Around, now: Instant) -> MemberRow {
    // What gossip says of load, leaving and trust is newer than what the member said of itself over its connection.
    let state = member.state.clone().map(|mut state| {
        state.load = member.load;
        state.draining = member.draining;
        state.trust = member.trust;
        state
    });
    let seen = if member.node == own { std::time::Duration::ZERO } else { now - member.seen };
    // Whoever lost its id is no longer called, also before gossip has noticed that nobody talks to it any more.
    let standing = if (around.revoked)(member.node) { Standing::Revoked } else { member.standing };
    MemberRow {
        node: member.node,
        name: state.as_ref().map(|state| state.name.clone()).unwrap_or_default(),
        address: member.address,
        state: standing.as_str().to_owned(),
        role: state.as_ref().map(|state| state.role),
        member: state,
        seen_ms_ago: u64::try_from(seen.as_millis()).unwrap_or(u64::MAX),
        in_flight: 0,
        p95_us: None,
        calls: 0,
        failures: 0,
        clock_ahead_ms: around.skews.of(member.node),
        double: member.double,
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{ClusterId, LoadReport, MemberState, ModelInfo, ModelState, ModelVersion, Role};

    use super::*;

    const PRESS: NodeId = NodeId::from_bytes([1; 16]);

    fn view(standing: Standing, running: u32) -> Arc<ClusterView> {
        let add = ModelInfo {
            name: "add".parse().expect("a name"),
            version: ModelVersion(1),
            state: ModelState::Ready,
            reason: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            slots: 2,
            tasks: Vec::new(),
            engine: None,
        };
        let address = ([127, 0, 0, 1], 7443).into();
        let load = LoadReport { running: 0, queued: 0, slots: 2, limit: 0, call_us: 0 };
        let state = MemberState {
            node: PRESS,
            name: "press".into(),
            role: Role::Node,
            software: "0.1.0".into(),
            address,
            http: None,
            door: false,
            epoch: 1,
            revision: 1,
            draining: false,
            cordoned: false,
            weight: 100,
            load,
            models: vec![add],
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        };
        let member = Member {
            node: PRESS,
            address,
            standing,
            state: Some(state),
            load: LoadReport { running, ..load },
            draining: false,
            cordoned: false,
            seen: Instant::now(),
            epoch: 1,
            trust: lineside_wire::TrustStamp::default(),
            double: None,
        };
        let members = BTreeMap::from([(PRESS, Arc::new(member))]);
        Arc::new(ClusterView {
            own: NodeId::from_bytes([2; 16]),
            cluster: ClusterId::from_bytes([9; 16]),
            members,
        })
    }

    fn around(skews: Arc<Skews>, revoked: Option<NodeId>) -> Around {
        Around { skews, revoked: Box::new(move |node| Some(node) == revoked) }
    }

    #[test]
    fn who_was_revoked_is_not_called_however_alive_it_is() {
        let known = Known::new(view(Standing::Alive, 0), None, around(Arc::default(), Some(PRESS)));
        assert_eq!(known.members().members[0].state, "revoked");
        assert!(known.roster().ready().is_err() && known.roster().models().is_empty());
    }

    #[test]
    fn gossip_has_the_last_word_about_load_and_life() {
        let known = Known::new(view(Standing::Down, 2), None, around(Arc::default(), None));
        let members = known.members();
        assert_eq!(members.members[0].state, "down");
        assert_eq!(members.members[0].member.as_ref().map(|member| member.load.running), Some(2));
        assert!(known.roster().ready().is_err());
    }

    #[test]
    fn a_copied_disk_and_a_clock_that_differs_are_passed_on() {
        let mut view = ClusterView::clone(&view(Standing::Alive, 0));
        let copy = ([10, 0, 0, 9], 7443).into();
        for member in view.members.values_mut() {
            Arc::make_mut(member).double = Some(copy);
        }
        let skews = Arc::<Skews>::default();
        skews.met(PRESS, 61_000, 1_000);
        let row = Known::new(Arc::new(view), None, around(skews, None)).members().members.remove(0);
        assert_eq!((row.clock_ahead_ms, row.double), (Some(60_000), Some(copy)));
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_a_change() {
        let known = Known::new(view(Standing::Alive, 0), None, around(Arc::default(), None));
        let mut changed = known.changed();
        let (sender, views) = watch::channel(view(Standing::Alive, 0));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Arc::clone(&known).follow(views));
        sender.send_replace(view(Standing::Left, 0));
        while known.members().members[0].state != "left" {
            changed.changed().await.expect("the roster is there");
        }
    }
}
