//! A cluster in virtual time that is asked three times what it can do: nodes with their queues, a door that goes by what
//! they say, and clients that come back when they are told to.
//!
//! ```text
//!   clients ── a request ──▸ door ── the idlest node that did not say "busy" ──▸ queue ▸ session ▸ answer
//!      ▴                      │
//!      └─ twice, when told ◂──┴─ 503 with the time to come again
//! ```

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::*;
use crate::batcher::{Batcher, Rules, Take, Traits, Waiting};

const NODES: usize = 2;
const RUN: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(2);
/// How often a client comes back.
const RETRIES: u32 = 2;
/// Most that the door believes a "busy".
const FULL_FOR_MAX: Duration = Duration::from_secs(1);

/// A seeded source of chance.
struct Chance(u64);

impl Chance {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The time until the next of events that come so often a second.
    fn gap(&mut self, per_second: f64) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.next()).ln() / per_second)
    }
}

#[derive(Clone, Copy, Debug)]
struct Request {
    retries: u32,
    deadline: Instant,
}

struct Call {
    place: Place,
    request: Request,
}

struct Node {
    queue: Arc<Queue>,
    lane: Arc<Lane>,
    batcher: Batcher<Call>,
    runs: Option<Call>,
    full_until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A new request.
    Fresh,
    /// One that was told to come again.
    Back { retries: u32 },
    /// A node's run ends.
    Ends { node: usize },
}

/// What came of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    requests: u32,
    attempts: u32,
    answered: u32,
    refused: u32,
    late: u32,
    /// Of one node, at its end.
    room: usize,
}

struct World {
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    number: u64,
    chance: Chance,
    began: Instant,
    now: Instant,
    seconds: BTreeMap<u64, Second>,
    /// New requests a second.
    load: f64,
}

impl World {
    fn new(seed: u64, adaptive: bool) -> Self {
        let now = Instant::now();
        let node = |_| Node {
            queue: Arc::new(Queue::new(1, 256, adaptive)),
            lane: Arc::new(Lane::new(1, 256, Rules::default())),
            batcher: Batcher::new(Rules::default()),
            runs: None,
            full_until: now,
        };
        let mut world = Self {
            nodes: (0..NODES).map(node).collect(),
            events: BinaryHeap::new(),
            number: 0,
            chance: Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            began: now,
            now,
            seconds: BTreeMap::new(),
            load: 1.0,
        };
        world.at(now, Event::Fresh);
        world
    }

    fn capacity() -> f64 {
        NODES as f64 / RUN.as_secs_f64()
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.number += 1;
        self.events.push(Reverse((when, self.number, event)));
    }

    fn second(&mut self) -> &mut Second {
        let second = self.now.saturating_duration_since(self.began).as_secs();
        self.seconds.entry(second).or_default()
    }

    /// Goes on for so long with so many times of what can be done.
    fn pass(&mut self, time: Duration, load: f64) {
        self.load = load * Self::capacity();
        let until = self.now + time;
        while let Some(Reverse((when, ..))) =
            self.events.peek().copied().filter(|Reverse((when, ..))| *when < until)
        {
            let Some(Reverse((.., event))) = self.events.pop() else { return };
            self.now = when;
            match event {
                Event::Fresh => {
                    let next = self.now + self.chance.gap(self.load);
                    self.at(next, Event::Fresh);
                    self.ask(RETRIES);
                }
                Event::Back { retries } => self.ask(retries),
                Event::Ends { node } => self.ends(node),
            }
            let room = self.nodes[0].queue.load().limit as usize;
            self.second().room = room;
        }
        self.now = until;
    }

    /// The door takes a request: to the idlest node that has room, and to the other one when it has none.
    fn ask(&mut self, retries: u32) {
        self.second().requests += 1;
        let request = Request { retries, deadline: self.now + DEADLINE };
        let mut again: Option<Duration> = None;
        for _ in 0..NODES {
            let now = self.now;
            let busy = |node: &Node| (node.queue.load().queued, node.queue.load().running);
            let free = (0..NODES).filter(|node| self.nodes[*node].full_until <= now);
            let Some(node) = free.min_by_key(|node| busy(&self.nodes[*node])) else { break };
            self.second().attempts += 1;
            match self.admit(node, request) {
                Ok(()) => return,
                Err(wait) => {
                    self.nodes[node].full_until = now + wait.min(FULL_FOR_MAX);
                    again = Some(again.map_or(wait, |other| other.min(wait)));
                }
            }
        }
        self.second().refused += 1;
        if let Some(retries) = request.retries.checked_sub(1) {
            // At least a second, as `Retry-After` says it, and a part by chance.
            let wait =
                again.unwrap_or_default().max(Duration::from_secs(1)).mul_f64(1.0 + self.chance.next() / 2.0);
            self.at(self.now + wait, Event::Back { retries });
        }
    }

