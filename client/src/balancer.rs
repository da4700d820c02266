//! Chooses the peer for the next call.
//!
//! Pure state, shared by all shards of a process: a snapshot of candidates, each with its own counters, and no lock
//! on the path of a call. Called in sequence, the same calls always give the same peers.
//!
//! ```text
//!   score = (own calls in flight + calls of others, as last reported) / slots       the lowest is leased,
//!                                                                                   the longest idle on a tie
//!   ready ──failed call──> barred ──time passes──> on probation ──answer──> ready
//!                            └──────────── twice as long <──failed call─┘  (one call in flight at most)
//! ```
//!
//! A peer that never answered, that said "busy" or let a deadline pass a moment ago, that lets calls wait without a
//! sign, or that the cluster suspects counts as full: it is leased only when no other is left. Bars never close the last peer: when all that could
//! serve a call are barred, the one whose bar ends first is leased all the same.
//!
//! Calls of a session are another matter: they go to the peer that has its state, however much that has to do
//! ([`Balancer::lease_of_session`]).

mod affinity;
mod peer;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU8,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use lineside_wire::{LoadReport, NodeId};

use crate::candidate::{Candidate, Fit, Wanted};
use peer::Peer;

/// How the peer of a call without a session is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The one that will be done first: work that it has, by how long it takes there. Ties go round.
    #[default]
    LeastLoad,
    /// One after the other.
    RoundRobin,
    /// One after the other, faster ones more often.
    WeightedRoundRobin,
    /// The one with less to do of two that are drawn.
    PowerOfTwo,
    /// By the call's affinity, always the same one.
    Rendezvous,
}

/// How peers are chosen, and when they rest.
#[derive(Clone, Copy, Debug)]
pub struct Balancing {
    /// Who gets a call.
    pub policy: Policy,
    /// Own failed calls in a row that bar a peer which still answers others. A call that breaks bars at once.
    pub eject_failures: NonZeroU8,
    /// A peer that answers a smaller share of its calls well, in percent, is barred while others do better; 0 never bars.
    pub eject_success_percent: u8,
    /// A peer whose 95th percentile is so many times the median of its peers' is barred; 0 never bars.
    pub eject_latency_times: u8,
    /// The bar after a first failed call; it doubles from failure to failure.
    pub bar_min: Duration,
    /// The longest bar. Longer keeps a mended node idle, shorter sends more calls to a broken one.
    pub bar_max: Duration,
    /// For how long a peer that is new, or back, gets less than its share; it grows meanwhile.
    pub slow_start: Duration,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            policy: Policy::LeastLoad,
            eject_failures: const { NonZeroU8::new(3).expect("3 is not 0") },
            eject_success_percent: 80,
            eject_latency_times: 3,
            bar_min: Duration::from_secs(2),
            bar_max: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
        }
    }
}

/// How long a peer counts as full after it said "busy" without saying for how long.
const FULL_FOR: Duration = Duration::from_millis(100);

/// Longest time that a peer's "busy" is believed: queues drain faster than any hint can foresee.
const FULL_FOR_MAX: Duration = Duration::from_secs(1);

/// How long a peer counts as full after it fell silent: until then QUIC has noticed whether it is gone.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// What became of a leased call.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The model ran, or refused this input: the peer works.
    Answered {
        /// Its load after the call, if it said so.
        load: Option<LoadReport>,
        /// From lease to answer.
        took: Duration,
    },
    /// It answered something that proves nothing about its models. Neither blame nor praise.
    Heard,
    /// It had no room. No blame, but it counts as full for a while.
    Full {
        /// Its load, if it said so.
        load: Option<LoadReport>,
        /// When it expects to have room.
        retry_after: Option<Duration>,
    },
    /// It is leaving: barred, without blame.
    Leaving,
    /// The deadline passed before the answer. A peer that let a while pass without a sign counts as full, never as
    /// empty; one that answered others meanwhile is not blamed for a caller's impatience.
    Late,
    /// The call broke, or could not even be sent: barred at once.
    Failed,
}

