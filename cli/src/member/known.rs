//! The cluster as this process knows it, in the form that callers ask for: discovery's view made into a roster.
//!
//! What gossip says of a node's life has the last word but one: where this door's own calls prove the contrary, they have
//! it ([`super::disagreement`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use lineside_client::{Balancer, PeerStatistics, Roster};
use lineside_discovery::{ClusterView, Discovery, Member};
use lineside_gateway::MembershipReport;
use lineside_wire::{MemberRow, MembersResult, NodeId, Standing};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    disagreement::{Disagreements, Found},
    report::rejected,
    skew::Skews,
};

/// How often own evidence is compared with gossip, which may say nothing new for long. An answer proves life for two
/// seconds.
const COMPARE_EVERY: Duration = Duration::from_millis(500);

/// What is known now. Read by every thread without a lock; written by [`Known::follow`] alone.
pub(crate) struct Known {
    now: ArcSwap<Snapshot>,
    changed: watch::Sender<()>,
    /// Of the door, where there is one: it takes the nodes as candidates, and knows how they do.
    balancer: Option<Arc<Balancer>>,
    /// Held for a comparison, or to read the counts.
    disagreements: Mutex<Disagreements>,
    around: Around,
}

/// What rows say beside what discovery knows.
pub(crate) struct Around {
    /// How far others' clocks are ahead.
    pub(crate) skews: Arc<Skews>,
    /// Whether the trust list in force has taken a node's id.
    pub(crate) revoked: Box<dyn Fn(NodeId) -> bool + Send + Sync>,
    /// Whose counters the metrics show.
    pub(crate) discovery: Option<Discovery>,
}

/// The nodes whose life this door knows better than gossip.
type Corrected = BTreeMap<NodeId, Standing>;

struct Snapshot {
    view: Arc<ClusterView>,
    corrected: Corrected,
    roster: Arc<Roster>,
}

impl Known {
    /// Begins with a view; `balancer` learns of the nodes.
    pub(crate) fn new(view: Arc<ClusterView>, balancer: Option<Arc<Balancer>>, around: Around) -> Arc<Self> {
        let corrected = Corrected::new();
        let roster = Arc::new(roster(&view, &corrected, &around));
        let known = Self {
            now: ArcSwap::from_pointee(Snapshot { view, corrected, roster }),
            changed: watch::Sender::new(()),
            balancer,
            disagreements: Mutex::default(),
            around,
        };
        known.inform(&known.roster());
        Arc::new(known)
    }

    /// Keeps up with discovery until it ends.
    pub(crate) async fn follow(self: Arc<Self>, mut views: watch::Receiver<Arc<ClusterView>>) {
        loop {
            self.take(Arc::clone(&views.borrow_and_update()));
            loop {
                tokio::select! {
                    changed = views.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    () = sleep(COMPARE_EVERY), if self.balancer.is_some() => self.compare(),
                }
            }
        }
    }

    /// Takes over a view.
    fn take(&self, view: Arc<ClusterView>) {
        let corrected = self.judge(&view);
        let roster = Arc::new(roster(&view, &corrected, &self.around));
        // The balancer first: whoever reads here that a node serves a model can send it calls.
        self.inform(&roster);
        self.now.store(Arc::new(Snapshot { view, corrected, roster }));
        self.changed.send_replace(());
    }

    /// Looks whether own evidence says something else of the same view than it did.
    fn compare(&self) {
        let now = self.now.load();
        if self.judge(&now.view) != now.corrected {
            self.take(Arc::clone(&now.view));
        }
    }

    /// Compares what gossip says of each member's life with what own calls to it came to.
    fn judge(&self, view: &ClusterView) -> Corrected {
        let (statistics, now) = (self.statistics(), Instant::now().into_std());
        let mut disagreements = self.disagreements.lock().unwrap_or_else(PoisonError::into_inner);
        disagreements.retain(|node| view.members.contains_key(&node));
        let mut corrected = Corrected::new();
        for member in view.members.values().filter(|member| member.node != view.own) {
            let gossip = standing(member, &self.around);
            // Calls to one that is leaving fail by its own will.
            let own = statistics.get(&member.node).filter(|_| !member.draining);
            let (judged, found) = disagreements.judge(member.node, gossip, own, now);
            if judged != gossip {
                corrected.insert(member.node, judged);
            }
            if let Some(found) = found {
                tell(member, found);
            }
        }
        corrected
    }

    fn inform(&self, roster: &Roster) {
        if let Some(balancer) = &self.balancer {
            balancer.update(roster.nodes(), Instant::now().into_std());
        }
    }

    /// How this process follows its cluster, in numbers.
    pub(crate) fn membership(&self) -> Option<MembershipReport> {
        let discovery = self.around.discovery.as_ref()?;
        let counters = discovery.counters();
        let counts = self.disagreements.lock().unwrap_or_else(PoisonError::into_inner).counts();
        Some(MembershipReport {
            turn_age: discovery.last_turn(),
            suspicion_multiplier: 1 + counters.gossip.health_level,
            disagreements: vec![
                ("down_and_answers", counts.down_and_answers),
                ("alive_and_fails", counts.alive_and_fails),
            ],
            rejected: rejected(&counters),
        })
    }

