//! A model of a node: a bounded queue, slots, the state of sequences, and what can be wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use lineside_wire::{Fault, FaultCode, LoadReport};
use tokio::time::Instant;

/// How a node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Works,
    /// So many times slower.
    Slow(u32),
    /// Every run fails at once.
    FailsFast,
    /// A defect: every call ends at once with an internal fault, and nobody knows whether it ran.
    Broken,
    /// Runs begin and never end, while it gossips on.
    Hangs,
}

/// A call at a node.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) call: u64,
    pub(crate) request: usize,
    /// The connection that it came over.
    pub(crate) conn: u64,
    pub(crate) session: Option<String>,
    pub(crate) begins: bool,
    pub(crate) value: i64,
}

/// How a call ends at the node.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Sum(i64),
    Fault(Fault),
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) slots: usize,
    pub(crate) queue_max: usize,
    pub(crate) run: Duration,
    pub(crate) manner: Manner,
    pub(crate) draining: bool,
    pub(crate) up: bool,
    pub(crate) paused: bool,
    /// Counts its processes.
    pub(crate) life: u32,
    pub(crate) running: BTreeMap<u64, Job>,
    pub(crate) queue: VecDeque<Job>,
    sessions: BTreeMap<String, i64>,
    /// Connections that this process knows, and when a packet came over them last.
    pub(crate) conns: BTreeMap<u64, (u8, Instant)>,
    /// Since when nothing is wrong with it.
    pub(crate) well_since: Option<Instant>,
    /// When it last sent a call away because it was full.
    pub(crate) full_at: Option<Instant>,
    pub(crate) runs: u64,
}

impl Node {
    pub(crate) fn new(slots: usize, run: Duration, now: Instant) -> Self {
        Self {
            slots,
            queue_max: 4 * slots,
            run,
            manner: Manner::Works,
            draining: false,
            up: true,
            paused: false,
            life: 0,
            running: BTreeMap::new(),
            queue: VecDeque::new(),
            sessions: BTreeMap::new(),
            conns: BTreeMap::new(),
            well_since: Some(now),
            full_at: None,
            runs: 0,
        }
    }

    /// A new process in the place of the old one.
    pub(crate) fn restart(&mut self) {
        self.life += 1;
        (self.up, self.paused, self.draining, self.manner) = (true, false, false, Manner::Works);
        self.forget();
    }

    /// The process is gone, with all that it knew.
    pub(crate) fn forget(&mut self) {
        self.running.clear();
        self.queue.clear();
        self.sessions.clear();
        self.conns.clear();
    }

    pub(crate) fn load(&self) -> LoadReport {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        LoadReport {
            running: count(self.running.len()),
            queued: count(self.queue.len()),
            slots: count(self.slots),
            limit: count(self.slots + self.queue_max),
            call_us: u32::try_from(self.time().as_micros()).unwrap_or(u32::MAX),
        }
    }

    fn time(&self) -> Duration {
        match self.manner {
            Manner::Slow(times) => self.run * times,
            _ => self.run,
        }
    }

    /// Takes a call in, or sends it away.
    pub(crate) fn accept(&mut self, job: Job, now: Instant) -> Option<End> {
        if self.draining {
            return Some(End::Fault(Fault::new(FaultCode::Draining, "leaving")));
        }
        if self.queue_max <= self.queue.len() {
            self.full_at = Some(now);
            let wait = self.time() * u32::try_from(self.queue.len() / self.slots).unwrap_or(1);
            let wait = u64::try_from(wait.as_millis()).unwrap_or(1).max(1);
            return Some(End::Fault(Fault::new(FaultCode::Busy, "full").retry_after_ms(wait)));
        }
        let state =
            job.session.as_ref().is_none_or(|session| job.begins || self.sessions.contains_key(session));
        if !state {
            return Some(End::Fault(Fault::new(FaultCode::SequenceLost, "no state of it here")));
        }
        self.queue.push_back(job);
        None
    }

    /// The next call that a free slot takes, and how long its run is; `None`: it does not end by itself.
    pub(crate) fn begin(&mut self) -> Option<(Job, Option<Duration>)> {
        if self.slots <= self.running.len() {
            return None;
        }
        let job = self.queue.pop_front()?;
        self.runs += 1;
        self.running.insert(job.call, job.clone());
        let time = match self.manner {
            Manner::Works | Manner::Slow(_) => Some(self.time()),
            Manner::FailsFast | Manner::Broken => Some(Duration::from_micros(200)),
            Manner::Hangs => None,
        };
        Some((job, time))
    }

    /// A run ends.
    pub(crate) fn end(&mut self, call: u64) -> Option<(Job, End)> {
        let job = self.running.remove(&call)?;
        let end = match self.manner {
            Manner::FailsFast => End::Fault(Fault::new(FaultCode::InferenceFailed, "it always fails here")),
            Manner::Broken => End::Fault(Fault::new(FaultCode::Internal, "a defect")),
            Manner::Works | Manner::Slow(_) | Manner::Hangs => End::Sum(self.sum(&job)),
        };
        Some((job, end))
    }

    /// What the model makes of an input: twice its value, or the sum of its sequence so far.
    fn sum(&mut self, job: &Job) -> i64 {
        let Some(session) = &job.session else { return 2 * job.value };
        let state = self.sessions.entry(session.clone()).or_default();
        if job.begins {
            *state = 0;
        }
        *state += job.value;
        *state
    }

    /// The time of a call is over.
    pub(crate) fn expire(&mut self, call: u64) -> Option<(Job, End)> {
        if let Some(job) = self.running.remove(&call) {
            return Some((job, End::Fault(Fault::new(FaultCode::DeadlineExceededRunning, "too late"))));
        }
        let place = self.queue.iter().position(|job| job.call == call)?;
        let job = self.queue.remove(place)?;
        Some((job, End::Fault(Fault::new(FaultCode::DeadlineExceeded, "too late"))))
    }

    /// Nobody waits for a call any more.
    pub(crate) fn drop_calls(&mut self, gone: impl Fn(&Job) -> bool) {
        self.queue.retain(|job| !gone(job));
        self.running.retain(|_, job| !gone(job));
    }

    /// Connections over which nothing came for too long.
    pub(crate) fn drop_silent(&mut self, now: Instant, idle: Duration) {
        let silent = |(_, heard): &(u8, Instant)| *heard + idle <= now;
        let gone: BTreeSet<u64> =
            self.conns.iter().filter(|(_, conn)| silent(conn)).map(|(id, _)| *id).collect();
        self.conns.retain(|id, _| !gone.contains(id));
        self.drop_calls(|job| gone.contains(&job.conn));
    }
}
