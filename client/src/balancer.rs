//! Chooses the peer for the next call.
//!
//! Pure state, shared by all shards of a process: a snapshot of candidates, each with its own counters, and no lock
//! on the path of a call. Called in sequence, the same calls always give the same peers.
//!
//! ```text
//!   ready ──failed──> barred ──time passes──> on probation ──answer──> ready, with 10 % of its share ──> all of it
//!                       └──── twice as long <──failed─┘  (one call in flight at most)
//! ```
//!
//! Who is chosen among those that are ready is the policy's choice (`choose.rs`), and who does too badly beside others
//! to be ready is a verdict's (`verdicts.rs`). A failure is a call that broke, which bars at once, or one of several in a
//! row that were answered with an error or not at all.
//!
//! A peer that never answered, that said "busy" or let a deadline pass a moment ago, that has as many calls as it takes,
//! that lets calls wait without a sign, or that the cluster suspects counts as full: it is leased only when no other is
//! left. Bars never close the last peer: when all that could serve a call are barred, the one whose bar ends first is
//! leased all the same. And when more than half of them are, those that answered at all are leased as if they were not.
//!
//! Calls of a session are another matter: they go to the peer that has its state, however much that has to do
//! ([`Balancer::lease_of_session`]).

mod affinity;
mod choose;
mod lease;
mod models;
mod peer;
mod settings;
mod shown;
#[cfg(test)]
mod tests;
mod verdicts;
mod window;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use lineside_wire::{ModelName, NodeId};

use crate::candidate::{Candidate, Fit, Serves, Wanted};
use choose::{By, Choice, Moment};
use models::Models;
use peer::{Answer, Peer};

pub use lease::{Lease, NoLease, Outcome};
pub use settings::{Balancing, Policy};
pub use shown::{Panic, PeerStatistics, Rest};

/// For how long a panic is shown after the last call that was leased in it, in microseconds: until somebody has looked.
const PANIC_SHOWN_FOR: u64 = 10_000_000;

/// What the seeded sequence of numbers goes on by (SplitMix64).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// How long a peer counts as full after it said "busy" without saying for how long.
const FULL_FOR: Duration = Duration::from_millis(100);

/// Longest time that a peer's "busy" is believed: queues drain faster than any hint can foresee.
const FULL_FOR_MAX: Duration = Duration::from_secs(1);

/// How long a peer counts as full after it fell silent: until then QUIC has noticed whether it is gone.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// For how long a "busy" tells of a cluster without room.
const BUSY_FOR: Duration = Duration::from_secs(2);

/// Chooses peers, and learns from what becomes of their calls.
#[derive(Debug)]
pub struct Balancer {
    settings: ArcSwap<Balancing>,
    started: Instant,
    entries: ArcSwap<Vec<Entry>>,
    /// One update at a time; never held on the path of a call.
    updating: Mutex<()>,
    models: Models,
    leases: AtomicU64,
    /// The next number of the seeded sequence.
    chance: AtomicU64,
    /// The turn that is on, for peers that take turns: it moves on with each lease.
    turn: AtomicU64,
    /// What a call takes on a usual peer, in microseconds.
    typical_us: AtomicU64,
    reviewed_at: AtomicU64,
    panic_leases: AtomicU64,
    panicked_at: AtomicU64,
}

#[derive(Clone, Debug)]
struct Entry {
    candidate: Candidate,
    peer: Arc<Peer>,
}

