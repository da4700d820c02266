//! What a process knows of its cluster, as one value that can be passed on and kept.
//!
//! [`Roster`] takes in what SWIM, greetings and summaries say and makes [`ClusterView`]s of it. Pure state: the
//! same calls in the same order always give the same view.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use lineside_wire::{ClusterId, LoadReport, MemberState, NodeId, Standing, TrustStamp};
use tokio::time::Instant;

use crate::{
    identity::Identity,
    summary::{MemberSummary, state_digest},
};

/// One member as this process sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Where it listens for members.
    pub address: SocketAddr,
    /// What gossip says of its life.
    pub standing: Standing,
    /// What it said of itself over a connection that proved who it is; `None` until it did.
    pub state: Option<MemberState>,
    /// Its newest load, by gossip or by its own state.
    pub load: LoadReport,
    /// Whether it takes no new work, because it is leaving.
    pub draining: bool,
    /// Whether an operator keeps new work from it.
    pub cordoned: bool,
    /// When this process last had evidence that it lives.
    pub seen: Instant,
    /// Counts its lives.
    pub epoch: u64,
    /// The newest trust list that it goes by, by gossip or by its own state: its owner's words, as the load.
    pub trust: TrustStamp,
    /// Where another machine with the same node id was heard within the last minute: one of the two disks is a copy. In
    /// this process's own row it is proven by that machine's certificate; in others' rows by their packets, each
    /// over a connection that proves the id.
    pub double: Option<SocketAddr>,
}

impl Member {
    /// Whether new work may go there: it takes part, has proved who it is, and is not leaving.
    ///
    /// A caller's own evidence about the member comes on top.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.standing.is_present() && self.state.is_some() && !self.draining && !self.cordoned
    }
}

/// The cluster at one moment.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The member that this process is.
    pub own: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// All members, this one included, dead ones for a day.
    pub members: BTreeMap<NodeId, Arc<Member>>,
}

impl ClusterView {
    /// The member with this id.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Arc<Member>> {
        self.members.get(&node)
    }

    /// The members that take part now, this one included.
    pub fn active(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.values().filter(|member| member.standing.is_present())
    }
}

/// How soon others should hear of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// None that is visible.
    None,
    /// Load or last evidence: may wait for others.
    Minor,
    /// Somebody came, went, changed: now.
    Major,
}

/// The members, and what each said.
#[derive(Debug)]
pub(crate) struct Roster {
    view: ClusterView,
    /// States of peers that SWIM has not listed yet: the greeting comes first.
    early: BTreeMap<NodeId, MemberState>,
    /// Of each row's state: computed once, compared often.
    digests: BTreeMap<NodeId, u64>,
}

/// Peers that greeted and are not listed: a few are on their way in, more can only be waiting at a full cluster.
const EARLY_MAX: usize = 64;

impl Roster {
    pub(crate) fn new(cluster: ClusterId, own: &MemberState, now: Instant) -> Self {
        let members = BTreeMap::new();
        let view = ClusterView { own: own.node, cluster, members };
        let mut roster = Self { view, early: BTreeMap::new(), digests: BTreeMap::new() };
        roster.set_own(own, Standing::Alive, now);
        roster
    }