/// Why there is no peer for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// No candidate has the model.
    Unknown,
    /// Some have the model, but none in that version.
    UnknownVersion,
    /// Some have it, but none can serve it now.
    NotServing {
        /// Why, peer by peer, for a person.
        reason: String,
    },
    /// All that serve it have been tried by this call, or rest.
    Exhausted,
}

/// What a member list shows of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStatistics {
    /// Own calls in flight to it.
    pub in_flight: u32,
    /// 95th percentile of its answers, lately.
    pub p95: Option<Duration>,
    /// Calls to it that have ended.
    pub calls: u64,
    /// Of these, those that broke or came too late.
    pub failures: u64,
    /// How much longer it is barred.
    pub barred_for: Option<Duration>,
}

/// Chooses peers, and learns from what becomes of their calls.
#[derive(Debug)]
pub struct Balancer {
    settings: Balancing,
    started: Instant,
    entries: ArcSwap<Vec<Entry>>,
    /// One update at a time; never held on the path of a call.
    updating: Mutex<()>,
    leases: AtomicU64,
    /// The next number of the jitter's sequence.
    chance: AtomicU64,
}

#[derive(Clone, Debug)]
struct Entry {
    candidate: Candidate,
    peer: Arc<Peer>,
}

/// How the peer for a call is chosen.
#[derive(Clone, Copy, Debug)]
enum How<'a> {
    /// The one with the least to do; with room, where it is known to have some.
    ByLoad { with_room: bool },
    /// The one that this session belongs to.
    OfSession(&'a str),
}

/// In which order peers are chosen: the smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Full, silent or suspect: only when nobody else is left.
    last_choice: bool,
    score: u64,
    last_leased: u64,
}

impl Balancer {
    /// A balancer without candidates. `rng` seeds the jitter of the bars.
    pub fn new(settings: Balancing, rng: &mut impl rand::Rng, started: Instant) -> Self {
        Self {
            settings,
            started,
            entries: ArcSwap::default(),
            updating: Mutex::new(()),
            leases: AtomicU64::new(0),
            chance: AtomicU64::new(rng.next_u64()),
        }
    }

    /// Takes over the candidates there are now. Those that were there keep their counters, bars and leases; a new
    /// process under an old id, and one that comes back from the dead, may show at once with one call that it works.
    pub fn update(&self, candidates: Vec<Candidate>, now: Instant) {
        let _one_at_a_time = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.entries.load();
        let now = self.micros(now);
        let entries = candidates.into_iter().map(|candidate| {
            let known = old.iter().find(|entry| entry.candidate.node == candidate.node);
            let peer = known.map_or_else(Arc::default, |entry| Arc::clone(&entry.peer));
            let reported = known.and_then(|entry| entry.candidate.load);
            if let Some(load) = candidate.load.filter(|load| reported != Some(*load)) {
                peer.gossiped(load);
            }
            if let Some(before) = known.map(|entry| &entry.candidate) {
                let is_new = before.epoch < candidate.epoch;
                let is_back = !before.standing.is_present() && candidate.standing.is_present();
                if is_new || is_back {
                    peer.unbar(now);
                }
            }
            Entry { candidate, peer }
        });
        let entries = entries.collect();
        self.entries.store(Arc::new(entries));
    }

    /// Leases the peer with the least to do per slot among those that fit and that this call has not tried.
    ///
    /// # Errors
    /// There is none; the error says why.
    pub fn lease(&self, wanted: Wanted<'_>, tried: &[NodeId], now: Instant) -> Result<Lease, NoLease> {
        self.lease_one(wanted, tried, How::ByLoad { with_room: false }, now)
    }

    /// Leases the peer that a session belongs to among those that fit and that this call has not tried: all balancers
    /// with the same candidates choose the same one, whatever they know of loads. One that rests gives way to the next
    /// in the session's order, as one that is gone does.
    ///
    /// # Errors
    /// There is none; the error says why. [`NoLease::NotServing`] when peers that rest were left out: one of them may be
    /// the one that the session belongs to.
    pub fn lease_of_session(
        &self,
        session: &str,
        wanted: Wanted<'_>,
        tried: &[NodeId],
        now: Instant,
    ) -> Result<Lease, NoLease> {
        self.lease_one(wanted, tried, How::OfSession(session), now)
    }

