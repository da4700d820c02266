//! Who gives the order: the member itself, an admin, or an admin that the authority's key on this machine makes for it.

use std::{sync::Arc, time::Duration};

use lineside_certs::{
    AUTHORITY_DIRECTORY, Authority, AuthorityError, Clock, Credentials, Identity, Lifetimes, Subject,
};
use lineside_client::{AskError, Client, Standing};
use lineside_wire::{FaultCode, MemberRow, Role, method};

use super::{connected, give, listed};
use crate::{
    commands::{
        certs::office::{unusable_authority, unusable_identity},
        connect::{Ready, label, not_answered, select},
        passphrase::PassphraseArgs,
    },
    config::Config,
    exit::{Exit, Failure},
    member::state_directory,
};

/// How long the admin lasts that is made for one command: longer than any drain. It is on no disk.
const ADMIN_FOR: Duration = Duration::from_secs(2 * 3600);

/// Somebody who may give a member orders, connected.
pub(super) struct Operator {
    config: Config,
    client: Client,
}

impl Operator {
    /// Connects; finds the member that is meant, and gives the list with its place there.
    pub(super) async fn connect(
        ready: Ready,
        passphrase: PassphraseArgs,
        wanted: Option<&str>,
    ) -> Result<(Self, Vec<MemberRow>, usize), Failure> {
        let Ready { config, identity, is_named, addresses } = ready;
        let (own, role) = (identity.identity().node(), identity.identity().role());
        let client = connected(identity, &addresses).await?;
        let rows = listed(&client).await?;
        let found = match wanted {
            Some(wanted) => select(&rows, wanted)?.node,
            None => own,
        };
        let Some(at) = rows.iter().position(|row| row.node == found) else { return Err(nobody_here()) };
        if role == Role::Admin || found == own {
            return Ok((Self { config, client }, rows, at));
        }
        client.close().await;
        let admin = match is_named {
            true => None,
            false => admin(&config, &passphrase)?,
        };
        let Some(admin) = admin else { return Err(nobody_may(&label(&rows, &rows[at]))) };
        let client = connected(admin, &addresses).await?;
        Ok((Self { config, client }, rows, at))
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Gives an order. `name` is what people call the member.
    pub(super) async fn order(
        &self,
        name: &str,
        row: &MemberRow,
        order: &'static str,
    ) -> Result<(), Failure> {
        give(&self.client, row, order).await.map_err(|error| match is_gone(row, &error) {
            true => gone(name, row, order),
            false => refused(&error, order),
        })
    }

    pub(super) async fn close(self) {
        self.client.close().await;
    }
}

/// An admin for this command, where the authority's key is on this machine.
fn admin(config: &Config, passphrase: &PassphraseArgs) -> Result<Option<Credentials>, Failure> {
    let what = "cannot make an admin for this command";
    let fail = |error: AuthorityError| unusable_authority(what, &error);
    let directory = config.data_dir().join(AUTHORITY_DIRECTORY);
    let authority = match Authority::is_locked(&directory) {
        Err(AuthorityError::Missing(_)) => return Ok(None),
        Err(error) => return Err(fail(error)),
        Ok(false) => Authority::load(&directory),
        Ok(true) => Authority::unlock(&directory, &passphrase.present(config)?),
    };
    let lifetimes = Lifetimes { admin: ADMIN_FOR, ..config.lifetimes() };
    let authority = authority.map_err(fail)?.with_lifetimes(lifetimes);
    let clock = Clock::kept_in(&state_directory(config));
    // Its name is what the member's log tells: where the order came from.
    let subject = Subject::new(Role::Admin, config.name());
    let issued = authority.issue(&subject, clock.now()).map_err(fail)?;
    let identity = Identity::of(&issued).map_err(|error| unusable_identity(what, &error))?;
    clock.learn(identity.not_before());
    Ok(Some(Credentials::new(Arc::new(identity), clock)))
}

fn nobody_here() -> Failure {
    Failure::new(
        Exit::Failure,
        "there is no member that this identity is of",
        "without a name, the member of this machine is meant",
        "name one: `lineside members` lists them",
    )
}

fn nobody_may(name: &str) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("this machine may not decide whether {name} takes work"),
        "that is for an admin, or for a command on the machine itself",
        format!(
            "run this on {name}, or on the machine with the authority's key; or make an admin there with `lineside certs \
             admin --out DIR`, and add --identity DIR here"
        ),
    )
}

