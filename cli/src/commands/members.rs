//! `lineside members`: who is there, and how they do.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::Args;
use futures_util::StreamExt as _;
use lineside_client::{Client, Standing};
use lineside_wire::{MemberRow, MembersResult, ModelState};

use super::connect::{ConnectArgs, label, not_answered};
use crate::{
    exit::{Exit, Outcome},
    output::{self, Format, FormatArgs, Table, ago, ahead, percent, time_us, until},
};

/// Begins the screen anew, so that a watched list stays in its place.
const CLEAR_SCREEN: &str = "\u{1b}[H\u{1b}[2J";

/// `lineside members`.
#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Show the list again whenever it changes, until ctrl-C
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    format: FormatArgs,
}

impl MembersArgs {
    /// Lists the members.
    pub(crate) fn run(self) -> Outcome {
        let Self { connect, watch, format: FormatArgs { output } } = self;
        connect.run(async move |client| match watch {
            true => follow(client, output).await,
            false => {
                let list = client.members().await.map_err(|error| not_answered(&error))?;
                match output {
                    Format::Json => output::json(&list)?,
                    Format::Table => output::data(table(&list, now()))?,
                }
                Ok(Exit::Ok)
            }
        })
    }
}

/// Shows every list that comes; as JSON, one document per line. Ends with the reader of stdout, or by ctrl-C.
async fn follow(client: &Client, output: Format) -> Outcome {
    let on_terminal = io::stdout().is_terminal();
    let mut lists = std::pin::pin!(client.watch_members());
    let mut first = true;
    while let Some(told) = lists.next().await {
        let list = match told {
            Ok(list) => list,
            Err(error) => {
                output::note(format_args!("nobody tells the members now, trying again: {error}"));
                continue;
            }
        };
        match output {
            Format::Json => {
                let line = serde_json::to_string(&list).context("cannot write the result as JSON")?;
                output::data(format_args!("{line}\n"))?;
            }
            Format::Table => {
                let apart = if on_terminal {
                    CLEAR_SCREEN
                } else if first {
                    ""
                } else {
                    "\n"
                };
                output::data(format_args!("{apart}{}", table(&list, now())))?;
            }
        }
        first = false;
    }
    Ok(Exit::Ok)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn table(list: &MembersResult, now: u64) -> Table {
    let head = [
        "NODE", "ADDR", "STATE", "ROLE", "MODELS", "INFLIGHT", "P95", "ERR%", "CERT", "TRUST", "CLOCK",
        "SEEN", "VERSION",
    ];
    let newest = newest_trust(&list.members);
    let mut table = Table::new(head).right([5, 6, 7]);
    for row in &list.members {
        let member = row.member.as_ref();
        table.row([
            label(&list.members, row),
            row.address.to_string(),
            state(row),
            role(row),
            models(row),
            in_flight(row).to_string(),
            row.p95_us.map(time_us).unwrap_or_default(),
            percent(row.failures, row.calls),
            until(member.map_or(0, |member| member.certificate_expires), now),
            trust(row, newest),
            row.clock_ahead_ms.map(ahead).unwrap_or_default(),
            ago(Duration::from_millis(row.seen_ms_ago)),
            member.map(|member| member.software.clone()).unwrap_or_default(),
        ]);
    }
    table
}

/// What the cluster thinks of it; one that is there and takes no new work says so itself.
fn state(row: &MemberRow) -> String {
    let state = match row.member.as_ref().filter(|_| row.state == "alive") {
        Some(member) if member.draining => "draining".to_owned(),
        Some(member) if member.cordoned => "cordoned".to_owned(),
        Some(_) | None => row.state.clone(),
    };
    // The answering door gives it no calls for now.
    let state = match row.rests.as_ref().filter(|_| state == "alive" || state == "suspect") {
        Some(why) => format!("{state}+rests:{why}"),
        None => state,
    };
    // A copied disk: two machines take turns at being this member.
    if row.double.is_some() { format!("{state}+double") } else { state }
}

/// The highest number of a trust list that somebody goes by who takes part.
pub(super) fn newest_trust(rows: &[MemberRow]) -> u64 {
    let present = rows.iter().filter(|row| row.state.parse().is_ok_and(Standing::is_present));
    present.filter_map(|row| Some(row.member.as_ref()?.trust.number)).max().unwrap_or(0)
}

/// The number of its trust list, and of the newest where it is behind: `6<7`.
fn trust(row: &MemberRow, newest: u64) -> String {
    match row.member.as_ref().map_or(0, |member| member.trust.number) {
        0 => String::new(),
        number if number < newest => format!("{number}<{newest}"),
        number => number.to_string(),
    }
}

/// Its role; a node that is also a door, `lineside up`, is both.
fn role(row: &MemberRow) -> String {
    let Some(role) = row.role else { return String::new() };
    let is_both = role == lineside_wire::Role::Node && row.member.as_ref().is_some_and(|member| member.door);
    if is_both { "node+gateway".to_owned() } else { role.to_string() }
}

/// How many of its models serve, of how many; nothing for a member that runs none.
fn models(row: &MemberRow) -> String {
    let models = row.member.as_ref().map_or(&[][..], |member| &member.models);
    let ready = models.iter().filter(|model| model.state == ModelState::Ready).count();
    match models.len() {
        0 => String::new(),
        all if all == ready => all.to_string(),
        all => format!("{ready}/{all}"),
    }
}

/// Calls that it has to do, as it reported; at least those that the answering door has in flight to it. What one that is
/// gone reported last is over.
fn in_flight(row: &MemberRow) -> u32 {
    let is_present = row.state.parse().is_ok_and(Standing::is_present);
    let member = row.member.as_ref().filter(|_| is_present);
    let reported = member.map_or(0, |member| member.load.running.saturating_add(member.load.queued));
    reported.max(row.in_flight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{connect::tests as rows, models::tests::model};

    #[test]
    fn the_list_has_one_line_per_member_and_dead_ones_stay() {
        let mut press =
            rows::row("press", vec![model("add", ModelState::Ready), model("glue", ModelState::Loading)]);
        (press.p95_us, press.calls, press.failures) = (Some(1_250), 200, 1);
        press.member.as_mut().unwrap().certificate_expires = 50 + 86_400 * 30;
        let mut weld = rows::row("weld", Vec::new());
        (weld.state, weld.seen_ms_ago, weld.in_flight) = ("down".to_owned(), 300_000, 9);
        press.member.as_mut().unwrap().trust.number = 7;
        (weld.clock_ahead_ms, weld.member.as_mut().unwrap().trust.number) = (Some(-720_000), 6);
        weld.member.as_mut().unwrap().door = true;
        let text = table(&rows::list(vec![press, weld]), 50).to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[0],
            [
                "NODE", "ADDR", "STATE", "ROLE", "MODELS", "INFLIGHT", "P95", "ERR%", "CERT", "TRUST",
                "CLOCK", "SEEN", "VERSION"
            ]
        );
        assert_eq!(
            lines[1],
            [
                "press",
                "10.0.0.7:7443",
                "alive",
                "node",
                "1/2",
                "3",
                "1.25ms",
                "0.5",
                "30d",
                "7",
                "-",
                "now",
                "0.1.0"
            ]
        );
        assert_eq!(
            lines[2],
            [
                "weld",
                "10.0.0.7:7443",
                "down",
                "node+gateway",
                "-",
                "9",
                "-",
                "-",
                "-",
                "6<7",
                "-12m",
                "5m",
                "0.1.0"
            ]
        );
    }

    #[test]
    fn a_member_that_leaves_says_so_and_a_silent_one_says_nothing() {
        let mut row = rows::row("press", Vec::new());
        row.member.as_mut().unwrap().cordoned = true;
        assert_eq!(state(&row), "cordoned");
        row.member.as_mut().unwrap().draining = true;
        assert_eq!(state(&row), "draining");
        assert_eq!(in_flight(&row), 3);
        row.state = "left".to_owned();
        assert_eq!((state(&row).as_str(), in_flight(&row)), ("left", 0), "nothing runs there now");
        row.double = Some(row.address);
        assert_eq!(state(&row), "left+double");
        (row.member, row.role) = (None, None);
        assert_eq!((role(&row), models(&row), in_flight(&row)), (String::new(), String::new(), 0));
    }
}
