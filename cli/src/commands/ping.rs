//! `lineside ping`: the round trip to members, by their own connection and with nothing else to do.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use lineside_client::{AskError, Client};
use lineside_wire::{MemberRow, NodeId};
use serde::Serialize;

use super::connect::{ConnectArgs, label, not_answered, select};
use crate::{
    exit::{Exit, Outcome},
    output::{self, Format, FormatArgs, Table, time_us},
};

/// `lineside ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// The member: its name or the beginning of its id [default: all that have not left]
    node: Option<String>,
    /// How many round trips are measured
    #[arg(short, long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl PingArgs {
    /// Measures round trips.
    pub(crate) fn run(self) -> Outcome {
        let Self { node, count, connect, format: FormatArgs { output } } = self;
        connect.run(async move |client| {
            let rows = client.members().await.map_err(|error| not_answered(&error))?.members;
            let targets = match &node {
                Some(wanted) => vec![select(&rows, wanted)?],
                None => rows.iter().filter(|row| row.state != "left").collect(),
            };
            let pinged = join_all(targets.into_iter().map(|row| ping(client, &rows, row, count))).await;
            match output {
                Format::Json => output::json(&pinged)?,
                Format::Table => output::data(table(&pinged))?,
            }
            Ok(exit(&pinged))
        })
    }
}

/// The round trips to one member.
#[derive(Debug, Default, Serialize)]
struct Pinged {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
    address: String,
    sent: u32,
    answered: u32,
    min_us: Option<u64>,
    avg_us: Option<u64>,
    p99_us: Option<u64>,
    max_us: Option<u64>,
    /// Of every answer, in microseconds: at most as many as can be asked for.
    #[serde(skip)]
    trips: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Pinged {
    fn add(&mut self, result: Result<Duration, AskError>) {
        self.sent += 1;
        match result {
            Ok(trip) => {
                self.answered += 1;
                self.trips.push(u64::try_from(trip.as_micros()).unwrap_or(u64::MAX));
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    /// Once all are there.
    fn sum_up(mut self) -> Self {
        self.trips.sort_unstable();
        let sum = self.trips.iter().fold(0, |sum: u64, trip| sum.saturating_add(*trip));
        self.min_us = self.trips.first().copied();
        self.avg_us = sum.checked_div(self.trips.len() as u64);
        // The smallest that 99 of 100 do not exceed.
        self.p99_us = self.trips.get((self.trips.len() * 99).div_ceil(100).saturating_sub(1)).copied();
        self.max_us = self.trips.last().copied();
        self
    }
}

async fn ping(client: &Client, rows: &[MemberRow], row: &MemberRow, count: u32) -> Pinged {
    let (name, address) = (label(rows, row), row.address.to_string());
    let mut pinged = Pinged { name, node: Some(row.node), address, ..Pinged::default() };
    // The first one connects, which is no round trip.
    if let Err(error) = client.ping(row.node).await {
        pinged.add(Err(error));
        return pinged.sum_up();
    }
    for _ in 0..count {
        pinged.add(client.ping(row.node).await);
        if pinged.error.is_some() {
            break;
        }
    }
    pinged.sum_up()
}

/// All answered, some did, or nobody.
fn exit(pinged: &[Pinged]) -> Exit {
    let failed = pinged.iter().filter(|member| member.error.is_some()).count();
    match failed {
        0 => Exit::Ok,
        all if all == pinged.len() => Exit::Unreachable,
        _ => Exit::Degraded,
    }
}

fn table(pinged: &[Pinged]) -> Table {
    let mut table = Table::new(["NODE", "ADDR", "SENT", "ANSWERED", "MIN", "AVG", "P99", "MAX", "REASON"])
        .right([2, 3, 4, 5, 6, 7]);
    for member in pinged {
        let time = |time: Option<u64>| time.map(time_us).unwrap_or_default();
        table.row([
            member.name.clone(),
            member.address.clone(),
            member.sent.to_string(),
            member.answered.to_string(),
            time(member.min_us),
            time(member.avg_us),
            time(member.p99_us),
            time(member.max_us),
            member.error.clone().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinged(trips: &[u64]) -> Pinged {
        let mut pinged =
            Pinged { name: "press".to_owned(), address: "10.0.0.7:7443".to_owned(), ..Pinged::default() };
        trips.iter().for_each(|trip| pinged.add(Ok(Duration::from_micros(*trip))));
        pinged.sum_up()
    }

    #[test]
    fn round_trips_are_summed_up() {
        let text = table(&[pinged(&[300, 100, 200])]).to_string();
        let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["press", "10.0.0.7:7443", "3", "3", "100us", "200us", "300us", "300us", "-"]);
        let many: Vec<_> = (1..=200).collect();
        assert_eq!((pinged(&many).p99_us, pinged(&many).avg_us), (Some(198), Some(100)));
        assert_eq!((pinged(&[]).p99_us, pinged(&[]).avg_us), (None, None));
    }

    #[test]
    fn the_exit_code_says_whether_all_some_or_none_answered() {
        let lost = || {
            let mut lost = pinged(&[]);
            lost.add(Err(AskError::NoMember));
            lost
        };
        assert_eq!(exit(&[pinged(&[1])]), Exit::Ok);
        assert_eq!(exit(&[pinged(&[1]), lost()]), Exit::Degraded);
        assert_eq!(exit(&[lost()]), Exit::Unreachable);
    }
}