/// Whether an order failed because nobody is there who could take it. A member that is given up by mistake answers.
fn is_gone(row: &MemberRow, error: &AskError) -> bool {
    let is_silent = matches!(error, AskError::Broken { .. } | AskError::Late { .. });
    is_silent && !row.state.parse().is_ok_and(Standing::is_present)
}

/// An order to a member that is not there.
fn gone(name: &str, row: &MemberRow, order: &str) -> Failure {
    let remedy = match order {
        method::MEMBER_DRAIN => "nothing is left to do: no calls go to it, and it can be switched off",
        _ => {
            "start it again first; whether it is cordoned then is the file state/cordoned in its data directory, which may \
             be made or removed by hand while it does not run"
        }
    };
    let why = match row.state.as_str() {
        "left" => "it has left the cluster",
        "revoked" => "it was shut out of the cluster",
        _ => "it is down: nobody in the cluster hears of it",
    };
    Failure::new(Exit::Failure, format!("{name} is not there to take the order"), why, remedy)
}

/// Why an order was not taken, as the end of a command.
fn refused(error: &AskError, order: &'static str) -> Failure {
    match error {
        AskError::Refused { fault, .. } if fault.code == FaultCode::InvalidRequest => {
            Failure::new(Exit::Failure, "nothing was changed", &fault.message, "")
        }
        AskError::Refused { fault, .. } if fault.code == FaultCode::Internal => Failure::new(
            Exit::Degraded,
            "the order is in force, and was not kept",
            &fault.message,
            "free space there, or see its log; then give the order once more",
        ),
        AskError::Refused { fault, .. } if fault.code == FaultCode::MethodNotFound => Failure::new(
            Exit::Failure,
            "nothing was changed: that member knows no such order",
            &fault.message,
            match order {
                method::MEMBER_DRAIN => "it is of an earlier release: end it with SIGTERM on its machine",
                _ => "it is of an earlier release: bring it to this one first",
            },
        ),
        _ => not_answered(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{certs::tests::Desk, connect::tests as rows};

    #[test]
    fn an_order_to_a_member_that_is_gone_says_so_and_what_can_be_done_without_it() {
        let mut row = rows::row("weld", Vec::new());
        let silent = AskError::Broken { node: row.node, reason: "no answer".to_owned() };
        assert!(!is_gone(&row, &silent), "the others have it for alive: the network is to blame");
        for (state, why) in [("down", "is down"), ("left", "has left"), ("revoked", "was shut out")] {
            row.state = state.to_owned();
            assert!(is_gone(&row, &silent) && !is_gone(&row, &AskError::NoMember));
            let told = gone("weld", &row, method::MEMBER_CORDON).text();
            assert!(told.contains(why) && told.contains("state/cordoned"), "{told}");
        }
        assert!(gone("weld", &row, method::MEMBER_DRAIN).text().contains("nothing is left to do"));
    }

    #[test]
    fn the_authority_here_makes_an_admin_for_one_command() {
        let desk = Desk::founded("press");
        let config = desk.settings().load(Vec::new()).unwrap().config;
        let admin = admin(&config, &PassphraseArgs::default()).unwrap().expect("the key is here");
        let identity = admin.identity();
        assert_eq!((identity.role(), identity.cluster()), (Role::Admin, desk.identity().cluster()));
        assert!(identity.expires_in(admin.clock().now()).unwrap() <= ADMIN_FOR);

        let elsewhere = Desk::empty("weld");
        let config = elsewhere.settings().load(Vec::new()).unwrap().config;
        assert!(super::admin(&config, &PassphraseArgs::default()).unwrap().is_none());
        assert!(nobody_may("weld").text().contains("certs admin --out DIR"));
    }
}
