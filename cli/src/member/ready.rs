//! What a door must have to be ready, check by check. Pure.

use std::time::Duration;

use lineside_client::{Roster, Standing};
use lineside_gateway::Check;
use lineside_wire::Role;

use super::own::Own;

/// The checks of a door in this process, beside whether it leaves.
///
/// A node that is cordoned does not make its door unready: the others work for it.
pub(super) fn checks(roster: &Roster, own: &Own, certificate_left: Duration) -> Vec<Check> {
    let (nodes, models) = nodes_and_models(roster, own);
    vec![
        Check::new("certificate", certificate(certificate_left)),
        Check::new("gossip", gossip(own)),
        Check::new("discovery", discovery(roster, own)),
        Check::new("nodes", nodes),
        Check::new("models", models),
    ]
}

/// Without a valid one no node answers this door.
fn certificate(left: Duration) -> Result<(), String> {
    match left.is_zero() {
        false => Ok(()),
        true => Err("this member's certificate has ended: the others refuse it".to_owned()),
    }
}

fn gossip(own: &Own) -> Result<(), String> {
    match own.gossips() {
        true => Ok(()),
        false => Err("the gossip thread stands still: this member no longer follows its cluster".to_owned()),
    }
}

/// Whether this member takes part, as far as it knows itself.
fn discovery(roster: &Roster, own: &Own) -> Result<(), String> {
    let node = own.state().node;
    let row =
        roster.rows().iter().find(|row| row.node == node).ok_or("this member does not list itself yet")?;
    match row.state.parse() {
        Ok(Standing::Alive | Standing::Suspect) if row.double.is_some() => {
            Err("another machine runs with this member's identity: a copied disk".to_owned())
        }
        Ok(Standing::Alive | Standing::Suspect) => Ok(()),
        Ok(Standing::Down | Standing::Left | Standing::Revoked) | Err(_) => {
            Err(format!("this member does not take part: it is {}", row.state))
        }
    }
}

/// Whether a node takes work, and whether one does that has loaded what it found at its start. Without the first the
/// second says nothing.
fn nodes_and_models(roster: &Roster, own: &Own) -> (Result<(), String>, Result<(), String>) {
    let revision = |node| {
        let row = roster.rows().iter().find(|row| row.node == node)?;
        Some(row.member.as_ref()?.revision)
    };
    let Err(why) = roster.ready_while(own.starts(revision)) else { return (Ok(()), Ok(())) };
    let takes_work = roster.rows().iter().any(|row| {
        let node = row.member.as_ref().filter(|state| state.role == Role::Node);
        row.state.parse().is_ok_and(Standing::is_present)
            && node.is_some_and(|state| !state.draining && !state.cordoned)
    });
    match takes_work {
        true => (Ok(()), Err(why)),
        false => (Err(why), Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{ClusterId, MemberRow, ModelState};

    use super::*;
    use crate::commands::{
        connect::tests::{list, row},
        models::tests::model,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn failed(rows: Vec<MemberRow>, own: &Own, left: Duration) -> Vec<&'static str> {
        let checks = checks(&Roster::new(list(rows)), own, left);
        assert_eq!(
            checks.iter().map(|check| check.name).collect::<Vec<_>>(),
            ["certificate", "gossip", "discovery", "nodes", "models"]
        );
        checks.into_iter().filter(|check| check.failure.is_some()).map(|check| check.name).collect()
    }

    fn press(state: ModelState) -> MemberRow {
        row("press", vec![model("add", state)])
    }

    #[test]
    fn each_thing_that_can_be_wrong_fails_the_check_of_its_name() {
        let mine = row("door", Vec::new());
        let mut state = mine.member.clone().expect("a member");
        state.role = Role::Gateway;
        let own = Own::new(ClusterId::from_bytes([1; 16]), state.clone());
        own.set_loaded();
        let mine = MemberRow { member: Some(state), ..mine };
        let well = || vec![mine.clone(), press(ModelState::Ready)];
        assert!(failed(well(), &own, HOUR).is_empty());
        assert_eq!(failed(well(), &own, Duration::ZERO), ["certificate"]);
        assert_eq!(failed(vec![mine.clone(), press(ModelState::Loading)], &own, HOUR), ["models"]);
        assert_eq!(failed(vec![mine.clone()], &own, HOUR), ["nodes"]);
        let mut away = well();
        away[1].member.as_mut().expect("a member").cordoned = true;
        assert_eq!(failed(away, &own, HOUR), ["nodes"]);
        let mut gone = well();
        gone[0].state = "left".to_owned();
        assert_eq!(failed(gone, &own, HOUR), ["discovery"]);
        let mut copied = well();
        copied[0].double = Some(([10, 0, 0, 8], 7443).into());
        assert_eq!(failed(copied, &own, HOUR), ["discovery"]);
        own.set_gossips(false);
        assert_eq!(failed(well(), &own, HOUR), ["gossip"]);
    }
}
