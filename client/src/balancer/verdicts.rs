//! Who does worse than the others, looked at once in a while: a review of all peers, off the path of nearly every call.
//!
//! | verdict | when | then |
//! |---|---|---|
//! | success rate | of at least 20 calls in ten seconds fewer went well than the setting says, and the median of the others is not below it | barred |
//! | latency | the 95th percentile is so many times the median of the others', in five rounds in a row | barred |
//!
//! Latencies are compared per peer and in terms of what is usual for the model of each call, over all peers: so a peer
//! that alone has a slow model is as quick as usual with it, and peers with different models can be compared. Whoever
//! says that it needs longer for a call than is typical may take so much longer, up to a bound: it gets less work for that,
//! and is no worse than it says.
//!
//! No verdict brings the peers that do not rest below half: then it is not the peer that is ill.

use std::sync::atomic::Ordering::Relaxed;

use lineside_wire::ModelName;

use super::{Balancer, Entry, Rest, models::AS_USUAL};
use crate::{Served, Serves};

/// Time between two reviews, in microseconds: a few of them in the time in which a person notices something.
const REVIEW_EVERY: u64 = 1_000_000;

/// Calls in the window without which a success rate says nothing.
const CALLS_MIN: u64 = 20;

/// The same for the others it is compared with: each counts little.
const CALLS_OF_OTHERS_MIN: u64 = 5;

/// Answers in a round without which a 95th percentile says nothing: below, it would be the slowest one.
const ANSWERS_MIN: u32 = 20;

/// Rounds in a row that a peer must be slow in; each takes a second at least. A burst is over sooner.
const SLOW_ROUNDS: u32 = 5;

/// How old a round of another peer may be, in microseconds, to compare with.
const ROUND_FRESH_FOR: u64 = 10_000_000;

/// So many times as long as is typical a peer may say that a call takes, and is excused: a small machine beside one with an
/// accelerator. Who says more would be excused for anything.
const EXCUSED_MAX: u64 = 64;

/// With only one other peer, nobody knows which of both is usual: then the difference must be so many times as large.
const ONE_OTHER_TIMES: u64 = 2;

impl Balancer {
    /// Reviews all peers, if it is time to and no other thread does.
    pub(super) fn review(&self, now: u64) {
        let last = self.reviewed_at.load(Relaxed);
        if now < last + REVIEW_EVERY
            || self.reviewed_at.compare_exchange(last, now, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let entries = self.entries.load();
        self.models.review(|model| entries.iter().any(|entry| serves(entry, model)));
        self.look_up_typical(&entries);
        let open: Vec<_> = entries.iter().filter(|entry| entry.candidate.is_open()).collect();
        let mut may_rest = open.len() / 2;
        may_rest = may_rest.saturating_sub(open.iter().filter(|entry| entry.peer.is_on_probation()).count());
        for (entry, rest) in self.unsuccessful(&open, now).into_iter().chain(self.slow(&open, now)) {
            if may_rest == 0 {
                return;
            }
            if !entry.peer.is_on_probation() {
                may_rest -= 1;
                self.bar(&entry.peer, rest, now, now);
            }
        }
    }

    /// Looks up the median of what peers say of the time that a call takes; of two in the middle the shorter one.
    pub(super) fn look_up_typical(&self, entries: &[Entry]) {
        let mut known: Vec<_> =
            entries.iter().map(|entry| entry.peer.call_us()).filter(|call_us| *call_us != 0).collect();
        known.sort_unstable();
        let typical = known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        self.typical_us.store(typical, Relaxed);
    }

    fn unsuccessful<'a>(&self, open: &[&'a Entry], now: u64) -> Vec<(&'a Entry, Rest)> {
        let wanted = u64::from(self.settings().eject_success_percent);
        if wanted == 0 {
            return Vec::new();
        }
        let counted = open.iter().map(|entry| (*entry, entry.peer.counted(now)));
        let counted: Vec<_> = counted.filter(|(_, counted)| CALLS_OF_OTHERS_MIN <= counted.calls()).collect();
        let mut rates: Vec<_> = counted.iter().map(|(_, counted)| counted.percent()).collect();
        rates.sort_unstable();
        let is_worse = |rate: u64| {
            rate < wanted && median_of_others(&rates, rate).is_some_and(|(median, _)| wanted <= median)
        };
        let worse = counted
            .into_iter()
            .filter(|(_, counted)| CALLS_MIN <= counted.calls() && is_worse(counted.percent()));
        worse.map(|(entry, _)| (entry, Rest::SuccessRate)).collect()
    }

    fn slow<'a>(&self, open: &[&'a Entry], now: u64) -> Vec<(&'a Entry, Rest)> {
        let times = u64::from(self.settings().eject_latency_times);
        if times == 0 {
            return Vec::new();
        }
        let ended: Vec<_> =
            open.iter().copied().filter(|entry| entry.peer.end_round(ANSWERS_MIN, now)).collect();
        let since = now.saturating_sub(ROUND_FRESH_FOR);
        let mut all: Vec<_> = open.iter().filter_map(|entry| entry.peer.slowness(since)).collect();
        all.sort_unstable();
        let typical = self.typical_us.load(Relaxed);
        let is_slow = |entry: &Entry| {
            let (Some(own), call_us) = (entry.peer.slowness(since), entry.peer.call_us()) else {
                return false;
            };
            let Some((median, others)) = median_of_others(&all, own) else { return false };
            let times = if others == 1 { times * ONE_OTHER_TIMES } else { times };
            let bound = times.saturating_mul(median.max(AS_USUAL));
            // As much longer as it says itself, where that can be.
            let bound = match typical {
                1.. if typical < call_us => {
                    bound.saturating_mul(call_us.min(typical.saturating_mul(EXCUSED_MAX))) / typical
                }
                _ => bound,
            };
            bound < own
        };
        let outliers = ended.into_iter().filter(|entry| SLOW_ROUNDS <= entry.peer.was_slow(is_slow(entry)));
        outliers.map(|entry| (entry, Rest::Latency)).collect()
    }
}

/// The median of all values but one that is `own`, the larger one of two, and how many they are. The values are sorted.
fn median_of_others(sorted: &[u64], own: u64) -> Option<(u64, usize)> {
    let at = sorted.partition_point(|value| *value < own);
    let others = sorted.len().checked_sub(1)?;
    let middle = others / 2;
    let middle = if middle < at { middle } else { middle + 1 };
    sorted.get(middle).map(|median| (*median, others))
}

fn serves(entry: &Entry, model: &ModelName) -> bool {
    match &entry.candidate.serves {
        Serves::Anything => true,
        Serves::Models(models) => models.iter().any(|Served { name, .. }| name == model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_others_leaves_oneself_out() {
        assert_eq!(median_of_others(&[], 3), None);
        assert_eq!(median_of_others(&[3], 3), None);
        assert_eq!(median_of_others(&[3, 9], 9), Some((3, 1)));
        assert_eq!(median_of_others(&[3, 9], 3), Some((9, 1)));
        assert_eq!(median_of_others(&[1, 1, 10], 10), Some((1, 2)));
        assert_eq!(median_of_others(&[1, 10, 10], 10), Some((10, 2)), "the larger of two");
        assert_eq!(median_of_others(&[1, 2, 3, 4], 4), Some((2, 3)));
    }
}