    fn admit(&mut self, node: usize, request: Request) -> Result<(), Duration> {
        let now = self.now;
        let wish =
            Wish { remaining: request.deadline - now, patience: None, priority: 0, caller: Caller::ONE };
        let Node { queue, lane, batcher, .. } = &mut self.nodes[node];
        let place = queue.admit(lane, wish, now).map_err(Refusal::come_again_in)?;
        let traits = Traits {
            rows: 1,
            shape: None,
            priority: 0,
            arrived: now.into_std(),
            deadline: request.deadline.into_std(),
            sequence: None,
        };
        batcher.push(Waiting { job: Call { place, request }, traits });
        self.take(node);
        Ok(())
    }

    /// An idle session takes up what waits.
    fn take(&mut self, at: usize) {
        let now = self.now;
        while self.nodes[at].runs.is_none() {
            let Take::Run(mut batch) = self.nodes[at].batcher.take(now.into_std()) else { return };
            let mut call = batch.remove(0).job;
            if call.request.deadline <= now {
                call.place.waited(now);
                self.second().late += 1;
                continue;
            }
            Place::begin([&mut call.place], now);
            self.nodes[at].runs = Some(call);
            // Runs differ by a fifth.
            let took = RUN.mul_f64(0.9 + self.chance.next() / 5.0);
            self.at(now + took, Event::Ends { node: at });
        }
    }

    fn ends(&mut self, at: usize) {
        let Some(mut call) = self.nodes[at].runs.take() else { return };
        call.place.ran(RUN, 1);
        let _ = call.place.end();
        match self.now <= call.request.deadline {
            true => self.second().answered += 1,
            false => self.second().late += 1,
        }
        self.take(at);
    }

    /// The sum of these seconds, and the least and most room.
    fn sum(&self, seconds: std::ops::Range<u64>) -> (Second, usize, usize) {
        let mut sum = Second { ..Second::default() };
        let (mut least, mut most) = (usize::MAX, 0);
        for (_, one) in self.seconds.range(seconds) {
            sum.requests += one.requests;
            sum.attempts += one.attempts;
            sum.answered += one.answered;
            sum.refused += one.refused;
            sum.late += one.late;
            (least, most) = (least.min(one.room), most.max(one.room));
        }
        (sum, least, most)
    }
}

#[test]
fn three_times_too_much_is_refused_at_once_and_forgotten_within_ten_seconds() {
    for seed in 1..=50 {
        let mut world = World::new(seed, true);
        let seconds = Duration::from_secs;
        world.pass(seconds(10), 0.8);
        world.pass(seconds(30), 3.0);
        world.pass(seconds(40), 0.8);

        let (before, ..) = world.sum(2..10);
        assert!(f64::from(before.answered) >= 0.97 * f64::from(before.requests), "seed {seed}: {before:?}");
        // After five seconds for the limit to find its place.
        let (during, least, most) = world.sum(15..40);
        let done = f64::from(during.answered) / (25.0 * World::capacity());
        assert!(0.95 < done, "seed {seed}: {done:.2} of what can be done: {during:?}");
        let attempts = f64::from(during.attempts) / f64::from(during.requests);
        assert!(attempts <= 1.15, "seed {seed}: {attempts:.2} tries each");
        assert!(
            during.late * 50 < during.answered,
            "seed {seed}: what was taken in was done in time: {during:?}"
        );
        assert!(most <= 2 * least, "seed {seed}: the limit swings from {least} to {most}");
        let (after, ..) = world.sum(50..80);
        assert!(f64::from(after.answered) >= 0.95 * f64::from(after.requests), "seed {seed}: {after:?}");
    }
}

#[test]
fn a_limit_makes_answers_sooner_and_not_fewer() {
    let overloaded = |adaptive| {
        let mut world = World::new(7, adaptive);
        world.pass(Duration::from_secs(40), 3.0);
        let (sum, _, room) = world.sum(10..40);
        (sum.answered, room)
    };
    let ((found, room), (fixed, all)) = (overloaded(true), overloaded(false));
    assert!(f64::from(found) > 0.97 * f64::from(fixed), "{found} of {fixed}");
    assert!(room < all / 2, "{room} of {all}");
}