/// How the peer for a call is chosen.
#[derive(Clone, Copy, Debug)]
enum How<'a> {
    /// By the policy; with room, where it is known to have some.
    ByPolicy { with_room: bool, heard_since: u64, affinity: Option<&'a str> },
    /// The one that this session belongs to.
    OfSession(&'a str),
}

impl Balancer {
    /// A balancer without candidates. `rng` seeds what is left to chance.
    pub fn new(settings: Balancing, rng: &mut impl rand::Rng, started: Instant) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            started,
            entries: ArcSwap::default(),
            updating: Mutex::new(()),
            models: Models::default(),
            leases: AtomicU64::new(0),
            chance: AtomicU64::new(rng.next_u64()),
            turn: AtomicU64::new(0),
            typical_us: AtomicU64::new(0),
            reviewed_at: AtomicU64::new(0),
            panic_leases: AtomicU64::new(0),
            panicked_at: AtomicU64::new(0),
        }
    }

    /// Puts other settings in force. Counters and bars stay; what is set decides over what comes.
    pub fn set(&self, settings: Balancing) {
        let before = self.settings.swap(Arc::new(settings));
        if before.policy != settings.policy {
            // Each policy has turns of its own length: what was taken by one is no debt by another.
            self.entries.load().iter().for_each(|entry| entry.peer.owes_no_turn());
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Balancing {
        **self.settings.load()
    }

    /// Takes over the candidates there are now. Those that were there keep their counters, bars and leases; a new
    /// process under an old id, and one that comes back from the dead, may show at once with one call that it works.
    ///
    /// Whoever is new, or back, starts slowly, unless nobody has worked yet: when all are new, none is slower than others.
    pub fn update(&self, candidates: Vec<Candidate>, now: Instant) {
        let _one_at_a_time = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.entries.load();
        let now = self.micros(now);
        let works = |entry: &Entry| entry.candidate.is_open() && entry.peer.has_answered();
        let others_work = |node: NodeId| old.iter().any(|entry| entry.candidate.node != node && works(entry));
        let known: HashMap<_, _> = old.iter().map(|entry| (entry.candidate.node, entry)).collect();
        let entries = candidates.into_iter().map(|candidate| {
            let known = known.get(&candidate.node);
            let peer = known.map_or_else(Arc::default, |entry| Arc::clone(&entry.peer));
            let reported = known.and_then(|entry| entry.candidate.load);
            if let Some(load) = candidate.load.filter(|load| reported != Some(*load)) {
                peer.gossiped(load, now);
            }
            let is_other = known.is_none_or(|entry| entry.candidate.epoch < candidate.epoch);
            let was_away = known.is_none_or(|entry| !entry.candidate.standing.is_present());
            let is_back = was_away && candidate.standing.is_present();
            if is_other {
                peer.begins_anew();
            }
            if is_other || is_back {
                peer.unbar(now);
                if others_work(candidate.node) {
                    peer.starts_slowly(now);
                }
            }
            Entry { candidate, peer }
        });
        let entries: Vec<_> = entries.collect();
        self.look_up_typical(&entries);
        self.entries.store(Arc::new(entries));
    }

    /// Leases the peer that the policy chooses among those that fit and that this call has not tried.
    ///
    /// # Errors
    /// There is none; the error says why.
    pub fn lease(&self, wanted: Wanted<'_>, tried: &[NodeId], now: Instant) -> Result<Lease, NoLease> {
        self.lease_for(None, wanted, tried, now)
    }

    /// Leases a peer by the call's affinity where it has one: the first in the affinity's order that has room and does
    /// not rest. Without one as [`Self::lease`] does.
    ///
    /// # Errors
    /// There is none; the error says why.
    pub fn lease_for(
        &self,
        affinity: Option<&str>,
        wanted: Wanted<'_>,
        tried: &[NodeId],
        now: Instant,
    ) -> Result<Lease, NoLease> {
        self.lease_one(wanted, tried, How::ByPolicy { with_room: false, heard_since: 0, affinity }, now)
    }

    /// Leases the peer that a session belongs to among those that fit and that this call has not tried: all balancers
    /// with the same candidates choose the same one, whatever they know of loads. One that rests because it broke or
    /// leaves gives way to the next in the session's order, as one that is gone does.
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

    /// The same as [`Self::lease`] for a call that a full peer sent away: one that said "busy" a moment ago would only say
    /// so again, and in a cluster without room every call would be sent as often as it may be tried.
    pub(crate) fn lease_with_room(
        &self,
        wanted: Wanted<'_>,
        tried: &[NodeId],
        now: Instant,
    ) -> Result<Lease, NoLease> {
        self.lease_one(wanted, tried, How::ByPolicy { with_room: true, heard_since: 0, affinity: None }, now)
    }

    /// The same, of peers that gave a sign since a moment; the call that asks waits for one that has given none.
    pub(crate) fn lease_heard(
        &self,
        since: Instant,
        wanted: Wanted<'_>,
        tried: &[NodeId],
        now: Instant,
    ) -> Result<Lease, NoLease> {
        let heard_since = self.micros(since);
        self.lease_one(wanted, tried, How::ByPolicy { with_room: true, heard_since, affinity: None }, now)
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
            let Some(choice) = self.choose(&entries, wanted, tried, how, now) else {
                let resting = match how {
                    How::ByPolicy { .. } => None,
                    How::OfSession(_) => affinity::resting(&entries, wanted, tried, now),
                };
                return Err(resting.map_or_else(
                    || lease::no_lease(&entries, wanted),
                    |entry| NoLease::NotServing {
                        reason: format!("{} rests after a failed call", entry.candidate.name),
                    },
                ));
            };
            // Another thread may have begun the one call of the probation just now: then choose anew.
            if choice.entry.peer.take(choice.on_probation, now) {
                return Ok(self.taken(choice, wanted, now));
            }
        }
    }

    fn choose<'a>(
        &self,
        entries: &'a [Entry],
        wanted: Wanted<'_>,
        tried: &[NodeId],
        how: How<'_>,
        now: u64,
    ) -> Option<Choice<'a>> {
        let (with_room, heard_since, affinity) = match how {
            How::ByPolicy { with_room, heard_since, affinity } => (with_room, heard_since, affinity),
            How::OfSession(session) => {
                let (entry, on_probation) = affinity::choose(entries, session, wanted, tried, now)?;
                return Some(Choice { entry, on_probation, in_panic: false, turn_ends: 0, moves_on: 0 });
            }
        };
        let by = By::of(self.settings().policy, affinity, || self.draw());
        let is_out = |entry: &Entry| {
            tried.contains(&entry.candidate.node)
                || (with_room && entry.peer.counts_as_full(now))
                || entry.peer.heard_at() < heard_since
        };
        // A call that was tried already is not one to find out with.
        let asks_back = tried.is_empty() && affinity.is_none();
        choose::choose(
            entries,
            by,
            |candidate| candidate.fit(wanted),
            is_out,
            asks_back,
            self.moment(entries, now),
        )
    }

    fn taken(&self, choice: Choice<'_>, wanted: Wanted<'_>, now: u64) -> Lease {
        let Entry { candidate, peer } = choice.entry;
        peer.leased(self.leases.fetch_add(1, Relaxed) + 1);
        peer.has_turn_until(choice.turn_ends);
        self.turn.fetch_add(choice.moves_on, Relaxed);
        if choice.in_panic {
            self.panic_leases.fetch_add(1, Relaxed);
            self.panicked_at.fetch_max(now, Relaxed);
        }
        let times = match wanted {
            Wanted::Anything => None,
            Wanted::Model(model, _) => self.models.of(model),
        };
        let (node, address, peer) = (candidate.node, candidate.address, Arc::clone(peer));
        let is_door = matches!(candidate.serves, Serves::Anything);
        Lease { node, address, taken_at: now, peer, is_door, times }
    }

    /// Gives a lease back and learns what became of its call.
    pub fn report(&self, lease: Lease, outcome: Outcome, now: Instant) {
        let now = self.micros(now);
        let (peer, taken_at, times) = (Arc::clone(&lease.peer), lease.taken_at, lease.times.clone());
        // Given back first: what the peer reports of its load no longer holds this call.
        drop(lease);
        let was_known = peer.call_us() != 0;
        match outcome {
            Outcome::Answered { load, took } => {
                let slowness = times.and_then(|times| times.add(took));
                peer.answered(Answer { load, took, slowness }, taken_at, now);
            }
            Outcome::Heard => peer.heard(now),
            Outcome::Erred => {
                let in_row = peer.erred(taken_at, now);
                self.bar_after(in_row, &peer, taken_at, now);
            }
            Outcome::Full { load, retry_after } => {
                let wait = retry_after.unwrap_or(FULL_FOR).min(FULL_FOR_MAX);
                peer.is_full(load, now, now + micros(wait));
            }
            Outcome::Leaving => {
                peer.heard(now);
                self.bar(&peer, Rest::Leaving, taken_at, now);
            }
            Outcome::Late | Outcome::Overtaken | Outcome::Abandoned => {
                let usual = times.and_then(|times| times.percentile(99));
                if matches!(outcome, Outcome::Abandoned) && !peer.is_overdue(usual, taken_at, now) {
                    return;
                }
                let in_row = peer.was_late(usual, taken_at, now, now + micros(SILENT_FOR));
                if in_row.is_some() || matches!(outcome, Outcome::Late) {
                    peer.failed();
                }
                self.bar_after(in_row.unwrap_or(0), &peer, taken_at, now);
            }
            Outcome::Failed => {
                peer.broke(taken_at, now);
                self.bar(&peer, Rest::Broken, taken_at, now);
            }
        }
        if !was_known && peer.call_us() != 0 {
            self.look_up_typical(&self.entries.load());
        }
        self.review(now);
    }

    /// Learns that the peer of a call that still waits gives no sign of life: it counts as full, so that no new call goes
    /// there while another can take it.
    pub fn stalled(&self, lease: &Lease, now: Instant) {
        let now = self.micros(now);
        lease.peer.stalled(now, now + micros(SILENT_FOR));
    }

    /// When a call to the peer of this one was last seen to get no sign of life.
    pub(crate) fn stalled_at(&self, lease: &Lease) -> Option<Instant> {
        let at = lease.peer.stalled_at();
        (at != 0).then(|| self.started + Duration::from_micros(at))
    }

    /// Whether more than half of those that could serve a call said "busy" a moment ago: then a second try of what may
    /// have run only adds to what is too much already.
    pub(crate) fn is_overloaded(&self, wanted: Wanted<'_>, now: Instant) -> bool {
        let now = self.micros(now);
        let entries = self.entries.load();
        let serves = |entry: &&Entry| {
            let fit = entry.candidate.fit(wanted);
            entry.candidate.is_open() && matches!(fit, Fit::Ready | Fit::OnDemand)
        };
        let (mut all, mut busy) = (0, 0);
        for entry in entries.iter().filter(serves) {
            all += 1;
            busy += usize::from(entry.peer.was_busy(micros(BUSY_FOR), now));
        }
        all < 2 * busy
    }

    /// The time within which this share of the answers for a model came lately, over all peers; `None` before the
    /// first.
    #[must_use]
    pub fn usual(&self, model: &ModelName, percent: u64) -> Option<Duration> {
        self.models.known(model).and_then(|times| times.percentile(percent))
    }

    /// What is known of each candidate.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> BTreeMap<NodeId, PeerStatistics> {
        let now = self.micros(now);
        let entries = self.entries.load();
        let calls: u64 = entries.iter().map(|entry| entry.peer.counted(now).calls()).sum();
        let slow_start = micros(self.settings().slow_start);
        let statistics = entries.iter().map(|Entry { candidate, peer }| {
            let share = peer.counted(now).calls() * 100 / calls.max(1);
            let share = u8::try_from(share).unwrap_or(100);
            (candidate.node, PeerStatistics { share, ..peer.statistics(slow_start, now) })
        });
        statistics.collect()
    }

    /// Whether so many peers rest that bars are set aside, and how many calls that has touched.
    #[must_use]
    pub fn panic(&self, now: Instant) -> Panic {
        let panicked_at = self.panicked_at.load(Relaxed);
        let is_on = panicked_at != 0 && self.micros(now) <= panicked_at + PANIC_SHOWN_FOR;
        Panic { is_on, leases: self.panic_leases.load(Relaxed) }
    }

    /// The candidates as last updated.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.entries.load().iter().map(|entry| entry.candidate.clone()).collect()
    }

    /// Bars a peer after so many failures in a row; on probation one is enough.
    fn bar_after(&self, in_row: u32, peer: &Peer, taken_at: u64, now: u64) {
        let is_enough = u32::from(self.settings().eject_failures.get()) <= in_row;
        if is_enough || (0 < in_row && peer.is_on_probation()) {
            self.bar(peer, Rest::Errors, taken_at, now);
        }
    }

    fn bar(&self, peer: &Peer, rest: Rest, taken_at: u64, now: u64) {
        // Calls that broke together broke for one reason: they bar once.
        let Some(failures) = peer.begin_bar(rest, taken_at, now) else { return };
        let doublings = failures.saturating_sub(1).min(16);
        let Balancing { bar_min, bar_max, .. } = self.settings();
        let bar = bar_min.saturating_mul(1 << doublings).min(bar_max);
        // A fifth more or less, so that gateways that lost a node together do not come back together.
        let jittered = bar.mul_f64(0.8 + 0.4 * self.chance()).min(bar_max);
        peer.bar_until(now + micros(jittered), now);
    }

    fn moment(&self, entries: &[Entry], now: u64) -> Moment {
        let lots = 100 * entries.len().max(1) as u64;
        let typical_us = self.typical_us.load(Relaxed);
        Moment {
            now,
            typical_us,
            typical_root: choose::fourth_root(typical_us),
            slow_start: micros(self.settings().slow_start),
            lot: mixed(self.leases.load(Relaxed).wrapping_mul(STEP)) % lots,
            turn: self.turn.load(Relaxed),
        }
    }

    /// The next number of the seeded sequence, from 0 to below 1.
    pub fn chance(&self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next number of the seeded sequence (SplitMix64).
    fn draw(&self) -> u64 {
        mixed(self.chance.fetch_add(STEP, Relaxed).wrapping_add(STEP))
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
