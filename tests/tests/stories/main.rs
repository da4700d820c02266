//! Stories of whole clusters: real processes of the `lineside` binary, real certificates, real models.
//!
//! One binary for all of them, so that at most two clusters run at a time (see `lineside_tests`).

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod clocks;
mod commands;
mod doors;
mod draining;
mod engine;
mod failing;
mod faults;
mod forming;
mod leaving;
mod malformed;
mod network;
mod overload;
mod restarting;
mod safety;
mod sequences;
mod serving;
mod sharing;
mod starting;
mod strangers;
mod trust;
