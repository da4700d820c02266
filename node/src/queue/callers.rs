//! Who waits: how many calls of each caller, so that a flood of one does not keep the others out.
//!
//! A caller is a member or a client that calls this node: most often a gateway, behind which its own rules share its
//! places between its clients. Counters in a table of fixed size, without a lock. Two callers whose ids begin alike are
//! counted as one, which costs them a part of their share and nobody else anything.
//!
//! Places are shared, not turns: while there is room everybody may take it, and when there is none a caller who has less
//! than its share gets the place of the newest call of whoever has the most. What waits runs by priority and deadline,
//! whoever sent it; who has its share of the places has its share of the runs.

use std::sync::atomic::{AtomicUsize, Ordering};

use lineside_wire::NodeId;

/// Callers that are told apart; a cluster has 256 members.
const CALLERS: usize = 256;

/// A caller's place in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller(u8);

#[cfg(test)]
impl Caller {
    pub(crate) const ONE: Self = Self(1);
    pub(crate) const OTHER: Self = Self(2);
    pub(crate) const THIRD: Self = Self(3);
}

impl From<NodeId> for Caller {
    fn from(node: NodeId) -> Self {
        // Ids are random, and given by the authority: nobody chooses in whose place it is.
        Self(node.as_bytes()[0])
    }
}

/// The waiting calls of each caller.
#[derive(Debug)]
pub(super) struct Callers {
    waiting: Box<[AtomicUsize]>,
    /// Callers with at least one.
    active: AtomicUsize,
}

impl Callers {
    pub(super) fn new() -> Self {
        Self { waiting: (0..CALLERS).map(|_| AtomicUsize::new(0)).collect(), active: AtomicUsize::new(0) }
    }

    /// One more call of this caller waits.
    pub(super) fn enter(&self, caller: Caller) {
        if self.waiting[usize::from(caller.0)].fetch_add(1, Ordering::AcqRel) == 0 {
            self.active.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// One less.
    pub(super) fn leave(&self, caller: Caller) {
        if self.waiting[usize::from(caller.0)].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.active.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Who is to give a place up for this caller, of so many: whoever has the most, if that is more than its share and
    /// this caller has less than its own.
    pub(super) fn greediest(&self, caller: Caller, places: usize) -> Option<Caller> {
        let own = self.of(caller);
        let active = self.active.load(Ordering::Acquire) + usize::from(own == 0);
        let share = (places / active.max(1)).max(1);
        if share <= own {
            return None;
        }
        let others = (0..=u8::MAX).map(Caller).filter(|other| *other != caller);
        others.map(|other| (self.of(other), other)).max_by_key(|(count, _)| *count).and_then(
            // One that would have less than this caller afterwards would only take the place back.
            |(count, other)| (share < count && own + 1 < count).then_some(other),
        )
    }

    fn of(&self, caller: Caller) -> usize {
        self.waiting[usize::from(caller.0)].load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_less_than_its_share_takes_from_who_has_the_most() {
        let [flood, second, quiet] = [1, 2, 3].map(Caller);
        let callers = Callers::new();
        (0..10).for_each(|_| callers.enter(flood));
        assert_eq!(callers.greediest(flood, 10), None, "alone, it may have them all");
        assert_eq!(callers.greediest(quiet, 10), Some(flood));
        (0..5).for_each(|_| callers.leave(flood));
        (0..4).for_each(|_| callers.enter(second));
        callers.enter(quiet);
        // Three of ten each.
        assert_eq!(callers.greediest(quiet, 10), Some(flood));
        assert_eq!(callers.greediest(second, 10), None, "it has its share");
        assert_eq!(callers.greediest(flood, 10), None);
        (0..4).for_each(|_| callers.leave(second));
        (0..4).for_each(|_| callers.enter(quiet));
        assert_eq!(callers.active.load(Ordering::Relaxed), 2);
        assert_eq!(callers.greediest(quiet, 10), None, "both have five of ten");
    }

    #[test]
    fn with_more_callers_than_places_everybody_may_have_one() {
        let callers = Callers::new();
        (0..4).map(Caller).for_each(|caller| callers.enter(caller));
        assert_eq!(callers.greediest(Caller(9), 4), None, "nobody has more than one");
        callers.enter(Caller(2));
        assert_eq!(callers.greediest(Caller(9), 4), Some(Caller(2)));
        assert_eq!(callers.greediest(Caller(0), 4), None);
    }
}
