//! Several gateways over unequal nodes, in a clock that only events move: who gets how much, and whether anybody gets more
//! than it takes. No gateway sees another; each sees what nodes say in their answers, and in gossip ten times a second.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use rand::Rng;

use super::*;

/// One way between two members.
const WAY: u64 = 200;

/// Between two rounds of gossip, which tells how things were when the last one began.
const GOSSIP_EVERY: u64 = 100_000;

/// Not measured: until queues are as long as they get.
const WARM_UP: u64 = 1_000_000;

const NAMES: [&str; 4] = ["glue", "paint", "press", "weld"];

/// A node as the story needs it: what it runs at once, how long each takes, how many it takes at once.
#[derive(Clone, Copy, Debug)]
struct Kind {
    slots: u32,
    call_us: u32,
    limit: u32,
}

impl Kind {
    fn speed(&self) -> f64 {
        f64::from(self.slots) * 1e6 / f64::from(self.call_us)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Call,
    Arrives { call: usize, node: usize },
    Ends { call: usize, node: usize },
    Answered { call: usize, node: usize, load: [u32; 2] },
    Refused { call: usize, node: usize, load: [u32; 2] },
    Gossip,
}

/// A call on its way: the gateway, its lease, who was asked.
struct Call {
    gateway: usize,
    lease: Option<Lease>,
    tried: Vec<NodeId>,
    begun: u64,
}

#[derive(Default)]
struct Node {
    running: u32,
    waiting: VecDeque<usize>,
    most: u32,
    done: u64,
}

struct World {
    kinds: Vec<Kind>,
    nodes: Vec<Node>,
    gateways: Vec<Balancer>,
    calls: Vec<Call>,
    events: BinaryHeap<Reverse<(u64, u64, What)>>,
    numbered: u64,
    told: Vec<LoadReport>,
    start: Instant,
    now: u64,
    rng: StdRng,
    /// Between two calls of all callers together, on average, in microseconds.
    between: f64,
    lost: u64,
}

impl World {
    fn new(policy: Policy, kinds: &[Kind], load: f64, seed: u64) -> Self {
        let start = tokio::time::Instant::now().into_std();
        let speed: f64 = kinds.iter().map(Kind::speed).sum();
        let settings = Balancing { policy, ..Balancing::default() };
        let gateway = |at| Balancer::new(settings, &mut StdRng::seed_from_u64(seed * 100 + at), start);
        let mut world = Self {
            kinds: kinds.to_vec(),
            nodes: kinds.iter().map(|_| Node::default()).collect(),
            gateways: (0..3).map(gateway).collect(),
            calls: Vec::new(),
            events: BinaryHeap::new(),
            numbered: 0,
            told: Vec::new(),
            start,
            now: 0,
            rng: StdRng::seed_from_u64(seed),
            between: 1e6 / (speed * load),
            lost: 0,
        };
        world.told = (0..kinds.len()).map(|node| world.load(node)).collect();
        world.after(0, What::Gossip);
        world.after(1, What::Call);
        world
    }

    fn after(&mut self, wait: u64, what: What) {
        self.numbered += 1;
        self.events.push(Reverse((self.now + wait, self.numbered, what)));
    }

