//! What the stories say of a floor.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lineside_wire::MemberState;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

pub(crate) use crate::simulation::{CLUSTER, Machine, model, node, state_of};
use crate::{Pace, simulation::Weather};

/// The floor of the stories.
pub(crate) type Floor = crate::simulation::Floor<Steady>;

/// The weather of the stories: 1 to 2 ms, an even loss, and one cable that may be broken.
#[derive(Debug)]
pub struct Steady {
    rng: StdRng,
    loss: f64,
    /// Machines on the far side of the broken cable.
    pub(crate) far: BTreeSet<u8>,
}

impl Steady {
    pub(crate) fn new(seed: u64, loss: f64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), loss, far: BTreeSet::new() }
    }
}

impl Weather for Steady {
    fn fly(&mut self, from: u8, to: u8) -> Vec<Duration> {
        let time = Duration::from_micros(self.rng.random_range(1000..2000));
        let is_lost = self.rng.random_bool(self.loss) || self.is_cut(from, to);
        if is_lost { Vec::new() } else { vec![time] }
    }

    fn is_cut(&self, a: u8, b: u8) -> bool {
        self.far.contains(&a) != self.far.contains(&b)
    }
}

impl Machine {
    /// Where this machine sees a double of a node.
    pub(crate) fn double_of(&self, n: u8) -> Option<SocketAddr> {
        self.view.member(node(n)).and_then(|row| row.double)
    }
}

impl Floor {
    pub(crate) fn new(seed: u64, loss: f64) -> Self {
        Self::with_weather(seed, Pace::LAN, Steady::new(seed, loss), Instant::now())
    }

    /// Machines 1 to `count`; all but the first greet the first one.
    pub(crate) fn with_machines(count: u8, seed: u64, loss: f64) -> Self {
        let mut floor = Self::new(seed, loss);
        for n in 1..=count {
            floor.start(n, 1);
            if n != 1 {
                floor.greet(n, 1);
            }
        }
        floor
    }

    /// Machines that know each other already.
    pub(crate) fn formed(count: u8, seed: u64, loss: f64) -> Self {
        let mut floor = Self::with_machines(count, seed, loss);
        floor.until(30, "the cluster forms", |floor| floor.all_see(count));
        floor
    }

    pub(crate) fn start(&mut self, n: u8, epoch: u64) {
        self.start_at(n, epoch, state_of(n, epoch).address);
    }

    /// Starts a machine that has another address than machines of its number have.
    pub(crate) fn start_at(&mut self, n: u8, epoch: u64, address: SocketAddr) {
        self.start_with(n, MemberState { address, ..state_of(n, epoch) }, &[]);
    }

    /// Starts a machine whose disk is a copy of another's; its address is its own.
    pub(crate) fn start_copy(&mut self, n: u8, of: u8, epoch: u64, seeds: &[u8]) {
        let own = MemberState { address: state_of(n, epoch).address, ..state_of(of, epoch) };
        self.start_with(n, own, seeds);
    }

    pub(crate) fn cut_off(&mut self, far: impl IntoIterator<Item = u8>) {
        self.weather.far = far.into_iter().collect();
    }

    /// Whether every running machine sees `count` usable members.
    pub(crate) fn all_see(&self, count: u8) -> bool {
        self.running().all(|machine| {
            machine.view.members.values().filter(|member| member.is_usable()).count() == usize::from(count)
        })
    }

    /// Lets time pass until `state` holds, at most `seconds`; gives back how long it took.
    pub(crate) fn until(&mut self, seconds: u64, what: &str, state: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.now;
        let end = begin + Duration::from_secs(seconds);
        while !state(self) {
            assert!(self.now < end, "seed {}: not within {seconds} s: {what}", self.seed);
            self.step(end);
        }
        self.now - begin
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(end);
        }
    }
}
