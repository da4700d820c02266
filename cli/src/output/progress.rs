//! What happens now, on stderr: one line that changes on a terminal, a line per stage otherwise.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

use tokio::time::Instant;

use super::colours;

/// Writes stages with the time since the first one.
pub(crate) struct Progress {
    started: Instant,
    terminal: bool,
    colours: bool,
    quiet: bool,
    unfinished: bool,
}

impl Progress {
    /// A progress that starts now. A quiet one writes nothing.
    pub(crate) fn start(quiet: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { started: Instant::now(), terminal, colours: colours(terminal), quiet, unfinished: false }
    }

    /// Something was done, or begins; stays on the screen.
    pub(crate) fn stage(&mut self, text: impl Display) {
        self.wipe();
        let elapsed = self.started.elapsed().as_secs_f64();
        let (dim, plain) = if self.colours { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
        self.write(format_args!("{dim}{elapsed:6.1}s{plain}  {text}\n"));
    }

    /// How far something is; replaced by the next one. Only on a terminal.
    pub(crate) fn step(&mut self, text: impl Display) {
        if self.terminal {
            self.wipe();
            let elapsed = self.started.elapsed().as_secs_f64();
            self.write(format_args!("{elapsed:6.1}s  {text}"));
            self.unfinished = true;
        }
    }

    fn wipe(&mut self) {
        if self.unfinished {
            self.write(format_args!("\r\u{1b}[2K"));
            self.unfinished = false;
        }
    }

    fn write(&self, text: std::fmt::Arguments<'_>) {
        if !self.quiet {
            let mut stderr = io::stderr().lock();
            let _closed = stderr.write_fmt(text).and_then(|()| stderr.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.wipe();
    }
}
