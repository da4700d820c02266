//! How far the clocks of other members are from this one's, and when a person is told. Nothing is decided by it.
//!
//! Measured at each greeting, and again while one is far off (`clocks`): what a network adds to that is far below what
//! would matter.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lineside_discovery::MEMBERS_MAX;
use lineside_wire::NodeId;

/// From how much on a person is told. Certificates are backdated by an hour, so nothing fails yet.
pub(crate) const CLOCK_APART_MAX: Duration = Duration::from_secs(5 * 60);

/// Within how much a clock counts as set right, so that it is told again when it goes wrong again. Less than
/// [`CLOCK_APART_MAX`]: one that is just that far off would be told at every greeting.
const CLOCK_RIGHT_MAX: Duration = Duration::from_secs(4 * 60);

/// What a person is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Apart {
    /// The clock of this member is so many milliseconds ahead.
    Theirs(i64),
    /// Most members agree that this machine's clock is wrong: theirs are so many milliseconds ahead.
    Ours(i64),
}

/// The clocks of the members that were met.
#[derive(Debug, Default)]
pub(super) struct Skews(Mutex<Clocks>);

#[derive(Debug, Default)]
struct Clocks {
    met: BTreeMap<NodeId, Met>,
    /// Greetings so far.
    greetings: u64,
    told_ours: bool,
    /// Ours is known to be wrong, and was told at the start: nothing about clocks is news.
    ours_is_wrong: bool,
}

#[derive(Debug)]
struct Met {
    ahead_ms: i64,
    told: bool,
    /// The number of its last greeting.
    greeting: u64,
}

impl Skews {
    /// `ours_is_wrong` when people were told already that this machine's clock is wrong: that once is enough.
    pub(super) fn new(ours_is_wrong: bool) -> Self {
        Self(Mutex::new(Clocks { ours_is_wrong, ..Clocks::default() }))
    }

    /// Notes what a member's clock said when ours said `own_ms` (both since 1970); says so when a person has to know.
    pub(super) fn met(&self, node: NodeId, clock_ms: u64, own_ms: u64) -> Option<Apart> {
        if clock_ms == 0 {
            return None;
        }
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let ahead_ms = signed(clock_ms).saturating_sub(signed(own_ms));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(node, ahead_ms)
    }

    /// Members whose clocks were far off when we last heard of them.
    pub(super) fn apart(&self) -> Vec<NodeId> {
        let clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.met.iter().filter(|(_, met)| is_apart(met.ahead_ms)).map(|(node, _)| *node).collect()
    }

    /// How far the member's clock was ahead of ours when it was last met, in milliseconds.
    pub(super) fn of(&self, node: NodeId) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).met.get(&node).map(|met| met.ahead_ms)
    }
}

impl Clocks {
    fn note(&mut self, node: NodeId, ahead_ms: i64) -> Option<Apart> {
        // As many as a cluster has members: beyond that, the one that was not met for longest has most likely gone.
        if self.met.len() == MEMBERS_MAX && !self.met.contains_key(&node) {
            let oldest = self.met.iter().min_by_key(|(_, met)| met.greeting).map(|(node, _)| *node);
            oldest.and_then(|oldest| self.met.remove(&oldest));
        }
        self.greetings += 1;
        let met = self.met.entry(node).or_insert(Met { ahead_ms, told: false, greeting: 0 });
        (met.ahead_ms, met.greeting) = (ahead_ms, self.greetings);
        if is_within(ahead_ms, CLOCK_RIGHT_MAX) {
            met.told = false;
        }
        if self.ours_is_wrong {
            return None;
        }
        if let Some(ours) = self.ours() {
            let first = !std::mem::replace(&mut self.told_ours, true);
            return first.then_some(Apart::Ours(ours));
        }
        self.told_ours = false;
        let met = self.met.get_mut(&node)?;
        let first = is_apart(ahead_ms) && !std::mem::replace(&mut met.told, true);
        first.then_some(Apart::Theirs(ahead_ms))
    }