    fn time(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn load(&self, node: usize) -> LoadReport {
        let Kind { slots, call_us, limit } = self.kinds[node];
        let Node { running, waiting, .. } = &self.nodes[node];
        LoadReport { running: *running, queued: waiting.len() as u32, slots, limit, call_us }
    }

    /// A quarter more or less than it says: one model on one machine.
    fn takes(&mut self, node: usize) -> u64 {
        let random = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        (f64::from(self.kinds[node].call_us) * (0.75 + 0.5 * random)) as u64
    }

    fn begin(&mut self, call: usize) {
        let (time, gateway) = (self.time(), self.calls[call].gateway);
        let (balancer, tried) = (&self.gateways[gateway], &self.calls[call].tried);
        let add = add();
        let wanted = Wanted::Model(&add, None);
        let lease = match tried.is_empty() {
            true => balancer.lease(wanted, tried, time),
            false => balancer.lease_with_room(wanted, tried, time),
        };
        // As failover does: three tries, or as many as nodes have room.
        let Some(lease) = lease.ok().filter(|_| tried.len() < 3) else {
            self.lost += u64::from(WARM_UP < self.now);
            return;
        };
        let node = NAMES.iter().position(|name| id(name) == lease.node()).unwrap();
        self.calls[call].lease = Some(lease);
        self.after(WAY, What::Arrives { call, node });
    }

    fn run(&mut self, call: usize, node: usize) {
        self.nodes[node].running += 1;
        let takes = self.takes(node);
        self.after(takes, What::Ends { call, node });
    }

    fn report(&mut self, call: usize, outcome: Outcome) {
        let (time, call) = (self.time(), &mut self.calls[call]);
        self.gateways[call.gateway].report(call.lease.take().unwrap(), outcome, time);
    }

    fn told(&self, node: usize, [running, queued]: [u32; 2]) -> Option<LoadReport> {
        Some(LoadReport { running, queued, ..self.load(node) })
    }

    fn happens(&mut self, what: What) {
        match what {
            What::Call => {
                let random = (f64::from(self.rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 2.0);
                let wait = -random.ln() * self.between;
                self.after(wait.ceil() as u64, What::Call);
                let gateway = self.rng.next_u32() as usize % self.gateways.len();
                self.calls.push(Call { gateway, lease: None, tried: Vec::new(), begun: self.now });
                self.begin(self.calls.len() - 1);
            }
            What::Arrives { call, node } => {
                let there = self.load(node);
                let load = [there.running, there.queued];
                if self.kinds[node].limit <= load[0] + load[1] {
                    self.after(WAY, What::Refused { call, node, load });
                } else if there.running < self.kinds[node].slots {
                    self.run(call, node);
                } else {
                    self.nodes[node].waiting.push_back(call);
                }
                let there = self.load(node);
                self.nodes[node].most = self.nodes[node].most.max(there.running + there.queued);
            }
            What::Ends { call, node } => {
                self.nodes[node].running -= 1;
                self.nodes[node].done += u64::from(WARM_UP < self.now);
                if let Some(next) = self.nodes[node].waiting.pop_front() {
                    self.run(next, node);
                }
                let there = self.load(node);
                self.after(WAY, What::Answered { call, node, load: [there.running, there.queued] });
            }
            What::Answered { call, node, load } => {
                let took = self.now - self.calls[call].begun;
                let (load, took) = (self.told(node, load), Duration::from_micros(took));
                self.report(call, Outcome::Answered { load, took });
            }
            What::Refused { call, node, load } => {
                let load = self.told(node, load);
                self.report(call, Outcome::Full { load, retry_after: None });
                self.calls[call].tried.push(id(NAMES[node]));
                self.begin(call);
            }
            What::Gossip => {
                let candidate = |(at, load): (usize, &LoadReport)| Candidate {
                    load: Some(*load),
                    ..crate::testing::node(NAMES[at], load.slots)
                };
                let candidates: Vec<_> = self.told.iter().enumerate().map(candidate).collect();
                let time = self.time();
                self.gateways.iter().for_each(|gateway| gateway.update(candidates.clone(), time));
                self.told = (0..self.nodes.len()).map(|node| self.load(node)).collect();
                self.after(GOSSIP_EVERY, What::Gossip);
            }
        }
    }

    fn pass(&mut self, until: u64) {
        while let Some(Reverse((at, _, what))) = self.events.pop() {
            self.now = at;
            self.happens(what);
            if until <= at {
                return;
            }
        }
    }

    /// What each node did, beside what would be in proportion to its speed.
    fn shares(&self) -> Vec<f64> {
        let done: u64 = self.nodes.iter().map(|node| node.done).sum();
        let speed: f64 = self.kinds.iter().map(Kind::speed).sum();
        let share = |(node, kind): (&Node, &Kind)| node.done as f64 / done as f64 / (kind.speed() / speed);
        self.nodes.iter().zip(&self.kinds).map(share).collect()
    }
}

fn kinds(slots: [u32; 4], call_us: [u32; 4]) -> Vec<Kind> {
    let kind = |(slots, call_us)| Kind { slots, call_us, limit: 5 * slots };
    slots.into_iter().zip(call_us).map(kind).collect()
}

/// Nodes that differ in how much they run at once, in how long a call takes them, and in both.
fn clusters() -> [Vec<Kind>; 4] {
    [
        kinds([1, 2, 4, 8], [8_000; 4]),
        kinds([4; 4], [4_000, 8_000, 12_000, 16_000]),
        kinds([2, 4, 8, 4], [4_000, 16_000, 12_000, 6_000]),
        kinds([1, 1, 2, 2], [2_000, 4_000, 6_000, 12_000]),
    ]
}

#[test]
fn three_gateways_share_unequal_nodes_by_their_speed() {
    for (at, cluster) in clusters().iter().enumerate() {
        // With half of the work that they can do, single slots are lumpy: a node with one is at work, or is not. From
        // there on it is a tenth, and two twentieths for the luck of so few calls.
        for (load, off) in [(0.5, 0.25), (0.75, 0.15), (1.3, 0.1)] {
            for seed in [1, 2] {
                let mut world = World::new(Policy::LeastLoad, cluster, load, seed);
                world.pass(7_000_000);
                let shares = world.shares();
                let story = format!("{shares:.2?} of a fair share in cluster {at} at {load}, seed {seed}");
                assert!(shares.iter().all(|share| (share - 1.0).abs() <= off), "{story}");
                world.holds(load, &story);
            }
        }
    }
}

#[test]
fn with_little_to_do_nobody_waits_and_with_too_much_nobody_gets_more_than_it_takes() {
    for policy in [Policy::LeastLoad, Policy::RoundRobin, Policy::WeightedRoundRobin, Policy::PowerOfTwo] {
        for (at, cluster) in clusters().iter().enumerate() {
            for load in [0.1, 2.0] {
                let mut world = World::new(policy, cluster, load, 3);
                world.pass(2_000_000);
                world.holds(load, &format!("{policy:?} in cluster {at} at {load}"));
            }
        }
    }
}

impl World {
    /// What holds for every policy and load.
    fn holds(&self, load: f64, story: &str) {
        for (node, kind) in self.nodes.iter().zip(&self.kinds) {
            assert!(node.most <= kind.limit, "{} of {} at once, {story}", node.most, kind.limit);
        }
        assert!(1.0 <= load || self.lost == 0, "{} calls found no room, {story}", self.lost);
    }
}
