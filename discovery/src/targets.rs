//! Peers that should take us into their cluster, until they have. Pure: takes `now` and the random generator.
//!
//! One lost announcement would leave a member alone for ever, because nobody else repeats it.

use std::{collections::BTreeMap, time::Duration};

use lineside_wire::NodeId;
use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

use crate::{MEMBERS_MAX, identity::Identity};

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// After this many announcements the peer is left to the next greeting: about 90 s.
const TRIES_MAX: u32 = 20;

#[derive(Debug, Default)]
pub(crate) struct Targets {
    waiting: BTreeMap<NodeId, Target>,
}

#[derive(Debug)]
struct Target {
    identity: Identity,
    next: Instant,
    tries: u32,
}

impl Targets {
    /// A peer proved who it is: announce to it at once.
    pub(crate) fn met(&mut self, identity: Identity, now: Instant) {
        if self.waiting.len() < MEMBERS_MAX || self.waiting.contains_key(&identity.node) {
            self.waiting.insert(identity.node, Target { identity, next: now, tries: 0 });
        }
    }

    /// Peers that need no more announcements go.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Identity) -> bool) {
        self.waiting.retain(|_, target| keep(&target.identity));
    }

    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.waiting.values().map(|target| target.next).min()
    }

    /// Whom to announce to now.
    pub(crate) fn take_due(&mut self, now: Instant, rng: &mut StdRng) -> Vec<Identity> {
        let mut due = Vec::new();
        self.waiting.retain(|_, target| {
            if now < target.next {
                return true;
            }
            due.push(target.identity.clone());
            target.tries += 1;
            let wait = RETRY_MIN.saturating_mul(target.tries).min(RETRY_MAX);
            target.next = now + wait.mul_f64(rng.random_range(0.8..1.2));
            target.tries < TRIES_MAX
        });
        due
    }
}
