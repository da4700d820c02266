//! Where the traces of all crates go: stderr, for people on a terminal, as JSON otherwise.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use lineside_gateway::LogControl;
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::{
    config::{Log, LogFormat, is_level},
    output,
};

/// The log of this process: there is one, as there is one stderr.
static LOG: OnceLock<Arc<Control>> = OnceLock::new();

/// Starts logging for this process. A second call changes nothing.
pub(crate) fn start(log: &Log) {
    // The level was checked with the rest of the configuration.
    let filter = filter(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let terminal = io::stderr().is_terminal();
    let human = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Lossy(io::stderr()));
    let all = tracing_subscriber::registry().with(filter);
    let started = if human {
        all.with(lines.with_ansi(output::colours(terminal)).with_target(false)).try_init()
    } else {
        all.with(lines.json().flatten_event(true).with_current_span(true).with_span_list(false)).try_init()
    };
    if started.is_ok() {
        let control = Control { filter: handle, level: Mutex::new(log.level.clone()) };
        drop(LOG.set(Arc::new(control)));
    }
}

/// What is written at these directives. The library that watches directories tells at `info` of each one that is gone; what
/// that means for the models is told by the node.
fn filter(directives: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("notify=error,{directives}"))
}

/// The log of this process, once it was started.
pub(crate) fn control() -> Option<Arc<Control>> {
    LOG.get().cloned()
}

/// Changes what is logged while the process runs.
pub(crate) struct Control {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Mutex<String>,
}

impl LogControl for Control {
    fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_level(&self, directives: &str) -> Result<(), String> {
        let directives = directives.trim();
        if !is_level(directives) {
            return Err("allowed is error, warn, info, debug or trace, or directives such as \
                        \"info,lineside_mesh=debug\""
                .to_owned());
        }
        let filter = filter(directives).map_err(|error| error.to_string())?;
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.filter.reload(filter).map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut *level, directives.to_owned());
        drop(level);
        tracing::info!(before, now = directives, "the log was changed");
        Ok(())
    }
}

/// Writes as long as somebody reads. Afterwards lines are lost: told of the error, the subscriber would complain on the
/// same stderr, which panics, and a member would end because its log's reader did.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _gone = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose reader has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_is_lost_without_an_error() {
        let mut log = Lossy(Closed);
        assert!(log.write_all(b"a line").is_ok() && log.flush().is_ok());
    }

    #[test]
    fn other_directives_are_put_in_force_and_those_that_are_none_change_nothing() {
        let (filter, handle) = reload::Layer::new(EnvFilter::new("info"));
        let log = Control { filter: handle, level: Mutex::new("info".to_owned()) };
        let subscriber = Registry::default().with(filter);
        let shown = || tracing::subscriber::with_default(Registry::default(), || log.level());
        log.set_level("warn,lineside_mesh=debug").expect("they are directives");
        assert_eq!(shown(), "warn,lineside_mesh=debug");
        for wrong in ["loud", "", "lineside_mesh=loud", "info,,"] {
            assert!(log.set_level(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(shown(), "warn,lineside_mesh=debug");
        drop(subscriber);
        // Without anybody who logs there is nothing to change, and that is said.
        assert!(log.set_level("info").is_err());
    }
}