    /// The same for a call that a full peer sent away: one that said "busy" a moment ago would only say so again, and
    /// in a cluster without room every call would be sent as often as it may be tried.
    pub(crate) fn lease_with_room(
        &self,
        wanted: Wanted<'_>,
        tried: &[NodeId],
        now: Instant,
    ) -> Result<Lease, NoLease> {
        self.lease_one(wanted, tried, How::ByLoad { with_room: true }, now)
    }

    fn lease_one(
        &self,
        wanted: Wanted<'_>,
        tried: &[NodeId],
        how: How<'_>,
        now: Instant,
    ) -> Result<Lease, NoLease> {
        let now = self.micros(now);
        let entries = self.entries.load();
        loop {
            let chosen = match how {
                How::ByLoad { with_room } => {
                    let is_out = |entry: &Entry| {
                        tried.contains(&entry.candidate.node) || (with_room && entry.peer.counts_as_full(now))
                    };
                    choose(&entries, wanted, is_out, now)
                }
                How::OfSession(session) => affinity::choose(&entries, session, wanted, tried, now),
            };
            let Some((entry, on_probation)) = chosen else {
                let resting = match how {
                    How::ByLoad { .. } => None,
                    How::OfSession(_) => affinity::resting(&entries, wanted, tried, now),
                };
                return Err(resting.map_or_else(
                    || no_lease(&entries, wanted),
                    |entry| NoLease::NotServing {
                        reason: format!("{} rests after a failed call", entry.candidate.name),
                    },
                ));
            };
            // Another thread may have begun the one call of the probation just now: then choose anew.
            if entry.peer.take(on_probation, now) {
                let turn = self.leases.fetch_add(1, Relaxed) + 1;
                entry.peer.leased(turn);
                return Ok(Lease {
                    node: entry.candidate.node,
                    address: entry.candidate.address,
                    taken_at: now,
                    peer: Arc::clone(&entry.peer),
                });
            }
        }
    }

    /// Gives a lease back and learns what became of its call.
    pub fn report(&self, lease: Lease, outcome: Outcome, now: Instant) {
        let now = self.micros(now);
        let (peer, taken_at) = (Arc::clone(&lease.peer), lease.taken_at);
        // Given back first: what the peer reports of its load no longer holds this call.
        drop(lease);
        match outcome {
            Outcome::Answered { load, took } => peer.answered(load, took, now),
            Outcome::Heard => peer.heard(now),
            Outcome::Full { load, retry_after } => {
                let wait = retry_after.unwrap_or(FULL_FOR).min(FULL_FOR_MAX);
                peer.is_full(load, now, now + micros(wait));
            }
            Outcome::Leaving => {
                peer.heard(now);
                self.bar(&peer, taken_at, now);
            }
            Outcome::Late => peer.was_late(taken_at, now, now + micros(SILENT_FOR)),
            Outcome::Failed => {
                peer.failed();
                self.bar(&peer, taken_at, now);
            }
        }
    }

    /// What is known of each candidate.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> BTreeMap<NodeId, PeerStatistics> {
        let now = self.micros(now);
        let entries = self.entries.load();
        entries.iter().map(|entry| (entry.candidate.node, entry.peer.statistics(now))).collect()
    }

    /// The candidates as last updated.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.entries.load().iter().map(|entry| entry.candidate.clone()).collect()
    }

    fn bar(&self, peer: &Peer, taken_at: u64, now: u64) {
        // Calls that broke together broke for one reason: they bar once.
        let Some(failures) = peer.begin_bar(taken_at, now) else { return };
        let doublings = failures.saturating_sub(1).min(16);
        let bar = self.settings.bar_min.saturating_mul(1 << doublings).min(self.settings.bar_max);
        // A fifth more or less, so that gateways that lost a node together do not come back together.
        let jittered = bar.mul_f64(0.8 + 0.4 * self.chance()).min(self.settings.bar_max);
        peer.bar_until(now + micros(jittered));
    }

    /// The next number of the sequence (SplitMix64), between 0 and 1.
    fn chance(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = mixed(self.chance.fetch_add(STEP, Relaxed).wrapping_add(STEP));
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Microseconds since the start, and one: 0 is "never".
    fn micros(&self, now: Instant) -> u64 {
        micros(now.saturating_duration_since(self.started)) + 1
    }
}