    pub(crate) fn snapshot(&self) -> Arc<ClusterView> {
        Arc::new(self.view.clone())
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Member> {
        self.view.members.get(&node).map(|member| &**member)
    }

    pub(crate) fn others(&self) -> impl Iterator<Item = &Member> {
        let own = self.view.own;
        self.view.members.values().map(|member| &**member).filter(move |member| member.node != own)
    }

    /// Writes this process's own row.
    pub(crate) fn set_own(&mut self, own: &MemberState, standing: Standing, now: Instant) {
        let double = self.get(own.node).and_then(|row| row.double);
        let row = Member {
            node: own.node,
            address: own.address,
            standing,
            state: Some(own.clone()),
            load: own.load,
            draining: own.draining,
            cordoned: own.cordoned,
            seen: now,
            epoch: own.epoch,
            trust: own.trust,
            double,
        };
        self.view.members.insert(own.node, Arc::new(row));
    }

    /// Takes in what SWIM says of a member, with its newest summary.
    pub(crate) fn set_life(
        &mut self,
        identity: &Identity,
        life: Life,
        summary: Option<&MemberSummary>,
        now: Instant,
    ) -> Change {
        // A summary of another life says nothing about this one.
        let summary = summary.filter(|summary| summary.epoch == identity.epoch);
        let standing = match life {
            Life::Alive => Standing::Alive,
            Life::Suspect => Standing::Suspect,
            Life::Down if summary.is_some_and(|summary| summary.leaving) => Standing::Left,
            Life::Down => Standing::Down,
        };
        let Some(row) = self.view.members.get_mut(&identity.node) else {
            let state = self.early.remove(&identity.node);
            if let Some(state) = &state {
                self.digests.insert(identity.node, state_digest(state));
            }
            let row = Member {
                node: identity.node,
                address: identity.address,
                standing,
                state,
                load: LoadReport::default(),
                draining: false,
                cordoned: false,
                seen: now,
                epoch: identity.epoch,
                trust: TrustStamp::default(),
                double: None,
            };
            self.view.members.insert(identity.node, Arc::new(refreshed(row, summary)));
            return Change::Major;
        };
        let same_life = (row.epoch, row.address) == (identity.epoch, identity.address);
        if same_life
            && row.standing == standing
            && newest(row, summary) == (row.load, row.draining, row.cordoned, row.trust)
        {
            return Change::None; // By far the most frequent case: nothing is copied for it.
        }
        let seen = if same_life { row.seen } else { now };
        let (epoch, address) = (identity.epoch, identity.address);
        let next = refreshed(Member { standing, epoch, address, seen, ..(**row).clone() }, summary);
        let change = difference(row, &next);
        *row = Arc::new(next);
        change
    }

    /// Takes in what a peer said of itself over a connection that proved who it is.
    pub(crate) fn set_state(
        &mut self,
        state: MemberState,
        summary: Option<&MemberSummary>,
        now: Instant,
    ) -> Change {
        let Some(row) = self.view.members.get_mut(&state.node) else {
            if self.early.len() < EARLY_MAX || self.early.contains_key(&state.node) {
                self.early.insert(state.node, state);
            }
            return Change::None;
        };
        let version = |state: &MemberState| (state.epoch, state.revision);
        let newer = row.state.as_ref().is_none_or(|known| version(known) <= version(&state));
        let mut next = Member { seen: now, ..(**row).clone() };
        if newer {
            self.digests.insert(state.node, state_digest(&state));
            next.state = Some(state);
        }
        let summary = summary.filter(|summary| summary.epoch == row.epoch);
        let next = refreshed(next, summary);
        let change = difference(row, &next).max(Change::Minor);
        *row = Arc::new(next);
        change
    }

    /// Notes evidence that a member lives.
    pub(crate) fn saw(&mut self, node: NodeId, now: Instant) {
        if let Some(row) = self.view.members.get_mut(&node) {
            Arc::make_mut(row).seen = now;
        }
    }

    /// Writes where another machine with the same node id was heard, as `double_of` says of a member and its address.
    pub(crate) fn name_doubles(
        &mut self,
        double_of: impl Fn(NodeId, SocketAddr) -> Option<SocketAddr>,
    ) -> Change {
        let mut change = Change::None;
        for row in self.view.members.values_mut() {
            let double = double_of(row.node, row.address);
            if row.double != double {
                Arc::make_mut(row).double = double;
                change = Change::Major;
            }
        }
        change
    }

    /// Drops the rows of members that SWIM has forgotten.
    pub(crate) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) -> Change {
        let (own, before) = (self.view.own, self.view.members.len());
        self.view.members.retain(|node, _| *node == own || keep(*node));
        self.digests.retain(|node, _| keep(*node));
        if self.view.members.len() == before { Change::None } else { Change::Major }
    }

    /// Whether the member must be asked for its state: none is known, or its summary tells of another.
    pub(crate) fn lacks_state(&self, node: NodeId, summary: Option<&MemberSummary>) -> bool {
        let Some(row) = self.get(node) else { return false };
        if !row.standing.is_present() {
            return false;
        }
        let Some(state) = &row.state else { return true };
        let summary = summary.filter(|summary| summary.epoch == row.epoch);
        state.epoch < row.epoch
            || summary.is_some_and(|summary| {
                state.revision < summary.revision
                    && (self.digests.get(&node) != Some(&summary.digest) || summary.door != state.door)
            })
    }
}

/// SWIM's states: it does not know farewells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Suspect,
    Down,
}

/// The row with the newest of what its state and its summary say.
fn refreshed(mut row: Member, summary: Option<&MemberSummary>) -> Member {
    (row.load, row.draining, row.cordoned, row.trust) = newest(&row, summary);
    row
}

