//! SWIM with its surroundings, as a state machine: no clock, no socket, no task.
//!
//! [`Gossip::handle`] takes what happened and when; [`Gossip::poll_output`] gives what to do about it;
//! [`Gossip::next_wake`] says when to come back. The same calls with the same seed give the same cluster.
//!
//! A packet is judged before foca sees it: it must be of our cluster, name as its sender the member whose
//! certificate the connection has, and be meant for us. No packet makes the list longer than [`crate::MEMBERS_MAX`].

mod buddy;
mod doubles;
mod health;
mod leaving;
mod screen;
mod settings;
mod settle;

use std::{cell::RefCell, collections::VecDeque, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, Timer};
use lineside_wire::{ClusterId, MemberState, NodeId, Standing};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::time::Instant;

use self::{
    buddy::Told,
    doubles::Doubles,
    health::{Health, LAG_MAX},
    leaving::Leaving,
    screen::Limiter,
    settings::swim_config,
};
use crate::{
    Pace,
    codec::Codec,
    counters::GossipCounters,
    fetches::Fetches,
    identity::{ClusterTag, Identity, is_dialable},
    publish::Publisher,
    summary::{MemberSummary, Summaries, SummaryHandler, state_digest},
    targets::Targets,
    timers::Timers,
    view::{Change, ClusterView, Roster},
};

/// Changes of load and of last evidence wait for each other this long before a new view goes out.
const VIEW_EVERY: Duration = Duration::from_millis(100);

/// Evidence alone is worth a new view this often.
const SEEN_EVERY: Duration = Duration::from_secs(1);

/// Between two announcements of a life that nobody has answered yet, and to how many members each goes.
const REJOIN_EVERY: Duration = Duration::from_secs(1);
const REJOIN_AT_ONCE: usize = 3;

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A packet came over the connection with `from`, as its certificate says.
    Packet { from: NodeId, bytes: Bytes },
    /// A peer proved who it is and said this of itself.
    Met(Box<MemberState>),
    /// What became of an [`Output::Fetch`]; `None` when it failed.
    Fetched { node: NodeId, state: Option<Box<MemberState>> },
    /// Our own state is now this.
    Own(Box<MemberState>),
    /// Time to go.
    Leave,
    /// The time of [`Gossip::next_wake`] has come.
    Wake,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Our own identity has this epoch now: keep it before anything else goes out.
    Renewed {
        epoch: u64,
    },
    Send {
        to: NodeId,
        address: SocketAddr,
        packet: Bytes,
    },
    /// Ask this member for its state.
    Fetch {
        node: NodeId,
        address: SocketAddr,
    },
    /// Pass this view on.
    View(Arc<ClusterView>),
    /// This member no longer takes part.
    Gone(NodeId),
    /// Others believe in a later life of ours again and again: two processes may share our node id.
    Contested,
    /// Two machines have this node id: one is known at the first address, the other speaks from the second. When it is
    /// ours, the known one is this process.
    Double {
        node: NodeId,
        known: SocketAddr,
        other: SocketAddr,
    },
    /// Somebody says that our own id lives at this address: dial it, and see who is there.
    Elsewhere(SocketAddr),
    /// Everybody was told that we left.
    Left,
}

type Swim = Foca<Identity, Codec, StdRng, SummaryHandler>;

/// The state machine. See the page of this file.
pub(crate) struct Gossip {
    swim: Swim,
    pace: Pace,
    health: Health,
    runtime: AccumulatingRuntime<Identity>,
    timers: Timers<Timer<Identity>>,
    codec: Codec,
    own: MemberState,
    own_digest: u64,
    roster: Roster,
    summaries: Rc<RefCell<Summaries>>,
    publisher: Publisher,
    targets: Targets,
    /// When to tell the members of a new life of ours, until one has answered.
    rejoin: Option<Instant>,
    fetches: Fetches,
    /// Lives that others forced on us by taking us for dead, and by knowing a later one.
    burials: Limiter,
    catch_ups: Limiter,
    doubles: Doubles,
    told: Told,
    leaving: Leaving,
    change: Change,
    seen_changed: bool,
    view_sent: Instant,
    rng: StdRng,
    outputs: VecDeque<Output>,
    counters: GossipCounters,
}

impl Gossip {
    /// A member by itself, with the epoch that `own` has.
    pub(crate) fn new(
        cluster: ClusterId,
        pace: Pace,
        own: MemberState,
        now: Instant,
        mut rng: StdRng,
    ) -> Self {
        let tag = ClusterTag::of(cluster);
        let codec = Codec::new(tag);
        let identity = Identity::new(tag, own.node, own.address, own.epoch);
        let summaries = Rc::new(RefCell::new(Summaries::new(own.node)));
        let swim = Foca::with_custom_broadcast(
            identity,
            swim_config(pace, 0),
            StdRng::from_rng(&mut rng),
            codec,
            SummaryHandler(Rc::clone(&summaries)),
        );
        Self {
            swim,
            pace,
            health: Health::new(pace.interval),
            runtime: AccumulatingRuntime::new(),
            timers: Timers::new(),
            codec,
            own_digest: state_digest(&own),
            roster: Roster::new(cluster, &own, now),
            own,
            summaries,
            publisher: Publisher::new(),
            targets: Targets::default(),
            rejoin: None,
            fetches: Fetches::default(),
            burials: Limiter::default(),
            catch_ups: Limiter::default(),
            doubles: Doubles::default(),
            told: Told::default(),
            leaving: Leaving::No,
            change: Change::Major,
            seen_changed: false,
            view_sent: now,
            rng,
            outputs: VecDeque::new(),
            counters: GossipCounters::default(),
        }
    }

