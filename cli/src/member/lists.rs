//! Whom to ask for a trust list. Pure.
//!
//! Members tell in greetings and gossip which list they go by. One with a higher number is asked for it; a member with
//! the authority's key also asks for a different list of the same number, which a second holder of the key made.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use lineside_wire::{NodeId, TrustStamp};
use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

/// Members that are asked at one time: one that is silent must not hold up a revocation.
const ASKED_MAX: usize = 3;

/// How long one that is asked is waited for before another is asked, too. Usually one answers within a millisecond, and
/// a whole floor that asks at the same moment does not ask for three times what it needs.
const HEAD_START: Duration = Duration::from_millis(250);

/// A member that did not answer, or with nothing new, is asked again after this time; for the same list after twice as
/// long each time, up to [`LONG_REST`]. Who tells of a list that it does not have is asked seldom.
const REST: Duration = Duration::from_secs(1);

/// One whose list was not worth anything is asked again after this time: it says what is not so.
const LONG_REST: Duration = Duration::from_secs(60);

/// Different lists that are remembered as taken in, or as told to a person. Two holders of the key make two of one number.
const REMEMBERED_MAX: usize = 16;

/// A member that takes part, and the list that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
    pub(super) stamp: TrustStamp,
}

/// What a member's answer was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// Its list is in force now, or was merged.
    Taken,
    /// No answer, or nothing newer.
    Nothing,
    /// A list that nobody may trust.
    Bad,
}

/// The members that are being asked, and those that rest.
#[derive(Debug, Default)]
pub(super) struct Lists {
    asked: BTreeMap<NodeId, Asked>,
    resting: BTreeMap<NodeId, Rest>,
    merged: BTreeSet<TrustStamp>,
    refused: BTreeSet<TrustStamp>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    stamp: TrustStamp,
    at: Instant,
}

/// What came of the last answer of a member.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// What it told of.
    stamp: TrustStamp,
    failures: u32,
    /// When it may be asked for another list, and when for the same.
    other: Instant,
    same: Instant,
}

impl Rest {
    fn until(&self, stamp: TrustStamp) -> Instant {
        if stamp == self.stamp { self.same } else { self.other }
    }
}

impl Lists {
    /// The next member to ask, if there is one: at first one with the highest number, after that any. It counts as asked
    /// until [`Self::answered`].
    pub(super) fn next(
        &mut self,
        own: TrustStamp,
        merges: bool,
        seen: &[Seen],
        now: Instant,
        rng: &mut StdRng,
    ) -> Option<Seen> {
        self.resting.retain(|_, rest| now < rest.same + LONG_REST);
        if ASKED_MAX <= self.asked.len() {
            return None;
        }
        let differs = |stamp: &TrustStamp| {
            merges && stamp.number == own.number && stamp.hash != own.hash && !self.merged.contains(stamp)
        };
        // Nothing is told by number 0: no list is known there.
        let worth = |stamp: &TrustStamp| own.number < stamp.number || (stamp.number != 0 && differs(stamp));
        let rests =
            |seen: &Seen| self.resting.get(&seen.node).is_some_and(|rest| now < rest.until(seen.stamp));
        let wanted: Vec<&Seen> = seen
            .iter()
            .filter(|seen| worth(&seen.stamp) && !rests(seen) && !self.asked.contains_key(&seen.node))
            .collect();
        let highest = wanted.iter().map(|seen| seen.stamp.number).max()?;
        let as_high = |asked: &&Asked| highest <= asked.stamp.number;
        let chosen = match self.asked.values().filter(as_high).map(|asked| asked.at).max() {
            Some(last) if now < last + HEAD_START => return None,
            // Whoever says the highest number may say what is not so, and be many.
            Some(_) => *wanted[rng.random_range(0..wanted.len())],
            None => {
                let best: Vec<_> = wanted.iter().filter(|seen| seen.stamp.number == highest).collect();
                **best[rng.random_range(0..best.len())]
            }
        };
        self.asked.insert(chosen.node, Asked { stamp: chosen.stamp, at: now });
        Some(chosen)
    }

