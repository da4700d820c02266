//! Waits until a member has left, and shows how much of what it had is left to do.

use std::time::Duration;

use lineside_client::{AskError, Client};
use lineside_wire::{Empty, MemberRow, MemberState, method};
use tokio::time::{Instant, sleep};

use crate::{
    exit::{Exit, Failure, OrFail as _, Outcome},
    local::Stop,
    output::{self, Progress},
};

/// Between two questions: often enough to see a drain of a second.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// What is known of a member that was told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It still has so many calls.
    Works(u32),
    /// The others say that it has left; or it was the last one, and is gone.
    Left,
    /// It has left, and was started again since.
    Again,
    /// It does not answer, and the others have not heard of its end yet.
    Silent,
}

/// Waits until it has left, or somebody breaks off the wait.
pub(super) async fn until_left(client: &Client, name: &str, row: &MemberRow, within: Duration) -> Outcome {
    let mut stop = Stop::listen().or_fail(Exit::Failure, "signals cannot be taken over", "")?;
    tokio::select! {
        outcome = waited(client, name, row, within) => outcome,
        () = stop.asked() => Err(broken_off(name)),
    }
}

async fn waited(client: &Client, name: &str, row: &MemberRow, within: Duration) -> Outcome {
    let (until, mut progress) = (Instant::now() + within, Progress::start(false));
    let mut told = None;
    loop {
        let seen = look(client, row).await;
        match seen {
            Seen::Left | Seen::Again => {
                drop(progress);
                let again = if seen == Seen::Again { ", and was started again" } else { "" };
                output::data(format_args!("{name} has left{again}\n"))?;
                return Ok(Exit::Ok);
            }
            Seen::Works(_) | Seen::Silent if until <= Instant::now() => return Err(late(name, seen, within)),
            Seen::Works(_) | Seen::Silent if told == Some(seen) => {}
            Seen::Works(0) => progress.stage(format_args!("{name} leaves: no calls are left")),
            Seen::Works(number) => {
                let finishes = calls(number);
                progress.stage(format_args!("{name} leaves: it finishes {finishes}"));
            }
            Seen::Silent => progress.stage(format_args!("{name} does not answer any more")),
        }
        told = Some(seen);
        sleep(ASK_EVERY).await;
    }
}

async fn look(client: &Client, row: &MemberRow) -> Seen {
    let own = client.ask_member::<_, MemberState>(row.node, method::MEMBER_STATE, &Empty {}).await;
    let others = match own {
        Ok(state) => return of_its_own(&state, row),
        Err(_) => client.members().await,
    };
    match others {
        Ok(list) => {
            let now = list.members.iter().find(|listed| listed.node == row.node);
            now.map_or(Seen::Left, |now| of_the_others(now, row))
        }
        // Nobody is left to tell.
        Err(AskError::NoMember | AskError::Late { .. } | AskError::Broken { .. }) => Seen::Left,
        Err(AskError::UnknownMember(_) | AskError::Refused { .. }) => Seen::Silent,
    }
}

/// What it says itself: a life after the one that was told to leave takes work.
fn of_its_own(state: &MemberState, before: &MemberRow) -> Seen {
    let epoch = before.member.as_ref().map_or(0, |member| member.epoch);
    match !state.draining && epoch < state.epoch {
        true => Seen::Again,
        false => Seen::Works(state.load.running.saturating_add(state.load.queued)),
    }
}

fn of_the_others(now: &MemberRow, before: &MemberRow) -> Seen {
    match (now.state.as_str(), &now.member) {
        ("left" | "revoked", _) => Seen::Left,
        (_, Some(state)) if of_its_own(state, before) == Seen::Again => Seen::Again,
        (_, Some(_) | None) => Seen::Silent,
    }
}

/// For one call, and for several.
fn calls(number: u32) -> String {
    if number == 1 { "1 call".to_owned() } else { format!("{number} calls") }
}

/// Whoever breaks off the wait may think that this breaks off the drain.
fn broken_off(name: &str) -> Failure {
    Failure::new(
        Exit::Degraded,
        format!("{name} goes on leaving, and nobody waits for it"),
        "a drain cannot be taken back",
        "look with `lineside members`; start it again when it has ended",
    )
}

fn late(name: &str, seen: Seen, within: Duration) -> Failure {
    let why = match seen {
        Seen::Works(number) => format!("it still has {}, and goes on finishing them", calls(number)),
        Seen::Silent | Seen::Left | Seen::Again => {
            "it does not answer, and nobody heard its goodbye".to_owned()
        }
    };
    Failure::new(
        Exit::Degraded,
        format!("{name} has not left within {within:?}"),
        why,
        "look again with `lineside members`; SIGTERM twice on its machine ends it at once, and loses what runs",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::connect::tests::row;

    #[test]
    fn a_member_has_left_when_the_others_say_so_or_it_is_in_its_next_life() {
        let before = row("press", Vec::new());
        let mut now = before.clone();
        assert_eq!(of_the_others(&now, &before), Seen::Silent);
        now.state = "left".to_owned();
        assert_eq!(of_the_others(&now, &before), Seen::Left);
        now.state = "down".to_owned();
        assert_eq!(of_the_others(&now, &before), Seen::Silent, "it did not say goodbye");
        let state = now.member.as_mut().unwrap();
        assert_eq!(of_its_own(state, &before), Seen::Works(3));
        (state.epoch, state.draining) = (2, true);
        assert_eq!(
            of_its_own(state, &before),
            Seen::Works(3),
            "others may force a new life on one that leaves"
        );
        state.draining = false;
        assert_eq!(of_the_others(&now, &before), Seen::Again);
        assert!(late("press", Seen::Works(3), ASK_EVERY).text().contains("3 calls"));
        assert!(late("press", Seen::Works(1), ASK_EVERY).text().contains("1 call,"));
        assert!(broken_off("press").text().contains("press goes on leaving"));
    }
}
