//! How a command ends: its exit code, and three lines about what went wrong.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use crate::{config::InvalidConfig, output};

/// The exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// The command failed.
    Failure,
    /// The command line is wrong; also what clap exits with.
    Usage,
    /// The cluster answers, but a member or a model is not well.
    Degraded,
    /// No member could be reached.
    Unreachable,
    /// The configuration is wrong (`EX_CONFIG` of sysexits), so that a supervisor does not restart for ever.
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

impl Exit {
    /// What the shell sees.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Degraded => 3,
            Self::Unreachable => 4,
            Self::Config => 78,
        }
    }
}

/// Why a command failed, for the person at the keyboard.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    complaints: Vec<Complaint>,
}

#[derive(Debug)]
struct Complaint {
    what: String,
    why: String,
    remedy: String,
}

/// What a command gives back.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    /// A failure in three lines: what happened, why, what to do. Empty lines are left out.
    pub(crate) fn new(exit: Exit, what: impl Display, why: impl Display, remedy: impl Display) -> Self {
        let complaint =
            Complaint { what: what.to_string(), why: why.to_string(), remedy: remedy.to_string() };
        Self { exit, complaints: vec![complaint] }
    }

    /// Nothing to say: whoever read our output has gone.
    pub(crate) const fn silent() -> Self {
        Self { exit: Exit::Ok, complaints: Vec::new() }
    }

    /// Why it happened, for another command that goes on without.
    pub(crate) fn why(&self) -> &str {
        self.complaints.first().map_or("", |complaint| match complaint.why.is_empty() {
            true => &complaint.what,
            false => &complaint.why,
        })
    }

    /// What happened, for tests and logs.
    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        self.render(false)
    }

    fn render(&self, colours: bool) -> String {
        let mut text = String::new();
        for Complaint { what, why, remedy } in &self.complaints {
            let head = if colours { "\u{1b}[1;31merror:\u{1b}[0m" } else { "error:" };
            for (label, line) in [(head, what), ("  why:", why), ("  fix:", remedy)] {
                if !line.is_empty() {
                    text.push_str(&format!("{label} {}\n", line.trim_end()));
                }
            }
        }
        text
    }

    /// Writes the lines to stderr. A closed stderr is nobody's fault.
    pub(crate) fn print(&self) {
        let stderr = std::io::stderr();
        let colours = output::colours(stderr.is_terminal());
        let _closed = stderr.lock().write_all(self.render(colours).as_bytes());
    }
}

impl From<InvalidConfig> for Failure {
    fn from(error: InvalidConfig) -> Self {
        // A flag is of the command line: that is usage, whatever it sets.
        let usage = error.mistakes.iter().all(super::config::Mistake::is_of_a_flag);
        let complaints = error.mistakes.iter().map(|mistake| Complaint {
            what: mistake.what(),
            why: mistake.why(),
            remedy: mistake.remedy(),
        });
        let exit = if usage { Exit::Usage } else { Exit::Config };
        Self { exit, complaints: complaints.collect() }
    }
}

/// An error with its causes; the outermost says what happened, the others why.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        if let Some(io) = error.root_cause().downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::BrokenPipe
        {
            return Self::silent();
        }
        let why = reasons(error.chain().skip(1));
        Self::new(Exit::Failure, &error, why, "")
    }
}

/// A chain of causes as one line. Many errors tell their cause themselves: it is not told twice.
fn reasons<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut line = String::new();
    for cause in chain.map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Adds the exit code and the remedy to an error that says what and why itself.
pub(crate) trait OrFail<T> {
    /// Fails with `what` happened, the error as the reason, and the `remedy`.
    fn or_fail(self, exit: Exit, what: impl Display, remedy: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, exit: Exit, what: impl Display, remedy: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, what, reasons(error.into().chain()), remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_what_why_and_what_to_do() {
        let failure = Failure::new(Exit::Failure, "cannot bind", "the port is taken", "choose another");
        assert_eq!(failure.text(), "error: cannot bind\n  why: the port is taken\n  fix: choose another\n");
    }

    #[test]
    fn an_error_with_causes_keeps_them_apart_from_what_happened() {
        let error = anyhow::anyhow!("disk full").context("writing").context("cannot store the identity");
        assert_eq!(
            Failure::from(error).text(),
            "error: cannot store the identity\n  why: writing: disk full\n"
        );
    }

    #[test]
    fn a_cause_that_an_error_tells_itself_is_told_once() {
        let told = Err::<(), _>(anyhow::anyhow!("disk full").context("cert.pem: disk full; free space"));
        let failure = told.or_fail(Exit::Failure, "cannot start", "").unwrap_err();
        assert_eq!(failure.text(), "error: cannot start\n  why: cert.pem: disk full; free space\n");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let failure = Failure::from(anyhow::Error::from(gone).context("cannot print"));
        assert_eq!((failure.exit, failure.text()), (Exit::Ok, String::new()));
    }

    #[test]
    fn a_wrong_flag_is_usage_and_a_wrong_file_is_configuration() {
        use crate::config::{Flag, Sources, load};
        let flags = vec![Flag { key: "gateway.burst", flag: "--burst", value: "0".into() }];
        let of_flag = load(&Sources { flags, ..Sources::default() }).unwrap_err();
        assert_eq!(Failure::from(of_flag).exit, Exit::Usage);
        let environment = vec![("LINESIDE__GATEWAY__BURST".into(), "0".into())];
        let of_variable = load(&Sources { environment, ..Sources::default() }).unwrap_err();
        assert_eq!(Failure::from(of_variable).exit, Exit::Config);
    }
}