/// Spreads a number over all bits (SplitMix64's last step).
const fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}

/// The best entry for a call, and whether the call is the one that its probation allows.
fn choose<'a>(
    entries: &'a [Entry],
    wanted: Wanted<'_>,
    is_out: impl Fn(&Entry) -> bool,
    now: u64,
) -> Option<(&'a Entry, bool)> {
    let mut best: Option<(Rank, &Entry)> = None;
    let mut resting: Option<((u64, Rank), &Entry)> = None;
    let mut all_rest = true;
    for entry in entries {
        let (candidate, peer) = (&entry.candidate, &entry.peer);
        let fit = candidate.fit(wanted);
        if !candidate.is_open() || !matches!(fit, Fit::Ready | Fit::OnDemand) {
            continue;
        }
        let rests = peer.rests(now);
        all_rest &= rests;
        if is_out(entry) {
            continue;
        }
        let mut rank = rank(entry, now);
        // Loading takes longer than any queue of those that have loaded it.
        rank.last_choice |= fit == Fit::OnDemand;
        if !rests && best.is_none_or(|(least, _)| rank < least) {
            best = Some((rank, entry));
        }
        let key = (peer.barred_until(), rank);
        if rests && resting.is_none_or(|(least, _)| key < least) {
            resting = Some((key, entry));
        }
    }
    match (best, resting) {
        (Some((_, entry)), _) => Some((entry, entry.peer.is_on_probation())),
        (None, Some((_, entry))) if all_rest => Some((entry, false)),
        (None, _) => None,
    }
}

fn rank(entry: &Entry, now: u64) -> Rank {
    /// Scores are whole numbers; this keeps six digits behind the point.
    const ONE: u64 = 1 << 20;
    let (candidate, peer) = (&entry.candidate, &entry.peer);
    let is_known = candidate.load.is_some() || peer.has_answered();
    let is_suspect = candidate.standing == crate::Standing::Suspect;
    Rank {
        last_choice: is_suspect || !is_known || peer.counts_as_full(now) || peer.is_silent(now),
        score: peer.load(now) * ONE / u64::from(candidate.slots.max(1)),
        last_leased: peer.last_leased(),
    }
}

/// Says why nobody could be chosen. Off the path of calls that find a peer.
fn no_lease(entries: &[Entry], wanted: Wanted<'_>) -> NoLease {
    /// Peers that the reason names; the rest is counted.
    const NAMED_MAX: usize = 4;
    let mut reasons = Vec::new();
    let mut nothing = NoLease::Unknown;
    for Entry { candidate, .. } in entries {
        let name = &candidate.name;
        match candidate.fit(wanted) {
            Fit::Unknown => {}
            Fit::OtherVersion => nothing = NoLease::UnknownVersion,
            Fit::Ready | Fit::OnDemand | Fit::NotNow(_) if !candidate.standing.is_present() => {
                reasons.push(format!("{name} is {}", candidate.standing));
            }
            Fit::Ready | Fit::OnDemand | Fit::NotNow(_) if candidate.draining => {
                reasons.push(format!("{name} is leaving"));
            }
            Fit::NotNow(state) => reasons.push(format!("{} on {name}", state.as_str())),
            Fit::Ready | Fit::OnDemand => return NoLease::Exhausted,
        }
    }
    if reasons.is_empty() {
        return nothing;
    }
    let unnamed = reasons.len().saturating_sub(NAMED_MAX);
    reasons.truncate(NAMED_MAX);
    let more = if unnamed == 0 { String::new() } else { format!(", and {unnamed} more") };
    NoLease::NotServing { reason: reasons.join(", ") + &more }
}

/// One call's place at a peer: counts as in flight until it is reported or dropped, so that a cancelled call cannot
/// leak it.
#[derive(Debug)]
pub struct Lease {
    node: NodeId,
    address: SocketAddr,
    taken_at: u64,
    peer: Arc<Peer>,
}

impl Lease {
    /// Whom to call.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.peer.give_back();
    }
}
