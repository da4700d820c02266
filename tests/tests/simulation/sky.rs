//! What the network does to packets, of gossip and of calls alike.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use lineside_discovery::simulation::Weather;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The shares of packets that meet with something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lost: f64,
    pub(crate) doubled: f64,
    /// Late by up to [`LATE_MAX_MS`]: others overtake them.
    pub(crate) late: f64,
}

/// The longest that a packet is held up: a switch has no more memory.
const LATE_MAX_MS: u64 = 40;

/// The network of one cluster.
#[derive(Debug)]
pub(crate) struct Sky {
    rng: StdRng,
    pub(crate) faults: Faults,
    /// Ways that are closed, one direction each.
    pub(crate) closed: BTreeSet<(u8, u8)>,
}

impl Sky {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), faults: Faults::default(), closed: BTreeSet::new() }
    }

    /// How long each copy of a packet is on its way.
    pub(crate) fn fly(&mut self, from: u8, to: u8) -> Vec<Duration> {
        let Faults { lost, doubled, late } = self.faults;
        let mut copies = Vec::with_capacity(1);
        if self.closed.contains(&(from, to)) || self.rng.random_bool(lost) {
            return copies;
        }
        copies.push(self.time(late));
        if self.rng.random_bool(doubled) {
            copies.push(self.time(late));
        }
        copies
    }

    fn time(&mut self, late: f64) -> Duration {
        let usual = self.rng.random_range(200..1_200);
        let more = if self.rng.random_bool(late) { self.rng.random_range(0..LATE_MAX_MS * 1000) } else { 0 };
        Duration::from_micros(usual + more)
    }
}

/// The same network, for the gossip of the machines.
pub(crate) struct Air(pub(crate) Rc<RefCell<Sky>>);

impl Weather for Air {
    fn fly(&mut self, from: u8, to: u8) -> Vec<Duration> {
        self.0.borrow_mut().fly(from, to)
    }

    fn is_cut(&self, a: u8, b: u8) -> bool {
        let closed = &self.0.borrow().closed;
        closed.contains(&(a, b)) || closed.contains(&(b, a))
    }
}
