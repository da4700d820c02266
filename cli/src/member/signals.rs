//! The orders to end: the first asks for an orderly end, the second for an end at once.

use std::{io::Read as _, thread};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure, OrFail as _};

/// Orders from a person, a supervisor or the process that started this one.
pub(crate) struct Orders {
    interrupt: Signal,
    terminate: Signal,
    orphaned: CancellationToken,
}

impl Orders {
    /// Begins to listen for SIGINT and SIGTERM, and with `parent` for the end of stdin.
    pub(crate) fn listen(parent: bool) -> Result<Self, Failure> {
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
            orphaned,
        })
    }

    /// Waits for the order to end; says whose it was.
    pub(crate) async fn first(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = self.orphaned.cancelled() => "the end of stdin",
        }
    }

    /// Waits for the order to end at once.
    pub(crate) async fn second(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
