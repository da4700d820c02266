//! `lineside drain | cordon | undrain`: takes a machine out of work, and lets it back in.

mod operator;
mod wait;

use std::time::Duration;

use clap::Args;
use lineside_client::{Client, Standing};
use lineside_wire::{Empty, MemberRow, ModelState, Role, method};

use self::operator::Operator;
use super::{
    connect::{ConnectArgs, label, not_answered},
    passphrase::PassphraseArgs,
};
use crate::{
    config::read_time,
    exit::{Exit, Failure, Outcome},
    output,
};

/// Beyond the time that a member has for what runs: its notice and its goodbye.
const GOODBYE: Duration = Duration::from_secs(15);

/// The flags of all three.
#[derive(Debug, Args)]
struct OrderArgs {
    /// The member: its name or the beginning of its id [default: the one of this machine]
    node: Option<String>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// `lineside drain`.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Do it also where nobody else serves what this member does
    #[arg(long)]
    force: bool,
    /// Give the order, and do not wait until the member has left
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
    /// Longest wait; the member goes on leaving after it [default: member.drain_within and 15s]
    #[arg(long, value_name = "TIME", value_parser = humantime)]
    timeout: Option<Duration>,
}

/// `lineside cordon`.
#[derive(Debug, Args)]
pub(crate) struct CordonArgs {
    #[command(flatten)]
    order: OrderArgs,
    /// Do it also where no other node serves what this one does
    #[arg(long)]
    force: bool,
}

/// `lineside undrain`.
#[derive(Debug, Args)]
pub(crate) struct UndrainArgs {
    #[command(flatten)]
    order: OrderArgs,
}

impl DrainArgs {
    pub(crate) fn run(self) -> Outcome {
        let Self { order, force, no_wait, timeout } = self;
        order.run(async move |operator: &Operator, rows: &[MemberRow], row: &MemberRow| {
            if !force {
                check_missed("drain", rows, row)?;
            }
            let name = label(rows, row);
            operator.order(&name, row, method::MEMBER_DRAIN).await?;
            if no_wait {
                output::data(format_args!("{name} was told to leave\n"))?;
                return Ok(Exit::Ok);
            }
            let within = timeout.unwrap_or(operator.config().member.drain_within + GOODBYE);
            wait::until_left(operator.client(), &name, row, within).await
        })
    }
}

impl CordonArgs {
    pub(crate) fn run(self) -> Outcome {
        let Self { order, force } = self;
        order.run(async move |operator: &Operator, rows: &[MemberRow], row: &MemberRow| {
            if !force {
                check_missed("cordon", rows, row)?;
            }
            let name = label(rows, row);
            operator.order(&name, row, method::MEMBER_CORDON).await?;
            output::data(format_args!("{name} takes no new work, until: lineside undrain {name}\n"))?;
            Ok(Exit::Ok)
        })
    }
}

impl UndrainArgs {
    pub(crate) fn run(self) -> Outcome {
        self.order.run(async move |operator: &Operator, rows: &[MemberRow], row: &MemberRow| {
            let name = label(rows, row);
            operator.order(&name, row, method::MEMBER_UNDRAIN).await?;
            output::data(format_args!("{name} takes work\n"))?;
            Ok(Exit::Ok)
        })
    }
}

impl OrderArgs {
    /// Connects, finds the member, becomes whoever may give it orders, and gives this one.
    fn run(self, order: impl AsyncFnOnce(&Operator, &[MemberRow], &MemberRow) -> Outcome) -> Outcome {
        let Self { node, passphrase, connect } = self;
        let ready = connect.ready()?;
        super::connect::runtime()?.block_on(async {
            let (operator, rows, at) = Operator::connect(ready, passphrase, node.as_deref()).await?;
            let outcome = order(&operator, &rows, &rows[at]).await;
            operator.close().await;
            outcome
        })
    }
}

