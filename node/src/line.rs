//! The waiting requests of one version, and the sessions that take them up.
//!
//! The network's thread puts a request into a bounded channel and never waits. Of the idle sessions one leads: it fills
//! the [`Batcher`] from the channel, waits where there is something to wait for, and when it has its batch it hands the
//! lead to the next and runs. So there is no lock on the path of a call, and the order of requests is decided when a
//! session is free, not when they come.
//!
//! ```text
//!   push ──> channel ──┐ wakes                 ┌──> the leader runs, the next idle session leads
//!                      ├──────> leader ── take ┤
//!   ended ─> freed ────┘                       └──> waits: for more, for the end of a delay or of a sequence's run
//! ```
//!
//! A request is always in the channel or in the batcher: who looks for abandoned work finds it. The channel is emptied
//! by who leads alone, so that no wake-up of a waiting leader is lost.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};
use tokio::time::Instant;

use crate::{
    batcher::{Batcher, Rules, Take, Traits, Waiting},
    queue::Claim,
    worker::Job,
};

#[cfg(test)]
mod tests;

/// The waiting requests of one version.
pub(crate) struct Line<J = Job> {
    inbox: Receiver<Waiting<J>>,
    /// Held by the session that leads, also while it waits. Taken before the batcher.
    lead: Mutex<()>,
    /// Never held while anything is waited for.
    batcher: Mutex<Batcher<J>>,
    /// Wakes a leader that waits for the end of a sequence's run. One is enough: it looks at everything.
    freed: (Sender<()>, Receiver<()>),
}

/// What a look at the line found.
pub(crate) struct Swept<J = Job> {
    /// Those that nobody waits for any more, or whose time is up. They are to be answered.
    pub(crate) removed: Vec<Waiting<J>>,
    /// The earliest deadline of those that still wait.
    pub(crate) next: Option<Instant>,
    /// A session takes something in or out just now, so not everything was looked at: look again in a moment.
    pub(crate) again: bool,
}

/// What the leader is to do.
enum Next<J> {
    Run(Vec<Waiting<J>>),
    Wait(Wait),
    /// Nothing waits and nothing will come.
    End,
}

/// What the leader waits for.
struct Wait {
    /// At most so long.
    at_most: Option<Duration>,
    /// For requests: the line is open.
    open: bool,
    /// For the end of a sequence's run, behind which requests wait.
    freed: bool,
}

impl<J> Line<J> {
    /// A line with room for so many requests, and the end where they go in. It closes when that is dropped.
    pub(crate) fn new(rules: Rules, room: usize) -> (Sender<Waiting<J>>, Self) {
        let (sender, inbox) = bounded(room);
        let (lead, batcher, freed) = (Mutex::new(()), Mutex::new(Batcher::new(rules)), bounded(1));
        (sender, Self { inbox, lead, batcher, freed })
    }

    /// Waits for what an idle session is to run; `None` when the line has closed and is empty.
    pub(crate) fn next(&self) -> Option<Vec<Waiting<J>>> {
        let _lead = lock(&self.lead);
        loop {
            match self.look() {
                Next::Run(batch) => return Some(batch),
                Next::Wait(wait) => self.wait(&wait),
                Next::End => return None,
            }
        }
    }

    /// A request of this sequence has ended.
    pub(crate) fn ended(&self, sequence: &str) {
        lock(&self.batcher).ended(sequence);
        // Full, a wake-up is on its way.
        let _ = self.freed.0.try_send(());
    }

    /// Joins at most so many rows from now on. True when that is less than before.
    pub(crate) fn join_at_most(&self, rows: u64) -> bool {
        let mut batcher = lock(&self.batcher);
        let before = batcher.rules().max_size;
        batcher.join_at_most(rows);
        batcher.rules().max_size < before
    }

    /// Takes out those that this says.
    fn take_out(&self, which: impl FnMut(&J, &Traits) -> bool) -> Swept<J> {
        let lead = self.lead.try_lock();
        let mut batcher = match self.batcher.try_lock() {
            Ok(batcher) => batcher,
            Err(TryLockError::Poisoned(batcher)) => batcher.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Swept { removed: Vec::new(), next: None, again: true };
            }
        };
        let leads = !matches!(lead, Err(TryLockError::WouldBlock));
        if leads {
            self.fill(&mut batcher);
        }
        let removed = batcher.remove(which);
        let next = batcher.next_deadline().map(Instant::from_std);
        Swept { removed, next, again: !leads && !self.inbox.is_empty() }
    }

    /// Takes out the one that gives way to others, by its rank. `None` where there is none, and where a session takes
    /// something in or out just now: nothing is waited for.
    fn give_way(&self, rank: impl Fn(&J, &Traits) -> Option<usize>) -> Option<Waiting<J>> {
        let lead = self.lead.try_lock();
        let mut batcher = match self.batcher.try_lock() {
            Ok(batcher) => batcher,
            Err(TryLockError::Poisoned(batcher)) => batcher.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if !matches!(lead, Err(TryLockError::WouldBlock)) {
            self.fill(&mut batcher);
        }
        batcher.give_way(rank)
    }

    /// What there is to do now.
    fn look(&self) -> Next<J> {
        let mut batcher = lock(&self.batcher);
        // An idle model's only call goes straight through.
        match self.inbox.try_recv() {
            Ok(waiting) if self.inbox.is_empty() && batcher.passes(&waiting.traits) => {
                return Next::Run(vec![waiting]);
            }
            Ok(waiting) => batcher.push(waiting),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        let open = self.fill(&mut batcher);
        let now = Instant::now().into_std();
        let at_most = match batcher.take(now) {
            Take::Run(batch) => return Next::Run(batch),
            Take::Until(until) => Some(until.saturating_duration_since(now)),
            Take::Nothing => None,
        };
        let freed = 0 < batcher.len();
        if open || freed { Next::Wait(Wait { at_most, open, freed }) } else { Next::End }
    }

    /// Puts in what has come; true while more can come.
    fn fill(&self, batcher: &mut Batcher<J>) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(waiting) => batcher.push(waiting),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => {
                    batcher.hurry();
                    return false;
                }
            }
        }
    }

    /// Waits until there is something to look at, and leaves it where it is.
    fn wait(&self, wait: &Wait) {
        let mut select = Select::new();
        if wait.open {
            select.recv(&self.inbox);
        }
        let freed = wait.freed.then(|| select.recv(&self.freed.1));
        let woken = match wait.at_most {
            Some(time) => select.ready_timeout(time).ok(),
            None => Some(select.ready()),
        };
        if woken.is_some() && woken == freed {
            let _ = self.freed.1.try_recv();
        }
    }
}

impl Line {
    /// Takes out the requests that nobody waits for any more, or whose time is up.
    pub(crate) fn sweep(&self, now: Instant) -> Swept {
        let now = now.into_std();
        self.take_out(|job, traits| job.reply.cancelled().is_set() || traits.deadline <= now)
    }

    /// Takes out the request whose place this claim may have.
    pub(crate) fn yield_to(&self, claim: &Claim) -> Option<Waiting<Job>> {
        self.give_way(|job, _| job.place.yields_to(claim))
    }
}

/// A lock whose holders leave nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
