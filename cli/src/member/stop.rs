//! Ends a member: no new work, what runs is finished, the cluster hears a goodbye, sockets close.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{signals::Orders, start::Running};
use crate::exit::{Exit, Failure, Outcome};

/// Beyond the time for what runs: notice, goodbye by gossip and mDNS, the end of connections. Told to a supervisor, which
/// would kill what takes longer.
const GOODBYE_WITHIN: Duration = Duration::from_secs(10);

/// Between "I am leaving" and the last look at what runs: calls that were on their way have arrived by then.
const UNDER_WAY: Duration = Duration::from_millis(300);

/// Why a member ends.
pub(crate) enum Ended {
    /// It was told to, by this.
    Ordered(&'static str),
    /// A part of it that should never end did.
    Broken(String),
}

/// Ends the member in order; a second order ends it at once.
pub(crate) async fn stop(running: Running, why: Ended, mut orders: Orders) -> Outcome {
    match &why {
        Ended::Ordered(who) => {
            tracing::info!(order = who, "leaving: what runs is finished, nothing new is taken");
        }
        Ended::Broken(reason) => tracing::error!(reason, "this member cannot go on"),
    }
    tokio::select! {
        () = leave(running) => {}
        who = orders.second() => {
            tracing::warn!(order = who, "stopped at once: calls that ran here are lost, and repeated elsewhere");
            return Ok(Exit::Failure);
        }
    }
    match why {
        Ended::Ordered(_) => Ok(Exit::Ok),
        Ended::Broken(reason) => Err(Failure::new(
            Exit::Failure,
            "this member cannot go on",
            reason,
            "start it again; see its log",
        )),
    }
}

/// A door finishes first: until then its own node works for it, while gossip already sends other doors elsewhere.
async fn leave(mut running: Running) {
    let within = running.end.settings.borrow().member.drain_within;
    running.end.supervisor.stopping(within + GOODBYE_WITHIN);
    if let Some(state) = running.own.change(|state| state.draining = true) {
        running.discovery.own(state);
    }
    if let Some(shared) = &running.shared {
        shared.leave();
    } else if let Some(node) = &running.node {
        node.drain();
    }
    running.closing.cancel();
    running.mesh.set_enrolment(None);
    sleep(UNDER_WAY).await;
    running.service.calls.close();
    let finished = async {
        while running.door.join_next().await.is_some() {}
        running.service.calls.wait().await;
        let Some(node) = &running.node else { return true };
        node.drain();
        node.finished(within).await
    };
    if !matches!(timeout(within, finished).await, Ok(true)) {
        tracing::warn!(?within, "not everything that ran was finished in time");
    }
    running.upkeep.abort_all();
    running.discovery.leave().await;
    running.mesh.shutdown().await;
    running.dials.close();
    drop(running.home);
    tracing::info!("left the cluster");
}