    /// The middle of what the others say, when most of at least two are on the same side of us, and far.
    fn ours(&self) -> Option<i64> {
        let mut apart: Vec<i64> =
            self.met.values().map(|met| met.ahead_ms).filter(|ms| is_apart(*ms)).collect();
        apart.sort_unstable();
        let ahead = apart.iter().filter(|ms| 0 < **ms).count();
        let most = ahead.max(apart.len() - ahead);
        let middle = if ahead == most { apart.len() - most + most / 2 } else { most / 2 };
        (2 <= most && self.met.len() < 2 * most).then(|| apart[middle])
    }
}

/// Whether a clock is so far off that a person has to know.
pub(crate) fn is_apart(ahead_ms: i64) -> bool {
    !is_within(ahead_ms, CLOCK_APART_MAX)
}

fn is_within(ahead_ms: i64, most: Duration) -> bool {
    u128::from(ahead_ms.unsigned_abs()) <= most.as_millis()
}

/// This machine's clock in milliseconds since 1970; never 0, which says nothing.
pub(super) fn clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOON: u64 = 1_000 * HOUR;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    #[test]
    fn a_member_whose_clock_is_far_off_is_told_once_and_its_neighbour_is_not() {
        let skews = Skews::default();
        assert_eq!(skews.met(node(1), NOON + 300_000, NOON), None);
        assert_eq!(skews.met(node(2), NOON + 300_001, NOON), Some(Apart::Theirs(300_001)));
        assert_eq!(skews.met(node(2), NOON + HOUR, NOON), None);
        assert_eq!((skews.of(node(2)), skews.of(node(3))), (Some(3_600_000), None));
        assert_eq!(skews.apart(), [node(2)]);
    }

    #[test]
    fn a_clock_that_was_set_right_is_told_again_when_it_goes_wrong_again() {
        let skews = Skews::default();
        assert!(skews.met(node(1), NOON - HOUR, NOON).is_some());
        assert!(skews.met(node(1), NOON, NOON).is_none());
        assert_eq!(skews.met(node(1), NOON - HOUR, NOON), Some(Apart::Theirs(-3_600_000)));
    }

    #[test]
    fn a_clock_that_is_just_so_far_off_is_not_told_at_every_greeting() {
        let skews = Skews::default();
        let told = (0..100).filter(|n| skews.met(node(1), NOON + 299_990 + (n % 2) * 20, NOON).is_some());
        assert_eq!(told.count(), 1);
    }

    #[test]
    fn when_most_members_disagree_it_is_our_clock_that_is_wrong() {
        let skews = Skews::default();
        assert_eq!(skews.met(node(1), NOON + HOUR, NOON), Some(Apart::Theirs(3_600_000)));
        assert_eq!(skews.met(node(2), NOON + 2 * HOUR, NOON), Some(Apart::Ours(7_200_000)));
        assert_eq!(skews.met(node(3), NOON + 2 * HOUR, NOON), None);
    }

    #[test]
    fn two_that_are_wrong_on_different_sides_are_wrong_themselves() {
        let skews = Skews::default();
        assert_eq!(skews.met(node(1), NOON + HOUR, NOON), Some(Apart::Theirs(3_600_000)));
        assert_eq!(skews.met(node(2), NOON - HOUR, NOON), Some(Apart::Theirs(-3_600_000)));
    }

    #[test]
    fn a_machine_that_has_said_that_its_clock_is_wrong_does_not_repeat_it() {
        let skews = Skews::new(true);
        assert_eq!(skews.met(node(1), NOON, 60_000), None);
        assert_eq!(skews.of(node(1)), Some(3_600_000 * 1_000 - 60_000));
    }

    #[test]
    fn a_peer_that_does_not_tell_its_time_is_not_judged() {
        assert_eq!(Skews::default().met(node(1), 0, NOON), None);
    }

    #[test]
    fn ids_without_end_take_no_memory_without_end() {
        let skews = Skews::default();
        for n in 0..=u32::try_from(MEMBERS_MAX).unwrap() {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            skews.met(NodeId::from_bytes(id), NOON, NOON);
        }
        assert_eq!(skews.0.lock().unwrap().met.len(), MEMBERS_MAX);
        // Who was met last is known, and told of; the first one is forgotten.
        assert!(skews.of(NodeId::from_bytes([0; 16])).is_none());
        assert!(skews.met(node(9), NOON + HOUR, NOON).is_some() && skews.of(node(9)).is_some());
    }
}
