//! What the balancer knows of one peer: counters that any thread may change. Times are microseconds since the
//! balancer's start; 0 is "never".

use std::{
    sync::atomic::{
        AtomicBool, AtomicU8, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use lineside_wire::LoadReport;

use super::{
    PeerStatistics, Rest,
    window::{Counted, Window},
};
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

/// What a peer gets of its share when its slow start begins, in percent: enough to warm up, too little to hurt.
const SLOW_START_FROM: u64 = 10;

/// A peer that has worked for so many times as long as its last bar is forgiven: the next bar is a first one again. One
/// that keeps failing soon after it came back rests for longer each time.
const FORGIVEN_AFTER: u64 = 4;

/// Longest time of one call that is believed, in microseconds. Longer ones make no difference, and no overflow.
pub(super) const CALL_US_MAX: u32 = 60_000_000;

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
    /// Calls that it takes at once; 0 while it did not say.
    limit: AtomicU32,
    /// Time of one call on one of its slots; 0 while it did not say.
    call_us: AtomicU32,
    /// Its fourth root: that takes too long to be looked up at each lease.
    call_root: AtomicU32,
    full_until: AtomicU64,
    /// When it said last that it is full.
    busy_at: AtomicU64,
    /// When a call to it was found to be without a sign of life last.
    stalled_at: AtomicU64,
    /// Own failed calls since the last that went well.
    failed_in_row: AtomicU32,
    /// Barred, and not yet answered since.
    on_probation: AtomicBool,
    /// Bars in a row.
    strikes: AtomicU32,
    barred_at: AtomicU64,
    barred_until: AtomicU64,
    /// How long the last bar was.
    barred_for: AtomicU64,
    /// When it answered after its last bar.
    returned_at: AtomicU64,
    /// Why it was barred last, as a number of [`Rest::ALL`].
    rest: AtomicU8,
    ejections: [AtomicU64; Rest::ALL.len()],
    /// When its slow start began.
    slow_since: AtomicU64,
    /// When its last turn ends.
    turn_ends: AtomicU64,
    last_leased: AtomicU64,
    calls_ended: AtomicU64,
    calls_failed: AtomicU64,
    latencies: Latencies,
    window: Window,
    /// How long its answers took beside what is usual for their models, in thousandths, since the last round.
    slowness: Latencies,
    /// Its 95th percentile in the last round.
    slowness_p95: AtomicU64,
    slowness_at: AtomicU64,
    /// Rounds in a row in which it was far slower than its peers.
    slow_rounds: AtomicU32,
}

/// How a call ended that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) load: Option<LoadReport>,
    pub(super) took: Duration,
    /// How long it took beside what is usual for its model, where that is known.
    pub(super) slowness: Option<u64>,
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
        SILENT_AFTER <= silent_for && self.patience(None) <= silent_for
    }

    /// How long it may take before that is its fault. `usual` is the 99th percentile of the call's model, where known.
    fn patience(&self, usual: Option<Duration>) -> u64 {
        usual.map(super::micros).or_else(|| self.latencies.p99_us()).map_or(SILENT_AFTER_UNKNOWN, |usual| {
            usual.saturating_mul(SILENT_AFTER_ANSWERS).max(SILENT_AFTER)
        })
    }

    /// When it gave any sign; 0 is never.
    pub(super) fn heard_at(&self) -> u64 {
        self.heard_at.load(Relaxed)
    }

    pub(super) fn leased(&self, turn: u64) {
        self.last_leased.fetch_max(turn, Relaxed);
    }

    pub(super) fn give_back(&self) {
        self.held.fetch_sub(1, AcqRel);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held.load(Acquire) == 0
    }

    /// Calls that it has to do: ours, and those of others as far as they are known.
    pub(super) fn load(&self, now: u64) -> u64 {
        let foreign = if self.is_answer_fresh(now) { &self.foreign } else { &self.gossiped };
        u64::from(self.held.load(Acquire)) + u64::from(foreign.load(Relaxed))
    }

    fn is_answer_fresh(&self, now: u64) -> bool {
        let answered_at = self.answered_at.load(Relaxed);
        answered_at != 0 && now <= answered_at + ANSWER_FRESH_FOR
    }

    /// Time of one call on one of its slots, in microseconds; 0 while it did not say.
    pub(super) fn call_us(&self) -> u64 {
        self.call_us.load(Relaxed).into()
    }

    pub(super) fn call_root(&self) -> u64 {
        self.call_root.load(Relaxed).into()
    }

    /// What it reports as a whole, less what of it is ours.
    fn of_others(&self, load: LoadReport) -> u32 {
        load.running.saturating_add(load.queued).saturating_sub(self.held.load(Acquire))
    }

    pub(super) fn gossiped(&self, load: LoadReport, now: u64) {
        self.gossiped.store(self.of_others(load), Relaxed);
        if !self.is_answer_fresh(now) {
            self.describes_itself(load);
        }
    }

    fn told(&self, load: LoadReport, now: u64) {
        self.foreign.store(self.of_others(load), Relaxed);
        self.describes_itself(load);
        self.answered_at.store(now, Relaxed);
    }

    fn describes_itself(&self, load: LoadReport) {
        self.limit.store(load.limit, Relaxed);
        // Who forgets how long a call takes has not become faster.
        let call_us = load.call_us.min(CALL_US_MAX);
        if call_us != 0 && call_us != self.call_us.swap(call_us, Relaxed) {
            let root = u32::try_from(super::choose::fourth_root(call_us.into())).unwrap_or(u32::MAX);
            self.call_root.store(root, Relaxed);
        }
    }

    /// Learns from an answer. One to a call that was leased before the last bar says nothing about how it is now.
    pub(super) fn answered(&self, answer: Answer, taken_at: u64, now: u64) {
        self.heard(now);
        self.window.add(true, now);
        self.latencies.add(answer.took);
        if let Some(slowness) = answer.slowness {
            self.slowness.add(Duration::from_micros(slowness));
        }
        match answer.load {
            Some(load) => self.told(load, now),
            // A door does not tell its own load. That it answers is known all the same.
            None => self.answered_at.store(now, Relaxed),
        }
        self.full_until.store(0, Relaxed);
        if self.failed_in_row.load(Relaxed) != 0 {
            self.failed_in_row.store(0, Relaxed);
        }
        if self.is_on_probation() && self.barred_at.load(Acquire) < taken_at {
            self.returned_at.store(now, Relaxed);
            self.slow_since.store(now, Relaxed);
            self.barred_until.store(0, Release);
            self.on_probation.store(false, Release);
            // What it has rested for is not held against it once more.
            self.window.clear();
        }
    }

    pub(super) fn heard(&self, now: u64) {
        self.calls_ended.fetch_add(1, Relaxed);
        self.heard_at.fetch_max(now, Relaxed);
    }

    pub(super) fn is_full(&self, load: Option<LoadReport>, now: u64, until: u64) {
        self.heard(now);
        self.busy_at.fetch_max(now, Relaxed);
        if let Some(load) = load {
            self.told(load, now);
        }
        self.full_until.fetch_max(until, Relaxed);
    }

    /// Whether it said not longer than `within` microseconds ago that it is full.
    pub(super) fn was_busy(&self, within: u64, now: u64) -> bool {
        let busy_at = self.busy_at.load(Relaxed);
        busy_at != 0 && now <= busy_at + within
    }

    /// Learns that a call gets no sign of life from it.
    pub(super) fn stalled(&self, now: u64, until: u64) {
        self.stalled_at.fetch_max(now, Relaxed);
        self.full_until.fetch_max(until, Relaxed);
    }

    /// When a call was last seen to get no sign of life from it; 0 is never.
    pub(super) fn stalled_at(&self) -> u64 {
        self.stalled_at.load(Relaxed)
    }

    /// Learns that a caller gave up. `usual` is the 99th percentile of the call's model. Gives back the failures in a
    /// row, where it was the peer's fault and not the caller's impatience.
    pub(super) fn was_late(
        &self,
        usual: Option<Duration>,
        taken_at: u64,
        now: u64,
        until: u64,
    ) -> Option<u32> {
        self.calls_ended.fetch_add(1, Relaxed);
        let heard_at = self.heard_at.load(Relaxed);
        if taken_at.max(heard_at) + SILENT_AFTER <= now {
            self.full_until.fetch_max(until, Relaxed);
        }
        if !self.is_overdue(usual, taken_at, now) {
            return None;
        }
        self.went_badly(taken_at, now);
        // One that answers others meanwhile is slow. One that does not may be stuck.
        (heard_at <= taken_at).then(|| self.failed_again(taken_at))
    }

    /// Whether a call takes much longer than is usual. `usual` is the 99th percentile of its model, where known.
    pub(super) fn is_overdue(&self, usual: Option<Duration>, taken_at: u64, now: u64) -> bool {
        self.patience(usual) <= now.saturating_sub(taken_at)
    }

    /// Counts one more failure in a row, and gives back how many they are; none where the call says nothing of the peer as
    /// it is now.
    fn failed_again(&self, taken_at: u64) -> u32 {
        match self.is_of_now(taken_at) {
            true => self.failed_in_row.fetch_add(1, AcqRel).saturating_add(1),
            false => 0,
        }
    }

    /// Whether a call was leased after the last bar, and of this process, not of one before it.
    fn is_of_now(&self, taken_at: u64) -> bool {
        self.barred_at.load(Acquire) < taken_at
    }

    /// Counts a call that the caller got nothing from.
    pub(super) fn failed(&self) {
        self.calls_failed.fetch_add(1, Relaxed);
    }

    /// Counts a call that broke.
    pub(super) fn broke(&self, taken_at: u64, now: u64) {
        self.calls_ended.fetch_add(1, Relaxed);
        self.failed();
        self.went_badly(taken_at, now);
    }

    /// Counts against its success rate, where the call says something of the peer as it is now.
    fn went_badly(&self, taken_at: u64, now: u64) {
        if self.is_of_now(taken_at) {
            self.window.add(false, now);
        }
    }

    /// Counts a call that it answered with an error of its own. Gives back the failures in a row.
    pub(super) fn erred(&self, taken_at: u64, now: u64) -> u32 {
        self.heard(now);
        self.failed();
        self.went_badly(taken_at, now);
        self.failed_again(taken_at)
    }

    /// Begins a bar, unless the call was leased before the last one began. Gives back the bars in a row.
    pub(super) fn begin_bar(&self, rest: Rest, taken_at: u64, now: u64) -> Option<u32> {
        let barred_at = self.barred_at.load(Acquire);
        if taken_at <= barred_at {
            return None;
        }
        self.barred_at.compare_exchange(barred_at, now, AcqRel, Relaxed).ok()?;
        let returned_at = self.returned_at.load(Relaxed);
        let worked_for = now.saturating_sub(returned_at);
        if barred_at <= returned_at && FORGIVEN_AFTER * self.barred_for.load(Relaxed) <= worked_for {
            self.strikes.store(0, Relaxed);
        }
        self.rest.store(rest as u8, Relaxed);
        self.ejections[rest as usize].fetch_add(1, Relaxed);
        self.failed_in_row.store(0, Relaxed);
        self.slow_rounds.store(0, Relaxed);
        self.on_probation.store(true, Release);
        Some(self.strikes.fetch_add(1, AcqRel).saturating_add(1))
    }

    pub(super) fn bar_until(&self, until: u64, now: u64) {
        self.barred_for.store(until.saturating_sub(now), Relaxed);
        self.barred_until.store(until, Release);
    }

    /// Ends a bar early. The probation stays, and calls that were leased before now no longer bar.
    pub(super) fn unbar(&self, now: u64) {
        self.barred_at.fetch_max(now.saturating_sub(1), AcqRel);
        self.barred_until.store(0, Release);
        self.full_until.store(0, Relaxed);
    }

    /// Another process has taken its place: what the old one did is forgotten, but for a probation.
    pub(super) fn begins_anew(&self) {
        self.strikes.store(0, Relaxed);
        self.failed_in_row.store(0, Relaxed);
        self.slow_rounds.store(0, Relaxed);
        self.slowness_at.store(0, Relaxed);
        self.window.clear();
    }

    pub(super) fn starts_slowly(&self, now: u64) {
        self.slow_since.store(now, Relaxed);
    }

    /// What it gets of its share now, in percent, when a slow start takes so many microseconds.
    pub(super) fn slow_start(&self, slow_start: u64, now: u64) -> u64 {
        let since = self.slow_since.load(Relaxed);
        let passed = now.saturating_sub(since);
        if since == 0 || slow_start <= passed {
            return 100;
        }
        SLOW_START_FROM + (100 - SLOW_START_FROM) * passed / slow_start
    }

    /// Whether it gets no call now: barred, or the one call of its probation is under way.
    pub(super) fn rests(&self, now: u64) -> bool {
        self.is_barred(now) || (self.is_on_probation() && !self.is_idle())
    }

    pub(super) fn is_barred(&self, now: u64) -> bool {
        now < self.barred_until()
    }

    pub(super) fn is_on_probation(&self) -> bool {
        self.on_probation.load(Acquire)
    }

    pub(super) fn barred_at(&self) -> u64 {
        self.barred_at.load(Acquire)
    }

    pub(super) fn barred_until(&self) -> u64 {
        self.barred_until.load(Acquire)
    }

    /// Why it was barred last.
    pub(super) fn rest(&self) -> Rest {
        Rest::ALL[usize::from(self.rest.load(Relaxed)) % Rest::ALL.len()]
    }

    /// Whether it said that it is full a moment ago, or has as many calls as it takes.
    pub(super) fn counts_as_full(&self, now: u64) -> bool {
        let limit = u64::from(self.limit.load(Relaxed));
        now < self.full_until.load(Relaxed) || (limit != 0 && limit <= self.load(now))
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered_at.load(Relaxed) != 0
    }

    pub(super) fn last_leased(&self) -> u64 {
        self.last_leased.load(Relaxed)
    }

    pub(super) fn turn_ends(&self) -> u64 {
        self.turn_ends.load(Relaxed)
    }

    pub(super) fn has_turn_until(&self, end: u64) {
        self.turn_ends.fetch_max(end, Relaxed);
    }

    pub(super) fn owes_no_turn(&self) {
        self.turn_ends.store(0, Relaxed);
    }

    pub(super) fn usual(&self, percent: u64) -> Option<Duration> {
        self.latencies.percentile(percent)
    }

    pub(super) fn counted(&self, now: u64) -> Counted {
        self.window.counted(now)
    }

    /// Ends a round in which the answers were compared with what is usual, when there were enough of them. Gives back
    /// whether it was one.
    pub(super) fn end_round(&self, answers_min: u32, now: u64) -> bool {
        if self.slowness.count() < answers_min {
            return false;
        }
        let Some(p95) = self.slowness.percentile(95) else { return false };
        self.slowness.clear();
        self.slowness_p95.store(super::micros(p95), Relaxed);
        self.slowness_at.store(now, Relaxed);
        true
    }

    /// How slow it was in its last round, if that ended after `since`.
    pub(super) fn slowness(&self, since: u64) -> Option<u64> {
        let at = self.slowness_at.load(Relaxed);
        (at != 0 && since <= at).then(|| self.slowness_p95.load(Relaxed))
    }

    /// Notes how a round ended. Gives back how many in a row were slow.
    pub(super) fn was_slow(&self, is_slow: bool) -> u32 {
        match is_slow {
            true => self.slow_rounds.fetch_add(1, Relaxed).saturating_add(1),
            false => {
                self.slow_rounds.store(0, Relaxed);
                0
            }
        }
    }

    /// What a person is shown. `slow_start` in microseconds; the share is of all peers, so not known here.
    pub(super) fn statistics(&self, slow_start: u64, now: u64) -> PeerStatistics {
        let barred = self.barred_until().checked_sub(now).filter(|left| *left != 0);
        let slow_start = u8::try_from(self.slow_start(slow_start, now)).ok();
        let heard_at = Some(self.heard_at.load(Relaxed)).filter(|at| *at != 0);
        PeerStatistics {
            heard_ago: heard_at.map(|at| Duration::from_micros(now.saturating_sub(at))),
            in_flight: self.held.load(Acquire),
            p95: self.latencies.percentile(95),
            calls: self.calls_ended.load(Relaxed),
            failures: self.calls_failed.load(Relaxed),
            share: 0,
            barred_for: barred.map(Duration::from_micros),
            rests: self.is_on_probation().then(|| self.rest()),
            ejections: self.ejections.each_ref().map(|count| count.load(Relaxed)),
            slow_start: slow_start.filter(|percent| *percent < 100),
        }
    }
}
