//! What became of every call: begun, ended, how, by whom.
//!
//! Pure but for its lock: callers tell what they see and when, and the verdict follows from it. A call that was begun
//! and whose ticket went without an end is lost, however that came about: a task that was dropped, a panic.

mod book;
mod sums;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub use sums::{KindSums, Sums};

use book::Book;

/// What a caller got for one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The right answer, of this node.
    Answered {
        /// Which node says that it ran the call.
        node: String,
    },
    /// An answer that is not the model's.
    Wrong {
        /// What was wrong.
        what: String,
    },
    /// An answer that shows that a stateful call ran more than once.
    Twice {
        /// What shows it.
        what: String,
    },
    /// A typed error.
    Refused {
        /// Its code, for example `BUSY`.
        code: String,
        /// Whether the caller was told that it may come again.
        retryable: bool,
    },
    /// No answer and no typed error: the connection broke, or time ran out at the caller.
    Lost {
        /// What broke.
        what: String,
    },
}

/// A ledger that callers share. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins. Kinds are few words of the caller's, such as `pure` or `stateful`; the sums are told for each.
    #[must_use = "a ticket that is dropped is a lost call"]
    pub fn begin(&self, kind: &'static str, now: Instant) -> Ticket {
        self.lock().begin(kind);
        Ticket { ledger: self.clone(), kind, begun: now, ended: false }
    }

    /// A fault happens now. It lasts until the first of ten right answers in a row, to calls that began after it.
    pub fn fault(&self, what: impl Into<String>, now: Instant) {
        self.lock().fault(what.into(), now);
    }

    /// The sums so far. Calls that have not ended count as lost, and faults that have not passed last until now.
    #[must_use]
    pub fn sums(&self, now: Instant) -> Sums {
        self.lock().sums(now)
    }

    /// The first words on what went wrong, a few of each kind: wrong answers, calls that ran twice, lost ones.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.lock().complaints()
    }

    /// Calls that have begun and not ended.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.lock().open()
    }
}

/// One call that has begun. Dropped without an end, the call is lost.
#[derive(Debug)]
pub struct Ticket {
    ledger: Ledger,
    kind: &'static str,
    begun: Instant,
    ended: bool,
}

impl Ticket {
    /// The call ends so. Gives how long it took.
    pub fn end(mut self, ended: Ended, now: Instant) -> Duration {
        self.ended = true;
        self.ledger.lock().end(self.kind, self.begun, ended, now);
        now.saturating_duration_since(self.begun)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.lock().dropped(self.kind);
        }
    }
}

#[cfg(test)]
mod tests;