/// Refuses to take away what nobody else serves. Other commands of this kind drain what is replicated and ask about the
/// rest: here that is a model without another node, and a door without another door.
fn check_missed(order: &str, rows: &[MemberRow], row: &MemberRow) -> Result<(), Failure> {
    let missed = missed(rows, row, order == "drain");
    if missed.is_empty() {
        return Ok(());
    }
    let name = label(rows, row);
    Err(Failure::new(
        Exit::Failure,
        format!("nothing was changed: without {name} requests would fail"),
        format!("no other member that takes work serves {}", output::first(&missed)),
        format!("start another one first; if it is meant: lineside {order} {name} --force"),
    ))
}

/// What only this member serves. What it does not take work for any more is not missed.
fn missed(rows: &[MemberRow], row: &MemberRow, ends: bool) -> Vec<String> {
    let Some(member) = &row.member else { return Vec::new() };
    if !row.state.parse().is_ok_and(Standing::is_present) {
        // Whoever would miss it does already.
        return Vec::new();
    }
    let works = |other: &&MemberRow| {
        let takes_work = |state: &lineside_wire::MemberState| !state.draining;
        other.node != row.node
            && other.state.parse().is_ok_and(Standing::is_present)
            && other.member.as_ref().is_some_and(takes_work)
    };
    let others = || rows.iter().filter(works).filter_map(|other| other.member.as_ref());
    let mut missed = Vec::new();
    if !member.draining && !member.cordoned && member.role == Role::Node {
        let ready = member.models.iter().filter(|model| model.state == ModelState::Ready);
        for model in ready {
            let serves = |other: &lineside_wire::MemberState| {
                let same =
                    |own: &&lineside_wire::ModelInfo| own.name == model.name && own.version == model.version;
                let found = other.models.iter().find(same);
                !other.cordoned && found.is_some_and(|own| own.state == ModelState::Ready)
            };
            if !others().any(serves) {
                missed.push(format!("{} version {}", model.name, model.version));
            }
        }
    }
    if ends && member.door && !member.draining && !others().any(|other| other.door) {
        missed.push("HTTP".to_owned());
    }
    missed
}

/// Of `--timeout`, as in the settings.
fn humantime(text: &str) -> Result<Duration, String> {
    read_time(text).ok_or_else(|| "write a time, for example 90s or 5m".to_owned())
}

async fn connected(
    identity: impl lineside_client::IntoIdentity,
    addresses: &[String],
) -> Result<Client, Failure> {
    Client::connect(identity, addresses).await.map_err(|error| super::connect::not_connected(&error))
}

async fn listed(client: &Client) -> Result<Vec<MemberRow>, Failure> {
    Ok(client.members().await.map_err(|error| not_answered(&error))?.members)
}

/// What a member answers to an order.
async fn give(
    client: &Client,
    row: &MemberRow,
    order: &'static str,
) -> Result<(), lineside_client::AskError> {
    let Empty {} = client.ask_member(row.node, order, &Empty {}).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{connect::tests as rows, models::tests::model};

    #[test]
    fn what_nobody_else_serves_is_not_taken_away_by_accident() {
        let add = || vec![model("add", ModelState::Ready)];
        let mut list =
            vec![rows::row("press", add()), rows::row("weld", add()), rows::row("door", Vec::new())];
        list[2].member.as_mut().unwrap().door = true;
        assert!(missed(&list, &list[0], true).is_empty());
        assert_eq!(missed(&list, &list[2], true), ["HTTP"]);
        assert!(missed(&list, &list[2], false).is_empty(), "a cordon leaves the door open");

        list[1].member.as_mut().unwrap().cordoned = true;
        assert_eq!(missed(&list, &list[0], false).len(), 1);
        assert!(missed(&list, &list[1], true).is_empty(), "it serves nothing now");
        list[1].member.as_mut().unwrap().cordoned = false;
        list[1].state = "down".to_owned();
        assert!(missed(&list, &list[1], true).is_empty(), "it is gone");
        let refused = check_missed("drain", &list, &list[0]).unwrap_err();
        assert!(
            refused.text().contains("add version") && refused.text().contains("lineside drain press --force")
        );
        list[1].state = "alive".to_owned();
        list[1].member.as_mut().unwrap().models[0].state = ModelState::Loading;
        assert!(check_missed("cordon", &list, &list[0]).unwrap_err().text().contains("cordon press --force"));
    }
}
