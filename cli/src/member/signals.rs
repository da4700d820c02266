//! The orders to end: the first asks for an orderly end, the second for an end at once. And the order to read the
//! settings again.

use std::{
    io::{IsTerminal as _, Read as _},
    thread,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::cordon::LeaveOrder;
use crate::exit::{Exit, Failure, OrFail as _};

/// Orders from a person, a supervisor or the process that started this one.
pub(crate) struct Orders {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    orphaned: CancellationToken,
    /// Given by `member.drain`.
    leave: LeaveOrder,
    /// Whether the first order was that one. A supervisor's signal then is the first one that this process gets, and
    /// means what a first one always does.
    by_call: bool,
    /// Whether it was started on a terminal. When that goes, SIGHUP tells of it.
    on_terminal: bool,
    /// Counts the orders to read the settings again.
    reloads: watch::Sender<u64>,
}

impl Orders {
    /// Begins to listen for SIGINT, SIGTERM and `leave`, and with `parent` for the end of stdin.
    pub(crate) fn listen(parent: bool, leave: LeaveOrder) -> Result<Self, Failure> {
        let listen = |kind| signal(kind).or_fail(Exit::Failure, "cannot listen for signals", "");
        let orphaned = CancellationToken::new();
        if parent {
            let told = orphaned.clone();
            // Ends with the process: a read of stdin cannot be called off.
            let watch = move || {
                drop(std::io::stdin().lock().read_to_end(&mut Vec::new()));
                told.cancel();
            };
            let started = thread::Builder::new().name("lineside-parent".to_owned()).spawn(watch);
            started.or_fail(Exit::Failure, "cannot watch stdin", "")?;
        }
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            orphaned,
            leave,
            by_call: false,
            on_terminal: std::io::stdin().is_terminal(),
            reloads: watch::Sender::new(0),
        })
    }

    /// Rings when the settings are to be read again. Only while somebody waits for [`Orders::first`].
    pub(crate) fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Waits for the order to end; says whose it was.
    pub(crate) async fn first(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                () = self.orphaned.cancelled() => return "the end of stdin",
                () = self.leave.given() => {
                    self.by_call = true;
                    return "member.drain";
                }
                _ = self.hangup.recv() => {
                    // A terminal that was closed is none any more.
                    if self.on_terminal && !std::io::stdin().is_terminal() {
                        return "the end of its terminal";
                    }
                    self.reloads.send_modify(|count| *count += 1);
                }
            }
        }
    }

    /// Waits for the order to end at once: the second signal, or one after the end of stdin.
    pub(crate) async fn second(&mut self) -> &'static str {
        if std::mem::take(&mut self.by_call) {
            let who = self.signal().await;
            tracing::info!(
                order = who,
                "leaving already, by member.drain; the same once more ends it at once"
            );
        }
        self.signal().await
    }

    async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