    /// Takes in what happened.
    pub(crate) fn handle(&mut self, input: Input, now: Instant) {
        if self.leaving == Leaving::Done {
            return;
        }
        match input {
            Input::Packet { from, bytes } => self.packet(from, &bytes, now),
            Input::Met(state) => self.met(&state, now),
            Input::Fetched { node, state } => self.fetched(node, state, now),
            Input::Own(state) => self.own_changed(*state, now),
            Input::Leave => self.leave(now),
            Input::Wake => {}
        }
        self.wake(now);
        self.settle(now);
    }

    /// The next thing to do, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Wake`] is wanted at the latest.
    pub(crate) fn next_wake(&self, now: Instant) -> Option<Instant> {
        if self.leaving == Leaving::Done {
            return None;
        }
        // Only what this phase does may wake it: a wait that nothing ends would have the driver turn without rest.
        let (leaving, publishes, announces) = match self.leaving {
            Leaving::No | Leaving::Done => (None, true, true),
            Leaving::Goodbye { until } => (Some(until), true, false),
            Leaving::Gone { next, .. } => (Some(next), false, false),
        };
        let publish = (publishes && !self.is_alone()).then(|| self.publisher.next_wake(now));
        let announce =
            if announces { self.targets.next_wake().into_iter().chain(self.rejoin).min() } else { None };
        let view = match (self.change, self.seen_changed) {
            (Change::None, false) => None,
            (Change::None, true) => Some(self.view_sent + SEEN_EVERY),
            (Change::Minor | Change::Major, _) => Some(self.view_sent + VIEW_EVERY),
        };
        let health = self.health.next_wake();
        let waits = [self.timers.next(), self.fetches.next_wake(now), self.doubles.next_wake(), health];
        waits.into_iter().chain([leaving, publish, announce, view]).flatten().min()
    }

    /// Whether nobody else takes part.
    pub(crate) fn is_alone(&self) -> bool {
        self.swim.num_members() == 0
    }

    /// Whether this member takes part, as far as we know.
    pub(crate) fn is_active(&self, node: NodeId) -> bool {
        self.roster.get(node).is_some_and(|member| member.standing.is_present())
    }

    pub(crate) fn counters(&self) -> &GossipCounters {
        &self.counters
    }

    fn met(&mut self, state: &MemberState, now: Instant) {
        if !is_dialable(state.address) {
            // No packet could carry it: it would be refused where it arrives.
            return self.counters.malformed += 1;
        }
        if state.node == self.own.node {
            return self.met_own_id(state, now);
        }
        let cluster = self.swim.identity().cluster;
        self.remind(state);
        self.targets.met(Identity::new(cluster, state.node, state.address, state.epoch), now);
        self.take_state(state, now);
    }

    /// Tells a peer that has forgotten its later lives of the last one: a packet to that life has it begin a later one
    /// at once. Without it, the peer would take one life after the other, each too early to be believed.
    fn remind(&mut self, state: &MemberState) {
        if self.leaving != Leaving::No {
            return;
        }
        let later = {
            let mut known = self.swim.iter_membership_state().map(foca::Member::id);
            known.find(|known| known.node == state.node && state.epoch < known.epoch).cloned()
        };
        if let Some(later) = later
            && let Err(error) = self.swim.announce(later, &mut self.runtime)
        {
            tracing::debug!(%error, "a member was not told of its last life");
        }
    }

    fn fetched(&mut self, node: NodeId, state: Option<Box<MemberState>>, now: Instant) {
        let state = state.filter(|state| state.node == node && node != self.own.node);
        self.fetches.answered(node, state.is_some(), now, &mut self.rng);
        if let Some(state) = state {
            self.take_state(&state, now);
        }
    }

    fn take_state(&mut self, state: &MemberState, now: Instant) {
        let summaries = self.summaries.borrow();
        let change = self.roster.set_state(state.clone(), summaries.of(state.node), now);
        self.change = self.change.max(change);
    }

    fn own_changed(&mut self, state: MemberState, now: Instant) {
        if self.leaving != Leaving::No {
            return; // The last word is said: what comes now could only take it back.
        }
        // Who we are and which life this is are not the caller's to say.
        let state = MemberState { node: self.own.node, epoch: self.own.epoch, ..state };
        let digest = state_digest(&state);
        if digest != self.own_digest {
            self.own_digest = digest;
            self.publisher.now();
        }
        self.publisher.changed(&self.own, &state);
        let moved = state.address != self.own.address;
        if moved {
            self.doubles.moved(self.own.node, self.own.address, state.address, now);
        }
        let quiet = MemberState { load: self.own.load, revision: self.own.revision, ..state.clone() };
        self.change = self.change.max(if quiet == self.own { Change::Minor } else { Change::Major });
        self.own = state;
        if moved {
            self.be_reborn(self.own.address, self.own.epoch.saturating_add(1), now);
        }
        self.roster.set_own(&self.own, Standing::Alive, now);
    }

