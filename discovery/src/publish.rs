//! When to tell the others about ourselves. Pure: takes `now`.

use std::time::Duration;

use lineside_wire::MemberState;
use tokio::time::Instant;

use crate::summary::SEQUENCE_JUMP_MAX;

/// Between two summaries that differ only in load: it changes with every call, and answers carry it too.
const LOAD_EVERY: Duration = Duration::from_millis(200);

/// A summary is repeated at least this often, so that whoever joins late, or lost one, hears it.
const REPEAT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Publisher {
    sequence: u64,
    published: Option<Instant>,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Repeat,
    Soon,
    Now,
}

impl Publisher {
    pub(crate) fn new() -> Self {
        Self { sequence: 0, published: None, wanted: Wanted::Now }
    }

    /// Weighs a change of our state.
    pub(crate) fn changed(&mut self, old: &MemberState, new: &MemberState) {
        // A new trust list is loud: whoever was revoked in it is to be gone everywhere within seconds.
        let loud =
            |state: &MemberState| (state.draining, state.cordoned, state.door, state.epoch, state.trust);
        let wanted = if loud(old) != loud(new) {
            Wanted::Now
        } else if old.load != new.load {
            Wanted::Soon
        } else {
            Wanted::Repeat
        };
        self.wanted = self.wanted.max(wanted);
    }

    /// Asks for a summary at once: somebody is there to hear it, or has to ask for our state.
    pub(crate) fn now(&mut self) {
        self.wanted = Wanted::Now;
    }

    /// When the next summary is due.
    pub(crate) fn next_wake(&self, now: Instant) -> Instant {
        match (self.published, self.wanted) {
            (None, _) | (_, Wanted::Now) => now,
            (Some(last), Wanted::Soon) => last + LOAD_EVERY,
            (Some(last), Wanted::Repeat) => last + REPEAT_EVERY,
        }
    }

    /// Whether the next summary should not even wait for the next round of gossip.
    pub(crate) fn is_urgent(&self) -> bool {
        self.wanted == Wanted::Now
    }

    /// Counts a summary that goes out now. Its number is above all others, `heard` included: somebody may have
    /// spoken in our name. What is too far past our own number the others do not believe either.
    pub(crate) fn publish(&mut self, heard: u64, now: Instant) -> u64 {
        let is_believed = heard <= self.sequence.saturating_add(SEQUENCE_JUMP_MAX);
        let heard = if is_believed { heard } else { 0 };
        self.sequence = self.sequence.max(heard).saturating_add(1);
        (self.published, self.wanted) = (Some(now), Wanted::Repeat);
        self.sequence
    }
}
