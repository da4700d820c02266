//! A running member: mesh, discovery, node and gateway put together.
//!
//! ```text
//!   main thread, one runtime ── Mesh (UDP): calls in ─► MemberService ─► node | door | own words
//!     "lineside-gossip" ◄─ packets, greetings ─┘            ▲
//!         └─ views ─► Known (roster) ─► balancer ───────────┤
//!     "lineside-http-0…" ── HTTP ─► door ─► Pool ─► Mesh of the shard ─► nodes
//!     one thread per session ◄─ jobs ─ node
//!     "lineside-authority" ◄─ joins, renewals ─ mesh, service     (where the authority's key is)
//!         └─ trust lists ─► Keeper ─► disk, Credentials ─► every mesh
//!                                                 └──────► WebKeeper ─► certificate of HTTPS, keys ─► door
//!     SIGHUP ─► Reloader ─► settings ─► door, WebKeeper, log
//! ```
//!
//! `systemd` ◄─ ready, signs of life ─ pulse; `member.drain`, `member.cordon` ─► cordon.
//!
//! # What a defect ends
//!
//! A panic is told in the log with its place, and never more than this is lost:
//!
//! | where | what ends | what others see |
//! |---|---|---|
//! | a call's handler, a task of a connection between members | that connection | its calls are lost, and repeated elsewhere; the next dials anew |
//! | a handshake with somebody who is no peer yet | that handshake | nothing |
//! | an HTTP connection's task | that connection | it breaks |
//! | a model's session | the run, whose callers are told; the session is opened anew, or the model is unavailable | another node serves |
//! | a shard of the door, what keeps roster, gossip, certificates or orders up to date, the loader of the door | the member, in order | it leaves |
//! | the gossip thread; it also counts as ended when it takes no turn for five seconds | the member, in order | it leaves, or is taken for dead |
//! | the network's thread | the process | it is taken for dead |
//! | the network's thread hangs | nothing by itself: systemd's watchdog ends the process | it is taken for dead |
//!
//! A member that ends by a defect exits with 1, and the unit in `config/` starts it anew.
//!
//! Who a member is, is found out in `enter`; starting is in `start`, the door in `opening`, ending in `stop`, in the
//! reverse order: no new work, what runs is finished, the cluster hears a goodbye, sockets close.

mod address;
mod asks;
mod clocks;
mod cordon;
mod defects;
mod desk;
mod disagreement;
mod door;
mod enter;
mod everywhere;
mod home;
mod keeper;
mod known;
mod links;
mod lists;
mod moved;
mod notify;
mod office;
mod opening;
mod own;
mod pulse;
mod ready;
mod reload;
mod renewal;
mod report;
mod rules;
mod saving;
mod service;
mod signals;
mod skew;
mod start;
mod stop;
mod tell;
mod watch;
mod web;

use std::sync::Arc;

use lineside_certs::Token;

use crate::{
    config::{Again, Config},
    exit::{Exit, Failure, OrFail as _, Outcome},
};

pub(crate) use address::{AddressFile, reachable};
pub(crate) use cordon::LeaveOrder;
pub(crate) use home::state_directory;
pub(crate) use notify::Supervisor;
pub(crate) use skew::is_apart;
pub(crate) use start::trial;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    /// Runs models.
    pub(crate) node: bool,
    /// Serves HTTP and forwards calls.
    pub(crate) gateway: bool,
}

/// How a member runs, beyond its configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunOptions {
    /// Ends when stdin does: whoever started it has gone.
    pub(crate) exit_with_parent: bool,
    /// Fails without an identity in the place of making a cluster.
    pub(crate) no_init: bool,
    /// Makes this machine a member, where it is none yet.
    pub(crate) join: Option<Token>,
    /// Where its settings came from, for reading them again.
    pub(crate) again: Again,
    /// The order to leave, when it comes by a call.
    pub(crate) leave: LeaveOrder,
    /// Who started it and wants to hear of it.
    pub(crate) supervisor: Arc<Supervisor>,
}

/// Runs a member until it is told to end.
pub(crate) fn run(config: &Config, roles: Roles, options: &RunOptions) -> Outcome {
    defects::listen();
    // One thread for the whole network: all ready calls share packets, which is worth more than a second core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_fail(
        Exit::Failure,
        "cannot start",
        "the system gives no more threads or files: raise its limits",
    )?;
    let ended = runtime.block_on(async {
        let mut orders = signals::Orders::listen(options.exit_with_parent, options.leave.clone())?;
        let reloads = orders.reloads();
        let mut running = tokio::select! {
            running = start::start(config, roles, options, reloads) => running?,
            who = orders.first() => return Err(Failure::new(
                Exit::Failure,
                "this machine did not join the cluster",
                format!("it was told to end ({who}) before there was an answer"),
                "try again with the same token; it may have been used, then make a new one: lineside token create",
            )),
        };
        let why = running.run_until(orders.first()).await;
        stop::stop(running, why, orders).await
    });
    // Whatever still waits somewhere must not hold up the end.
    runtime.shutdown_background();
    ended
}
