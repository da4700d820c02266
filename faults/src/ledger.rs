//! What became of every call: begun, ended, how, by whom.
//!
//! Pure but for its lock: callers tell what they see, and the verdict follows from it.

use std::{collections::BTreeMap, time::Duration};

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

/// The sums of a ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sums {
    /// Calls that were begun.
    pub requests: u64,
    /// Right answers.
    pub answers: u64,
    /// Typed errors by code.
    pub refused: BTreeMap<String, u64>,
    /// Calls that ended without answer and typed error, and calls that never ended.
    pub lost: u64,
    /// Stateful calls that ran more than once.
    pub duplicates: u64,
    /// Answers that are not the model's.
    pub wrong: u64,
    /// Longest time between a fault and the first of ten right answers in a row behind it.
    pub worst_recovery: Duration,
}
