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

/// A member that did not answer, or with nothing new, is asked again after this time.
const REST: Duration = Duration::from_secs(1);

/// One whose list was not worth anything is asked again after this time: it says what is not so.
const LONG_REST: Duration = Duration::from_secs(60);

/// Different lists of the same number that are remembered as taken in. Two holders make two of them.
const MERGED_MAX: usize = 16;

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
    asked: BTreeMap<NodeId, TrustStamp>,
    resting: BTreeMap<NodeId, Instant>,
    merged: BTreeSet<TrustStamp>,
}

impl Lists {
    /// The next member to ask, if there is one: of those with the highest number one at random. It counts as asked
    /// until [`Self::answered`].
    pub(super) fn next(
        &mut self,
        own: TrustStamp,
        merges: bool,
        seen: &[Seen],
        now: Instant,
        rng: &mut StdRng,
    ) -> Option<Seen> {
        self.resting.retain(|_, until| now < *until);
        if ASKED_MAX <= self.asked.len() {
            return None;
        }
        let differs = |stamp: &TrustStamp| {
            merges && stamp.number == own.number && stamp.hash != own.hash && !self.merged.contains(stamp)
        };
        // Nothing is told by number 0: no list is known there.
        let worth = |stamp: &TrustStamp| own.number < stamp.number || (stamp.number != 0 && differs(stamp));
        let wanted: Vec<&Seen> = seen
            .iter()
            .filter(|seen| worth(&seen.stamp) && !self.resting.contains_key(&seen.node))
            .filter(|seen| !self.asked.contains_key(&seen.node))
            .collect();
        let highest = wanted.iter().map(|seen| seen.stamp.number).max()?;
        let best: Vec<_> = wanted.iter().filter(|seen| seen.stamp.number == highest).collect();
        let chosen = **best[rng.random_range(0..best.len())];
        self.asked.insert(chosen.node, chosen.stamp);
        Some(chosen)
    }

    /// Notes what the answer of a member that was asked was worth.
    pub(super) fn answered(&mut self, node: NodeId, worth: Worth, now: Instant) {
        let told = self.asked.remove(&node);
        match worth {
            Worth::Taken => {
                if MERGED_MAX <= self.merged.len() {
                    self.merged.clear();
                }
                self.merged.extend(told);
            }
            Worth::Nothing => {
                self.resting.insert(node, now + REST);
            }
            Worth::Bad => {
                self.resting.insert(node, now + LONG_REST);
            }
        }
    }

    /// When somebody's rest ends.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.resting.values().min().copied()
    }
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

        fn answered(&mut self, n: u8, worth: Worth) {
            self.lists.answered(NodeId::from_bytes([n; 16]), worth, self.now);
        }
    }

    #[test]
    fn the_member_with_the_highest_number_is_asked_and_nobody_with_an_old_list() {
        let mut floor = Floor::with(&[stamp(4, 1), stamp(6, 2), stamp(7, 3), stamp(5, 50)]);
        assert_eq!(floor.asks(), Some(3));
        assert_eq!(floor.asks(), Some(2));
        assert_eq!(floor.asks(), None);
        floor.answered(3, Worth::Taken);
        floor.answered(2, Worth::Nothing);
        floor.own = stamp(7, 3);
        assert_eq!((floor.asks(), floor.lists.asked.len()), (None, 0));
    }

    #[test]
    fn one_that_does_not_answer_rests_a_moment_and_one_that_lies_a_minute() {
        let mut floor = Floor::with(&[stamp(6, 2), stamp(9, 3)]);
        assert_eq!((floor.asks(), floor.asks()), (Some(2), Some(1)));
        floor.answered(2, Worth::Bad);
        floor.answered(1, Worth::Nothing);
        assert_eq!(floor.asks(), None);
        assert_eq!(floor.lists.next_wake(), Some(floor.now + REST));
        floor.now += REST;
        assert_eq!((floor.asks(), floor.asks()), (Some(1), None));
        floor.answered(1, Worth::Nothing);
        floor.now += LONG_REST;
        assert_eq!(floor.asks(), Some(2));
    }

    #[test]
    fn a_few_are_asked_at_one_time() {
        let mut floor = Floor::with(&[stamp(6, 2); 9]);
        let asked = std::iter::from_fn(|| floor.asks()).count();
        assert_eq!(asked, ASKED_MAX);
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