/// Load, draining, cordon and trust, from whichever of summary and state is of the later revision. Both are the owner's words.
fn newest(row: &Member, summary: Option<&MemberSummary>) -> (LoadReport, bool, bool, TrustStamp) {
    let state = row.state.as_ref().filter(|state| state.epoch == row.epoch);
    let summary = summary.filter(|summary| state.is_none_or(|state| state.revision <= summary.revision));
    match (summary, state) {
        (Some(summary), _) => (summary.load, summary.draining, summary.cordoned, summary.trust),
        (None, Some(state)) => (state.load, state.draining, state.cordoned, state.trust),
        (None, None) => (LoadReport::default(), false, false, TrustStamp::default()),
    }
}

fn difference(old: &Member, new: &Member) -> Change {
    let loud = |row: &Member| {
        (row.address, row.standing, row.draining, row.cordoned, row.epoch, row.trust, row.double)
    };
    if loud(old) != loud(new) || !same_but_load(old.state.as_ref(), new.state.as_ref()) {
        Change::Major
    } else if old.load != new.load || old.seen != new.seen {
        Change::Minor
    } else {
        Change::None
    }
}

fn same_but_load(old: Option<&MemberState>, new: Option<&MemberState>) -> bool {
    let quiet =
        |state: &MemberState| MemberState { load: LoadReport::default(), revision: 0, ..state.clone() };
    match (old, new) {
        (Some(old), Some(new)) => old == new || quiet(old) == quiet(new),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::Role;

    use super::*;
    use crate::identity::ClusterTag;

    const PRESS: NodeId = NodeId::from_bytes([1; 16]);
    const WELD: NodeId = NodeId::from_bytes([2; 16]);

    fn state(node: NodeId, epoch: u64, revision: u64) -> MemberState {
        MemberState {
            node,
            name: "press".into(),
            role: Role::Node,
            software: "0.1.0".into(),
            address: "10.0.0.1:7443".parse().unwrap(),
            http: None,
            door: false,
            epoch,
            revision,
            draining: false,
            cordoned: false,
            weight: 100,
            load: LoadReport { running: 1, queued: 0, slots: 4, limit: 0, call_us: 0 },
            models: vec![],
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        }
    }

    fn summary(epoch: u64, revision: u64) -> MemberSummary {
        MemberSummary {
            node: WELD,
            epoch,
            sequence: 1,
            revision,
            draining: false,
            cordoned: false,
            leaving: false,
            door: false,
            load: LoadReport { running: 3, queued: 2, slots: 4, limit: 0, call_us: 0 },
            digest: state_digest(&state(WELD, epoch, revision)),
            trust: TrustStamp::default(),
        }
    }

    fn weld(epoch: u64) -> Identity {
        Identity::new(ClusterTag(1), WELD, "10.0.0.2:7443".parse().unwrap(), epoch)
    }

    fn roster(now: Instant) -> Roster {
        Roster::new(ClusterId::from_bytes([9; 16]), &state(PRESS, 1, 0), now)
    }

    #[test]
    fn a_member_is_usable_once_it_has_proved_who_it_is() {
        let now = Instant::now();
        let mut roster = roster(now);
        assert_eq!(roster.set_life(&weld(1), Life::Alive, None, now), Change::Major);
        assert!(!roster.get(WELD).unwrap().is_usable());
        assert!(roster.lacks_state(WELD, None));

        assert_eq!(roster.set_state(state(WELD, 1, 0), None, now), Change::Major);
        assert!(roster.get(WELD).unwrap().is_usable());
        assert!(!roster.lacks_state(WELD, None));
    }

    #[test]
    fn a_greeting_before_gossip_is_kept_for_the_row() {
        let now = Instant::now();
        let mut roster = roster(now);
        assert_eq!(roster.set_state(state(WELD, 1, 0), None, now), Change::None);
        assert!(roster.get(WELD).is_none());
        roster.set_life(&weld(1), Life::Alive, None, now);
        assert!(roster.get(WELD).unwrap().is_usable());
    }

    #[test]
    fn a_member_in_its_next_life_keeps_one_row() {
        let now = Instant::now();
        let mut roster = roster(now);
        roster.set_life(&weld(1), Life::Alive, None, now);
        roster.set_state(state(WELD, 1, 5), None, now);
        roster.set_life(&weld(1), Life::Down, None, now);
        assert_eq!(roster.set_life(&weld(2), Life::Alive, None, now), Change::Major);
        assert_eq!(roster.snapshot().members.len(), 2);
        assert_eq!(roster.get(WELD).unwrap().epoch, 2);
        // What it said in its last life is no longer enough.
        assert!(roster.lacks_state(WELD, None));
        roster.set_state(state(WELD, 2, 0), None, now);
        assert!(!roster.lacks_state(WELD, None));
    }

    #[test]
    fn the_newest_of_summary_and_state_gives_the_load() {
        let now = Instant::now();
        let mut roster = roster(now);
        roster.set_life(&weld(1), Life::Alive, Some(&summary(1, 3)), now);
        assert_eq!(roster.get(WELD).unwrap().load.running, 3);
        roster.set_state(state(WELD, 1, 2), Some(&summary(1, 3)), now);
        assert_eq!(roster.get(WELD).unwrap().load.running, 3);
        roster.set_state(state(WELD, 1, 4), Some(&summary(1, 3)), now);
        assert_eq!(roster.get(WELD).unwrap().load.running, 1);
        assert_eq!(roster.set_life(&weld(1), Life::Alive, Some(&summary(1, 5)), now), Change::Minor);
        assert_eq!(roster.get(WELD).unwrap().load.running, 3);
    }

    #[test]
    fn the_newest_of_summary_and_state_gives_the_trust_list() {
        let now = Instant::now();
        let mut roster = roster(now);
        let told = |number| TrustStamp { number, hash: 3 };
        roster.set_life(&weld(1), Life::Alive, None, now);
        assert_eq!(roster.get(WELD).unwrap().trust, TrustStamp::default());
        let said = MemberState { trust: told(2), ..state(WELD, 1, 2) };
        assert_eq!(roster.set_state(said.clone(), None, now), Change::Major);
        assert_eq!(roster.get(WELD).unwrap().trust, told(2));
        // What is heard by gossip is told at once: a revocation waits for it.
        let heard = MemberSummary { trust: told(3), ..summary(1, 3) };
        assert_eq!(roster.set_life(&weld(1), Life::Alive, Some(&heard), now), Change::Major);
        assert_eq!(roster.get(WELD).unwrap().trust, told(3));
        // An older state changes nothing; a summary of another life says nothing.
        roster.set_state(said, Some(&heard), now);
        assert_eq!(roster.get(WELD).unwrap().trust, told(3));
        roster.set_life(&weld(2), Life::Alive, Some(&heard), now);
        assert_eq!(roster.get(WELD).unwrap().trust, TrustStamp::default());
    }

    #[test]
    fn a_double_is_named_until_it_is_forgotten() {
        let now = Instant::now();
        let mut roster = roster(now);
        roster.set_life(&weld(1), Life::Alive, None, now);
        let elsewhere: SocketAddr = "10.0.0.9:7443".parse().unwrap();
        assert_eq!(roster.name_doubles(|_, _| Some(elsewhere)), Change::Major);
        assert_eq!(roster.name_doubles(|_, _| Some(elsewhere)), Change::None);
        roster.set_own(&state(PRESS, 1, 1), Standing::Alive, now);
        roster.set_life(&weld(2), Life::Alive, None, now);
        for node in [PRESS, WELD] {
            assert_eq!(roster.get(node).unwrap().double, Some(elsewhere));
        }
        assert_eq!(roster.name_doubles(|_, _| None), Change::Major);
        assert_eq!(roster.get(WELD).unwrap().double, None);
    }

    #[test]
    fn who_said_goodbye_has_left_and_who_did_not_is_down() {
        let now = Instant::now();
        let mut roster = roster(now);
        roster.set_life(&weld(1), Life::Down, None, now);
        assert_eq!(roster.get(WELD).unwrap().standing, Standing::Down);
        // The goodbye may come after the news.
        let goodbye = MemberSummary { leaving: true, draining: true, ..summary(1, 3) };
        assert_eq!(roster.set_life(&weld(1), Life::Down, Some(&goodbye), now), Change::Major);
        assert_eq!(roster.get(WELD).unwrap().standing, Standing::Left);
        // A goodbye in an earlier life is not one in this.
        roster.set_life(&weld(2), Life::Down, Some(&goodbye), now);
        assert_eq!(roster.get(WELD).unwrap().standing, Standing::Down);
    }

    #[test]
    fn another_set_of_models_is_asked_for() {
        let now = Instant::now();
        let mut roster = roster(now);
        roster.set_life(&weld(1), Life::Alive, None, now);
        roster.set_state(state(WELD, 1, 3), None, now);
        assert!(!roster.lacks_state(WELD, Some(&summary(1, 4))));
        let other = MemberSummary { digest: 7, ..summary(1, 4) };
        assert!(roster.lacks_state(WELD, Some(&other)));
        // The summary is older than the state: nothing to ask for.
        assert!(!roster.lacks_state(WELD, Some(&MemberSummary { revision: 2, ..other })));
    }
}
