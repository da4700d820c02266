//! A cluster on this machine alone, for `demo`, `torture` and `bench`: members as child processes on loopback.
//!
//! ```text
//!   home ── certificates, models, settings, logs, in one directory that goes with it
//!   floor ── starts, kills, stops, restarts ──> process, a child that ends when this process does
//!   question ── one inference, as JSON, binary, JSON-RPC or by QUIC ──> http | client library ──> told
//! ```

mod floor;
mod home;
mod http;
mod process;
mod question;
pub(crate) mod stage;
mod stop;

pub(crate) use floor::{Floor, Start, members_at, serving, serving_of};
pub(crate) use home::{Home, Member, Model, Plan};
pub(crate) use http::{Body, HttpCaller, header as headers};
pub(crate) use process::{LOOK_EVERY, Process};
pub(crate) use question::{Input, Question, Sequence, Told, Values, ask_http, ask_quic, ask_rpc};
pub(crate) use stop::Stop;

#[cfg(test)]
pub(crate) use floor::tests;
