//! Saying goodbye: first to everybody, then going, so that a member that left is not taken for one that failed.

use std::time::Duration;

use tokio::time::Instant;

use super::Gossip;
use lineside_wire::Standing;

use crate::view::Change;

/// From the goodbye to going: a round of gossip, and time for the ones who heard it to pass it on.
const GOODBYE: Duration = Duration::from_millis(300);
/// Between the last packets, of which any may get lost.
const GONE_EVERY: Duration = Duration::from_millis(100);
const GONE_ROUNDS: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The goodbye is going round.
    Goodbye {
        until: Instant,
    },
    /// We count ourselves out; nothing is heard any more.
    Gone {
        rounds: u8,
        next: Instant,
    },
    Done,
}

impl Gossip {
    pub(super) fn leave(&mut self, now: Instant) {
        if self.leaving != Leaving::No {
            return;
        }
        self.own.draining = true;
        self.own.revision += 1;
        self.publisher.now();
        let until = if self.is_alone() { now } else { now + GOODBYE };
        self.leaving = Leaving::Goodbye { until };
        self.roster.set_own(&self.own, Standing::Alive, now);
        self.change = Change::Major;
    }

    /// The steps of leaving.
    pub(super) fn go(&mut self, now: Instant) {
        match self.leaving {
            Leaving::Goodbye { until } if until <= now => {
                if let Err(error) = self.swim.leave_cluster(&mut self.runtime) {
                    tracing::debug!(%error, "the cluster could not be left");
                }
                let rounds = if self.is_alone() { 1 } else { GONE_ROUNDS };
                self.leaving = Leaving::Gone { rounds, next: now + GONE_EVERY };
                self.roster.set_own(&self.own, Standing::Left, now);
                self.change = Change::Major;
            }
            Leaving::Gone { rounds, next } if next <= now => {
                // Repeats what was said: any of the packets may have got lost.
                let _ = self.swim.gossip(&mut self.runtime);
                self.leaving = match rounds {
                    0 | 1 => Leaving::Done,
                    _ => Leaving::Gone { rounds: rounds - 1, next: now + GONE_EVERY },
                };
            }
            Leaving::No | Leaving::Goodbye { .. } | Leaving::Gone { .. } | Leaving::Done => {}
        }
    }
}