    /// Notes what the answer of a member that was asked was worth. True when a person should hear of it: the first
    /// time that this list is refused, whoever tells of it.
    pub(super) fn answered(&mut self, node: NodeId, worth: Worth, now: Instant) -> bool {
        let Some(Asked { stamp, .. }) = self.asked.remove(&node) else { return false };
        let before = self.resting.get(&node).filter(|rest| rest.stamp == stamp);
        let failures = before.map_or(0, |rest| rest.failures);
        let rest = |other: Duration, same: Duration| Rest {
            stamp,
            failures: failures.saturating_add(1),
            other: now + other,
            same: now + same,
        };
        match worth {
            Worth::Taken => {
                self.resting.remove(&node);
                remember(&mut self.merged, stamp);
                false
            }
            Worth::Nothing => {
                let same = REST.saturating_mul(1 << failures.min(16)).min(LONG_REST);
                self.resting.insert(node, rest(REST, same));
                false
            }
            Worth::Bad => {
                self.resting.insert(node, rest(LONG_REST, LONG_REST));
                remember(&mut self.refused, stamp)
            }
        }
    }

    /// When somebody else may be asked: a rest ends, or a head start.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let rests = self.resting.values().flat_map(|rest| [rest.other, rest.same]);
        let waited_for = self.asked.values().map(|asked| asked.at + HEAD_START);
        rests.chain(waited_for).filter(|at| now < *at).min()
    }
}

