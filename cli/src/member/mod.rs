//! A running member: mesh, discovery, node and gateway put together.
//!
//! ```text
//!   main thread, one runtime ── Mesh (UDP): calls in ─► MemberService ─► node | door | own words
//!     "lineside-gossip" ◄─ packets, greetings ─┘            ▲
//!         └─ views ─► Known (roster) ─► balancer ───────────┤
//!     "lineside-http-0…" ── HTTP ─► door ─► Pool ─► Mesh of the shard ─► nodes
//!     one thread per session ◄─ jobs ─ node
//! ```
//!
//! Starting is in `start`, ending in `stop`, in the reverse order: no new work, what runs is finished, the cluster
//! hears a goodbye, sockets close.

mod address;
mod door;
mod known;
mod links;
mod own;
mod service;
mod signals;
mod start;
mod stop;
mod tell;
mod watch;

use crate::{
    config::Config,
    exit::{Exit, OrFail as _, Outcome},
};

pub(crate) use address::AddressFile;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    /// Runs models.
    pub(crate) node: bool,
    /// Serves HTTP and forwards calls.
    pub(crate) gateway: bool,
}

/// How a member runs, beyond its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunOptions {
    /// Ends when stdin does: whoever started it has gone.
    pub(crate) exit_with_parent: bool,
    /// Fails without an identity in the place of making a cluster.
    pub(crate) no_init: bool,
}

/// Runs a member until it is told to end.
pub(crate) fn run(config: &Config, roles: Roles, options: RunOptions) -> Outcome {
    // One thread for the whole network: all ready calls share packets, which is worth more than a second core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_fail(
        Exit::Failure,
        "cannot start",
        "the system gives no more threads or files: raise its limits",
    )?;
    let ended = runtime.block_on(async {
        let mut orders = signals::Orders::listen(options.exit_with_parent)?;
        let mut running = start::start(config, roles, options)?;
        let why = running.run_until(orders.first()).await;
        stop::stop(running, why, orders).await
    });
    // Whatever still waits somewhere must not hold up the end.
    runtime.shutdown_background();
    ended
}
