//! What the balancer knows of one peer: counters that any thread may change. Times are microseconds since the
//! balancer's start; 0 is "never".

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use lineside_wire::LoadReport;

use super::PeerStatistics;
use crate::latency::Latencies;

/// A peer that gives no sign for so long while a call waits is silent, in microseconds. On a LAN a live peer always
/// does better, unless the model alone takes longer: then others are as slow.
const SILENT_AFTER: u64 = 100_000;

/// The same for calls that still wait: a peer with slow models is not silent before it has taken so many times as long
/// as nearly all of its answers did.
const SILENT_AFTER_ANSWERS: u64 = 3;

/// The same for a peer that has not answered yet, in microseconds: nobody knows how slow its models are. Half of the
/// time in which QUIC finds out that it is gone.
const SILENT_AFTER_UNKNOWN: u64 = 1_000_000;

/// For how long what a peer said in an answer is newer than what gossip tells, in microseconds.
const ANSWER_FRESH_FOR: u64 = 2_000_000;

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Own calls in flight.
    held: AtomicU32,
    /// When the first of them was leased.
    held_since: AtomicU64,
    /// Calls of others, from its last answer.
    foreign: AtomicU32,
    answered_at: AtomicU64,
    /// When it gave any sign.
    heard_at: AtomicU64,
    /// Calls of others, from its last gossip.
    gossiped: AtomicU32,
    full_until: AtomicU64,
    /// Failures in a row; above 0 and not barred is on probation.
    failures: AtomicU32,
    barred_at: AtomicU64,
    barred_until: AtomicU64,
    last_leased: AtomicU64,
    calls_ended: AtomicU64,
    calls_failed: AtomicU64,
    latencies: Latencies,
}

impl Peer {
    /// Counts one call in flight. On probation only the first is let through.
    pub(super) fn take(&self, on_probation: bool, now: u64) -> bool {
        let before = match on_probation {
            true => match self.held.compare_exchange(0, 1, AcqRel, Relaxed) {
                Ok(none) => none,
                Err(_) => return false,
            },
            false => self.held.fetch_add(1, AcqRel),
        };
        if before == 0 {
            self.held_since.store(now, Relaxed);
        }
        true
    }

    /// Whether calls wait there and it has given no sign for longer than it usually takes: it may be gone, and QUIC has
    /// not noticed yet.
    pub(super) fn is_silent(&self, now: u64) -> bool {
        if self.held.load(Acquire) == 0 {
            return false;
        }
        let since = self.held_since.load(Relaxed).max(self.heard_at.load(Relaxed));
        let silent_for = now.saturating_sub(since);
        // The percentile is looked up for the few that have been quiet for a while.
        SILENT_AFTER <= silent_for
            && self.latencies.percentile(99).map_or(SILENT_AFTER_UNKNOWN, |usual| {
                super::micros(usual).saturating_mul(SILENT_AFTER_ANSWERS).max(SILENT_AFTER)
            }) <= silent_for
    }

    pub(super) fn leased(&self, turn: u64) {
        self.last_leased.fetch_max(turn, Relaxed);
    }

    pub(super) fn give_back(&self) {
        self.held.fetch_sub(1, AcqRel);
    }

    /// Calls that it has to do: ours, and those of others as far as they are known.
    pub(super) fn load(&self, now: u64) -> u64 {
        let answered_at = self.answered_at.load(Relaxed);
        let is_fresh = answered_at != 0 && now <= answered_at + ANSWER_FRESH_FOR;
        let foreign = if is_fresh { &self.foreign } else { &self.gossiped };
        u64::from(self.held.load(Acquire)) + u64::from(foreign.load(Relaxed))
    }

    /// What it reports as a whole, less what of it is ours.
    fn of_others(&self, load: LoadReport) -> u32 {
        load.running.saturating_add(load.queued).saturating_sub(self.held.load(Acquire))
    }

    pub(super) fn gossiped(&self, load: LoadReport) {
        self.gossiped.store(self.of_others(load), Relaxed);
    }

    fn told(&self, load: LoadReport, now: u64) {
        self.foreign.store(self.of_others(load), Relaxed);
        self.answered_at.store(now, Relaxed);
    }

    pub(super) fn answered(&self, load: Option<LoadReport>, took: Duration, now: u64) {
        self.heard(now);
        self.latencies.add(took);
        match load {
            Some(load) => self.told(load, now),
            // A door does not tell its own load. That it answers is known all the same.
            None => self.answered_at.store(now, Relaxed),
        }
        self.full_until.store(0, Relaxed);
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.barred_until.store(0, Release);
        }
    }

    pub(super) fn heard(&self, now: u64) {
        self.calls_ended.fetch_add(1, Relaxed);
        self.heard_at.fetch_max(now, Relaxed);
    }

    pub(super) fn is_full(&self, load: Option<LoadReport>, now: u64, until: u64) {
        self.heard(now);
        if let Some(load) = load {
            self.told(load, now);
        }
        self.full_until.fetch_max(until, Relaxed);
    }

    pub(super) fn was_late(&self, taken_at: u64, now: u64, until: u64) {
        self.failed();
        let since = taken_at.max(self.heard_at.load(Relaxed));
        if since + SILENT_AFTER <= now {
            self.full_until.fetch_max(until, Relaxed);
        }
    }

    pub(super) fn failed(&self) {
        self.calls_ended.fetch_add(1, Relaxed);
        self.calls_failed.fetch_add(1, Relaxed);
    }

    /// Begins a bar, unless the call was leased before the last one began. Gives back the failures in a row.
    pub(super) fn begin_bar(&self, taken_at: u64, now: u64) -> Option<u32> {
        let barred_at = self.barred_at.load(Acquire);
        if taken_at <= barred_at {
            return None;
        }
        self.barred_at.compare_exchange(barred_at, now, AcqRel, Relaxed).ok()?;
        Some(self.failures.fetch_add(1, AcqRel).saturating_add(1))
    }

    pub(super) fn bar_until(&self, until: u64) {
        self.barred_until.store(until, Release);
    }

    /// Ends a bar early. The probation stays, and calls that were leased before now no longer bar.
    pub(super) fn unbar(&self, now: u64) {
        self.barred_at.fetch_max(now.saturating_sub(1), AcqRel);
        self.barred_until.store(0, Release);
        self.full_until.store(0, Relaxed);
    }

    /// Whether it gets no call now: barred, or the one call of its probation is under way.
    pub(super) fn rests(&self, now: u64) -> bool {
        now < self.barred_until() || (self.is_on_probation() && 0 < self.held.load(Acquire))
    }

    pub(super) fn is_on_probation(&self) -> bool {
        0 < self.failures.load(Acquire)
    }

    pub(super) fn barred_until(&self) -> u64 {
        self.barred_until.load(Acquire)
    }

    pub(super) fn counts_as_full(&self, now: u64) -> bool {
        now < self.full_until.load(Relaxed)
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered_at.load(Relaxed) != 0
    }

    pub(super) fn last_leased(&self) -> u64 {
        self.last_leased.load(Relaxed)
    }

    pub(super) fn statistics(&self, now: u64) -> PeerStatistics {
        let barred = self.barred_until().checked_sub(now).filter(|left| *left != 0);
        PeerStatistics {
            in_flight: self.held.load(Acquire),
            p95: self.latencies.percentile(95),
            calls: self.calls_ended.load(Relaxed),
            failures: self.calls_failed.load(Relaxed),
            barred_for: barred.map(Duration::from_micros),
        }
    }
}
