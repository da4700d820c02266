//! Faults on purpose, for stories and for `lineside torture`.
//!
//! ```text
//!   members ──UDP──> relay (seeded: loss, delay, duplicates, other order, damage, small packets, one way) ──> member
//!   callers ──begin, end──> ledger (every call ends; no answer is wrong; nothing stateful ran twice)
//! ```

pub mod ledger;
pub mod relay;
