//! Everything that goes to a terminal: data to stdout, progress to stderr.

mod progress;
mod relative;
mod table;

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use anyhow::Context as _;

pub(crate) use progress::Progress;
pub(crate) use relative::{ago, ahead, percent, time_us, until, utc};
pub(crate) use table::Table;

/// How a command writes its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document; its keys stay.
    Json,
}

/// The choice of a format, for every command that lists.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FormatArgs {
    /// How the result is written
    #[arg(short, long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// Whether to colour what goes to a stream: only on a terminal, and never when `NO_COLOR` is set.
pub(crate) fn colours(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How many of several things an error names.
const NAMED_MAX: usize = 5;

/// The first of several things, and how many more there are.
pub(crate) fn first(things: &[String]) -> String {
    let (named, more) = things.split_at(things.len().min(NAMED_MAX));
    match more.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Writes data to stdout.
///
/// # Errors
/// Stdout is closed; [`crate::exit::Failure`] makes a silent end of that.
pub(crate) fn data(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{text}").and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Writes a value to stdout as one indented JSON document.
///
/// # Errors
/// Stdout is closed.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write the result as JSON")?;
    data(format_args!("{text}\n"))
}

/// Writes a line for the person at the keyboard to stderr; if nobody is there, it is lost.
pub(crate) fn note(text: impl Display) {
    let _closed = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_things_the_first_are_named() {
        let things: Vec<_> = (1..=7).map(|n| n.to_string()).collect();
        assert_eq!(first(&things[..5]), "1, 2, 3, 4, 5");
        assert_eq!(first(&things), "1, 2, 3, 4, 5 and 2 more");
    }
}