/// Whether the stamp is a new one.
fn remember(stamps: &mut BTreeSet<TrustStamp>, stamp: TrustStamp) -> bool {
    if REMEMBERED_MAX <= stamps.len() {
        stamps.clear();
    }
    stamps.insert(stamp)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    struct Floor {
        lists: Lists,
        own: TrustStamp,
        merges: bool,
        seen: Vec<Seen>,
        now: Instant,
        rng: StdRng,
    }

    const fn stamp(number: u64, hash: u64) -> TrustStamp {
        TrustStamp { number, hash }
    }

    impl Floor {
        /// Members 1, 2, … that go by these lists, seen by one that goes by 5.
        fn with(stamps: &[TrustStamp]) -> Self {
            let seen = stamps.iter().zip(1..).map(|(stamp, n)| Seen {
                node: NodeId::from_bytes([n; 16]),
                address: ([10, 0, 0, n], 7443).into(),
                stamp: *stamp,
            });
            Self {
                lists: Lists::default(),
                own: stamp(5, 50),
                merges: false,
                seen: seen.collect(),
                now: Instant::now(),
                rng: StdRng::seed_from_u64(3),
            }
        }

        /// Who is asked next, by the last number of its address.
        fn asks(&mut self) -> Option<u8> {
            let Self { lists, own, merges, seen, now, rng } = self;
            lists.next(*own, *merges, seen, *now, rng).map(|seen| seen.node.as_bytes()[0])
        }

        fn answered(&mut self, n: u8, worth: Worth) -> bool {
            self.lists.answered(NodeId::from_bytes([n; 16]), worth, self.now)
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }
    }

    #[test]
    fn the_member_with_the_highest_number_is_asked_and_nobody_with_an_old_list() {
        let mut floor = Floor::with(&[stamp(4, 1), stamp(6, 2), stamp(7, 3), stamp(5, 50)]);
        assert_eq!(floor.asks(), Some(3));
        floor.pass(HEAD_START);
        assert_eq!(floor.asks(), Some(2));
        floor.pass(HEAD_START);
        assert_eq!(floor.asks(), None);
        floor.answered(3, Worth::Taken);
        floor.answered(2, Worth::Nothing);
        floor.own = stamp(7, 3);
        assert_eq!((floor.asks(), floor.lists.asked.len()), (None, 0));
    }

    #[test]
    fn one_is_asked_at_a_time_and_another_when_it_takes_its_time() {
        let mut floor = Floor::with(&[stamp(6, 2); 9]);
        let mut asked = 0;
        for _ in 0..10 {
            asked += std::iter::from_fn(|| floor.asks()).count();
            if asked < ASKED_MAX {
                assert_eq!(floor.lists.next_wake(floor.now), Some(floor.now + HEAD_START));
            }
            floor.pass(HEAD_START);
        }
        assert_eq!(asked, ASKED_MAX);
    }

    #[test]
    fn a_newer_list_waits_for_nobody() {
        let mut floor = Floor::with(&[stamp(6, 2), stamp(6, 2)]);
        assert!(floor.asks().is_some() && floor.asks().is_none());
        let late = usize::from(floor.lists.asked.contains_key(&floor.seen[0].node));
        floor.seen[late].stamp = stamp(7, 3);
        assert!(floor.asks().is_some());
    }

    #[test]
    fn one_that_does_not_answer_rests_a_moment_and_one_that_lies_a_minute() {
        let mut floor = Floor::with(&[stamp(6, 2), stamp(9, 3)]);
        assert_eq!(floor.asks(), Some(2));
        floor.pass(HEAD_START);
        assert_eq!(floor.asks(), Some(1));
        floor.answered(2, Worth::Bad);
        floor.answered(1, Worth::Nothing);
        assert_eq!(floor.asks(), None);
        assert_eq!(floor.lists.next_wake(floor.now), Some(floor.now + REST));
        floor.pass(REST);
        assert_eq!((floor.asks(), floor.asks()), (Some(1), None));
        floor.answered(1, Worth::Nothing);
        floor.pass(LONG_REST);
        assert_eq!(floor.asks(), Some(2));
    }

    #[test]
    fn who_tells_of_a_list_that_it_does_not_have_is_asked_seldom_and_for_the_next_one_soon() {
        let mut floor = Floor::with(&[stamp(u64::MAX, 2)]);
        let start = floor.now;
        let mut asked = Vec::new();
        while floor.now < start + Duration::from_secs(300) {
            if floor.asks().is_some() {
                asked.push((floor.now - start).as_secs());
                assert!(!floor.answered(1, Worth::Nothing), "nothing is wrong with no answer");
            }
            floor.pass(REST);
        }
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        floor.seen[0].stamp = stamp(6, 6);
        assert_eq!(floor.asks(), Some(1));
    }

    #[test]
    fn those_who_lie_do_not_keep_the_honest_from_being_asked() {
        // Seven say the highest number and are silent; one has the next list.
        let mut stamps = [stamp(u64::MAX, 2); 8];
        stamps[7] = stamp(6, 6);
        let mut floor = Floor::with(&stamps);
        let (start, mut open) = (floor.now, Vec::new());
        let found = loop {
            while let Some(n) = floor.asks() {
                open.push((n, floor.now));
            }
            if open.iter().any(|(n, _)| *n == 8) {
                break floor.now - start;
            }
            let (now, within) = (floor.now, Duration::from_secs(2));
            for (n, _) in open.extract_if(.., |(_, at)| *at + within <= now) {
                floor.answered(n, Worth::Nothing);
            }
            floor.pass(HEAD_START);
        };
        assert!(found < Duration::from_secs(30), "{found:?}");
    }

    #[test]
    fn a_list_that_is_refused_is_told_once_whoever_has_it() {
        let mut floor = Floor::with(&[stamp(6, 2), stamp(6, 2)]);
        for first in [true, false] {
            let n = floor.asks().expect("it was not asked yet");
            assert_eq!(floor.answered(n, Worth::Bad), first);
        }
    }

    #[test]
    fn another_list_of_the_same_number_concerns_a_holder_of_the_key_alone_and_once() {
        let mut floor = Floor::with(&[stamp(5, 51)]);
        assert_eq!(floor.asks(), None);
        floor.merges = true;
        assert_eq!(floor.asks(), Some(1));
        floor.answered(1, Worth::Taken);
        assert_eq!(floor.asks(), None);
        floor.seen[0].stamp = stamp(5, 52);
        assert_eq!(floor.asks(), Some(1));
    }

    #[test]
    fn a_member_without_a_list_is_not_asked_for_one() {
        let mut floor = Floor::with(&[stamp(0, 7)]);
        (floor.own, floor.merges) = (stamp(0, 0), true);
        assert_eq!(floor.asks(), None);
    }
}