    fn be_reborn(&mut self, address: SocketAddr, epoch: u64, now: Instant) {
        let Some(next) = self.swim.identity().reborn(address, epoch) else { return };
        self.rejoin = Some(now);
        if let Err(error) = self.swim.change_identity(next, &mut self.runtime) {
            tracing::debug!(%error, "the own identity stays as it is");
        }
    }

    /// Everything that waits for a time.
    fn wake(&mut self, now: Instant) {
        self.look_at_ourselves(now);
        let mut due = self.timers.take_due(now);
        // After a stall several are due at once; foca wants them in its own order then.
        due.sort();
        for timer in due {
            if self.is_refuted(&timer) {
                continue;
            }
            if let Err(error) = self.swim.handle_timer(timer, &mut self.runtime) {
                tracing::debug!(%error, "a gossip timer found something amiss");
            }
        }
        self.announce(now);
        self.publish(now);
        self.go(now);
    }

    /// Takes in by how much we are late, before anything is done about what is due. A suspect loses no time by it: its
    /// objection may lie in our queue.
    fn look_at_ourselves(&mut self, now: Instant) {
        let lag = self.timers.next().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if LAG_MAX < lag {
            self.timers.postpone(lag, |timer| matches!(timer, Timer::ChangeSuspectToDown { .. }));
        }
        self.health.pass(now);
        self.health.lagged(lag, now);
        self.take_health();
    }

    /// Has foca give suspects as much time as our own health demands.
    fn take_health(&mut self) {
        let level = self.health.level();
        if level == self.counters.health_level {
            return;
        }
        self.counters.health_level = level;
        if let Err(error) = self.swim.set_config(swim_config(self.pace, level)) {
            tracing::debug!(%error, level, "suspects keep the time that they had");
        }
    }

    /// Whether this is the end of a suspicion that its member has refuted. Foca 2.0 changes nothing then, but
    /// tells the member all the same that it is dead, which costs it a life.
    fn is_refuted(&self, timer: &Timer<Identity>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        let mut members = self.swim.iter_membership_state();
        !members.any(|member| member.id() == member_id && member.incarnation() == *incarnation)
    }

    fn announce(&mut self, now: Instant) {
        let swim = &self.swim;
        self.targets.retain(|target| {
            let knows = |member: &foca::Member<Identity>| {
                member.id().node == target.node && target.epoch <= member.id().epoch
            };
            !swim.iter_members().any(knows)
        });
        if self.leaving != Leaving::No {
            return;
        }
        let mut due = self.targets.take_due(now, &mut self.rng);
        due.extend(self.rejoined_with(now));
        for target in due {
            if let Err(error) = self.swim.announce(target, &mut self.runtime) {
                tracing::debug!(%error, "an announcement was not made");
            }
        }
    }

    /// Whom to tell of a new life of ours. Foca begins it with one round of gossip and then waits to hear from somebody; but
    /// whoever believes in another life of ours, a double's, sends nothing to this one by itself.
    fn rejoined_with(&mut self, now: Instant) -> Vec<Identity> {
        if self.rejoin.take_if(|at| *at <= now).is_none() || self.is_alone() {
            return Vec::new();
        }
        self.rejoin = Some(now + REJOIN_EVERY.mul_f64(self.rng.random_range(0.8..1.2)));
        let members = self.swim.iter_members().map(|member| member.id().clone());
        members.sample(&mut self.rng, REJOIN_AT_ONCE)
    }

    fn publish(&mut self, now: Instant) {
        let due = !self.is_alone() && self.publisher.next_wake(now) <= now;
        if !due || matches!(self.leaving, Leaving::Gone { .. }) {
            return;
        }
        let urgent = self.publisher.is_urgent();
        let epoch = self.swim.identity().epoch;
        let heard = self.summaries.borrow().own_heard(epoch);
        let summary = MemberSummary {
            node: self.own.node,
            epoch,
            sequence: self.publisher.publish(heard, now),
            revision: self.own.revision,
            draining: self.own.draining,
            cordoned: self.own.cordoned,
            leaving: self.leaving != Leaving::No,
            door: self.own.door,
            load: self.own.load,
            digest: self.own_digest,
            trust: self.own.trust,
        };
        let told = self.swim.add_broadcast(&summary.encode());
        let sent = if urgent { self.swim.broadcast(&mut self.runtime) } else { Ok(()) };
        if let Err(error) = told.and(sent) {
            tracing::debug!(%error, "a summary was not published");
        }
        self.roster.set_own(&self.own, Standing::Alive, now);
        self.change = self.change.max(Change::Minor);
    }
}
