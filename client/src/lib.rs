//! Calling a cluster: one call, one deadline, whichever member answers.
//!
//! ```text
//!   Client ──> pool ──lease──> balancer (pure: which peer)      gateways use pool and balancer for their nodes,
//!                │ ──failed──> failover (pure: what now)        client programs use them for the gateways
//!                │ ──repeat──> budget   (pure: how often)
//!                └──call────> mesh ──QUIC──> peer
//!   enrol  ──token──> certificate        keeper ──> newer trust lists, a renewed certificate
//! ```
//!
//! A program begins with one token (`lineside token create --role client`): with it it becomes a client, and keeps the
//! identity that it gets for later starts:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let token = std::env::var("LINESIDE_TOKEN")?;
//! let client = lineside_client::Client::join(token).name("camera-4").keep_in("/var/lib/camera/identity").await?;
//! # drop(client);
//! # Ok(())
//! # }
//! ```
//!
//! Or it connects with an identity that the cluster issued, a directory or a pair of files `(certificate, key)`, and the
//! address of any member:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! let client = lineside_client::Client::connect("line-4/identity", ["10.0.0.7:7443"]).await?;
//! let answer = client
//!     .infer("add")
//!     .input("a", &[2], &[1.0_f32, 2.0])
//!     .input("b", &[2], &[3.0_f32, 4.0])
//!     .deadline(Duration::from_millis(200))
//!     .send()
//!     .await?;
//! println!("{:?}, says {}", answer.output("sum")?.to_vec::<f32>()?, answer.node);
//! # Ok(())
//! # }
//! ```
//!
//! What happens when a node is busy, leaves or breaks is in the `failover` module's table: a call that was not run
//! moves on at once, one that may have run is repeated once if it may be, and all tries, three if nothing else is set,
//! share the call's deadline and the program's budget of repeats (a tenth of its calls, and two per second).
//!
//! A peer that sends no packet at all while a call waits has stalled: the call is tried at another one beside it, after a
//! quarter of a second, and the first answer counts. A slow model is not stalled: its peer acknowledges what it gets. For
//! models that are named, [`Tries::hedge`] does the same for the slowest calls; [`Client::with_tries`] sets both.
//!
//! A client looks after its identity: it renews its certificate before half of its time is over, at any member with the
//! cluster's authority, and writes it where it came from; it takes over each newer list of whom the cluster trusts, and
//! its connections with who is not trusted any longer end. [`Client::credentials`] shows both. A certificate of a client
//! lives for 30 days unless the authority says otherwise, so a program may be off, or without the authority, for two weeks.
//! Programs with one identity directory see what another of them has renewed.
//!
//! [`Client::watch_members`] is a result that comes in parts: the member list at once and at each change, from whichever
//! member is there to tell it.
//!
//! Dropping a call's future, or such a stream, cancels it. Nothing here waits for ever, and nothing waits past a deadline.
//!
//! **Invariant:** this crate knows no model format, no HTTP and no gossip; the member list is all it sees of the
//! cluster.

mod answer;
mod balancer;
mod budget;
mod call;
mod candidate;
mod client;
mod element;
mod enrol;
mod failover;
mod identity;
mod latency;
mod pool;
mod request;
mod roster;
#[cfg(test)]
mod testing;
mod transport;

pub use answer::{Answer, AnswerError, Output};
pub use balancer::{Balancer, Balancing, Lease, NoLease, Outcome, Panic, PeerStatistics, Policy, Rest};
pub use budget::{Budget, TryCounts, Why};
pub use call::{CallError, InferCall, InferReply};
pub use candidate::{Candidate, Served, Serves, Wanted};
pub use client::{Client, ConnectError, IntoToken, Join, JoinFailure};
pub use element::Element;
pub use enrol::{EnrolFailure, TokenFate, Tried, TryError, enrol};
pub use identity::{ClientIdentity, IntoIdentity};

pub use pool::{AskError, Pool, Tries};
pub use request::{InferRequest, ParameterValue};
pub use roster::Roster;
pub use transport::Transport;

pub use lineside_wire::Standing;