    /// Models and numbers; times since members were seen are those of its making.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.now.load().roster)
    }

    /// The member list at this moment.
    pub(crate) fn members(&self) -> MembersResult {
        let now = self.now.load();
        roster(&now.view, &now.corrected, &self.around).members(&self.statistics())
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

/// Whoever lost its id is no longer called, also before gossip has noticed that nobody talks to it any more.
fn standing(member: &Member, around: &Around) -> Standing {
    if (around.revoked)(member.node) { Standing::Revoked } else { member.standing }
}

fn tell(member: &Member, found: Found) {
    let name = member.state.as_ref().map(|state| state.name.as_str()).unwrap_or_default();
    let node = member.node;
    match found {
        Found::DownAndAnswers => tracing::warn!(
            %node, name,
            "gossip has this node for dead, and it answers our calls: it is still used where no other can"
        ),
        Found::AliveAndFails => tracing::warn!(
            %node, name,
            "gossip has this node for alive, and our calls to it fail: it hangs, or the network between us is broken"
        ),
    }
}

fn roster(view: &ClusterView, corrected: &Corrected, around: &Around) -> Roster {
    let now = Instant::now();
    Roster::new(MembersResult {
        cluster: view.cluster,
        answered_by: view.own,
        members: view
            .members
            .values()
            .map(|member| {
                let known_better = corrected.get(&member.node).copied();
                let standing = known_better.unwrap_or_else(|| standing(member, around));
                MemberRow { state: standing.as_str().to_owned(), ..row(member, view.own, around, now) }
            })
            .collect(),
    })
}

fn row(member: &Member, own: NodeId, around: &Around, now: Instant) -> MemberRow {
    // What gossip says of load, leaving, cordon and trust is newer than what the member said of itself over its connection.
    let state = member.state.clone().map(|mut state| {
        state.load = member.load;
        state.draining = member.draining;
        state.cordoned = member.cordoned;
        state.trust = member.trust;
        state
    });
    let seen = if member.node == own { std::time::Duration::ZERO } else { now - member.seen };
    MemberRow {
        node: member.node,
        name: state.as_ref().map(|state| state.name.clone()).unwrap_or_default(),
        address: member.address,
        state: standing(member, around).as_str().to_owned(),
        role: state.as_ref().map(|state| state.role),
        member: state,
        seen_ms_ago: u64::try_from(seen.as_millis()).unwrap_or(u64::MAX),
        in_flight: 0,
        p95_us: None,
        calls: 0,
        failures: 0,
        rests: None,
        ejections: std::collections::BTreeMap::new(),
        clock_ahead_ms: around.skews.of(member.node),
        double: member.double,
    }
}

#[cfg(test)]
mod tests {
    use lineside_client::{Balancing, Outcome, Wanted};
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
        Around { skews, revoked: Box::new(move |node| Some(node) == revoked), discovery: None }
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

    fn balancer() -> Arc<Balancer> {
        let now = Instant::now().into_std();
        Arc::new(Balancer::new(Balancing::default(), &mut rand::rng(), now))
    }

    fn answers(balancer: &Balancer) {
        let add = "add".parse().expect("a name");
        let now = || Instant::now().into_std();
        let lease = balancer.lease(Wanted::Model(&add, None), &[], now()).expect("it serves");
        balancer.report(lease, Outcome::Answered { load: None, took: Duration::from_millis(1) }, now());
    }

    #[tokio::test]
    async fn a_node_that_answers_is_used_although_gossip_has_it_for_dead_until_it_no_longer_answers() {
        let balancer = balancer();
        let around = around(Arc::default(), None);
        let known = Known::new(view(Standing::Alive, 0), Some(Arc::clone(&balancer)), around);
        let (sender, views) = watch::channel(view(Standing::Alive, 0));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Arc::clone(&known).follow(views));
        let mut changed = known.changed();
        answers(&balancer);
        sender.send_replace(view(Standing::Down, 0));
        while known.members().members[0].state == "alive" {
            changed.changed().await.expect("the roster is there");
        }
        // On a machine that stood still for two seconds just now it is down at once.
        if known.members().members[0].state == "suspect" {
            assert_eq!(known.roster().nodes()[0].standing, Standing::Suspect);
            assert_eq!(known.disagreements.lock().unwrap().counts().down_and_answers, 1);
        }
        while known.members().members[0].state != "down" {
            changed.changed().await.expect("the roster is there");
        }
        assert!(known.disagreements.lock().unwrap().counts().down_and_answers <= 1);
    }

    #[test]
    fn a_member_that_never_said_hello_is_no_candidate_however_alive_gossip_has_it() {
        let mut view = ClusterView::clone(&view(Standing::Alive, 0));
        for member in view.members.values_mut() {
            Arc::make_mut(member).state = None;
        }
        let balancer = balancer();
        let around = around(Arc::default(), None);
        let known = Known::new(Arc::new(view), Some(Arc::clone(&balancer)), around);
        assert_eq!(known.members().members[0].state, "alive");
        assert!(known.roster().nodes().is_empty() && known.roster().models().is_empty());
        assert!(known.roster().ready().is_err() && balancer.candidates().is_empty());
    }
}
