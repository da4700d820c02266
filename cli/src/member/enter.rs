//! Who this member is: the identity that is there, one for a token, or that of a new cluster.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lineside_certs::{
    AUTHORITY_DIRECTORY, Authority, CertificateRequest, Clock, IDENTITY_DIRECTORY, Identity, IdentityError,
    Token, disk,
};
use lineside_client::{EnrolFailure, TokenFate, enrol};
use lineside_wire::{RenewParams, Role};
use tokio::{net::lookup_host, time::timeout};

use super::{Roles, RunOptions, home::state_directory, office};
use crate::{
    config::Config,
    exit::{Exit, Failure, OrFail as _},
};

/// The file that names the authority whose token made this machine a member: after a rotation a flag that stayed in a
/// service's unit is still known for this cluster's.
const JOINED_FILE: &str = "joined";

/// Longest wait for the name service, for seeds that are not needed.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

/// How the identity came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It was there.
    Was,
    /// A cluster was made.
    Made,
    /// A token made this machine a member.
    Joined,
}

/// What a member goes by when it starts.
pub(super) struct Entered {
    pub(super) identity: Arc<Identity>,
    pub(super) way: Way,
    pub(super) clock: Clock,
    /// The cluster's authority, where its key is here and serves.
    pub(super) authority: Option<Authority>,
    /// Where the token says that members are.
    pub(super) seeds: Vec<SocketAddr>,
}

/// Finds out who this member is. Waits for nobody but with a token.
///
/// # Errors
/// The identity cannot be used, there is none and none may be made, or the machine could not join.
pub(super) async fn enter(config: &Config, roles: Roles, options: &RunOptions) -> Result<Entered, Failure> {
    let clock = Clock::kept_in(&state_directory(config));
    let directory = config.data_dir().join(IDENTITY_DIRECTORY);
    let present = match Identity::load(&directory) {
        Ok(identity) => Some(identity),
        Err(IdentityError::Missing(_)) => None,
        Err(error) => return Err(unusable(config, error)),
    };
    let (identity, way) = match (present, &options.join) {
        (Some(identity), None) => (identity, Way::Was),
        (Some(identity), Some(token)) => {
            same_cluster(config, &identity, token)?;
            tracing::info!("this machine is a member already: the token of --join was not used");
            (identity, Way::Was)
        }
        (None, Some(token)) => (join(config, roles, token).await?, Way::Joined),
        (None, None) => make(config, roles, options, &clock)?,
    };
    check_role(config, roles, &identity)?;
    // The authority signed it, so its time has begun: the first that a board in 1970 knows of its cluster's time.
    clock.learn(identity.not_before());
    if let Some(behind) = clock.behind() {
        tracing::warn!(
            behind_s = behind.as_secs(),
            "this machine's clock is behind the last time that it knew: that time is used for certificates; set the \
             clock"
        );
    }
    let authority = office::authority(config, &identity)?;
    let identity = valid(config, identity, authority.as_ref(), clock.now())?;
    let seeds = match &options.join {
        Some(token) => seeds(token).await,
        None => Vec::new(),
    };
    Ok(Entered { identity: Arc::new(identity), way, clock, authority, seeds })
}

fn wanted_role(roles: Roles) -> Role {
    if roles.node { Role::Node } else { Role::Gateway }
}

fn make(
    config: &Config,
    roles: Roles,
    options: &RunOptions,
    clock: &Clock,
) -> Result<(Identity, Way), Failure> {
    let (data, name, lifetimes) = (config.data_dir(), config.name(), config.lifetimes());
    let may_create = !options.no_init;
    let made = Identity::ensure_with(&data, &name, wanted_role(roles), may_create, lifetimes, clock.now());
    match made {
        Ok((identity, true)) => Ok((identity, Way::Made)),
        Ok((identity, false)) => Ok((identity, Way::Was)),
        Err(error @ IdentityError::Missing(_)) => {
            let remedy = "get a line on the machine with the authority (`lineside token create`) and paste it here, or \
                          leave out --no-init to make a cluster";
            Err(Failure::new(Exit::Config, unusable_text(config), error, remedy))
        }
        Err(error) => Err(unusable(config, error)),
    }
}

/// Becomes a member of the token's cluster. The identity is on the disk when this returns.
async fn join(config: &Config, roles: Roles, token: &Token) -> Result<Identity, Failure> {
    let (data, role) = (config.data_dir(), wanted_role(roles));
    let authority = data.join(AUTHORITY_DIRECTORY);
    if disk::is_there(&authority).unwrap_or(true) {
        return Err(Failure::new(
            Exit::Config,
            "cannot join another cluster from here",
            format!("{} is the authority of a cluster that was made on this machine", authority.display()),
            "name an empty directory with --data-dir, or move this one away; the token was not used",
        ));
    }
    tracing::info!(%role, addresses = ?token.addresses(), "joining a cluster");
    let issued = enrol(token, role, &config.name()).await.map_err(|failure| not_joined(&failure))?;
    let directory = data.join(IDENTITY_DIRECTORY);
    let spent =
        "free space or mend the directory, and make a new token (`lineside token create`): this one is used";
    Identity::store(&directory, &issued).or_fail(
        Exit::Failure,
        format!("cannot store the new identity in {}", directory.display()),
        spent,
    )?;
    let identity =
        Identity::load(&directory).or_fail(Exit::Failure, "the new identity cannot be used", spent)?;
    remember(&state_directory(config), token);
    tracing::info!(node = %identity.node(), cluster = %identity.cluster(), "this machine is a member now");
    Ok(identity)
}

fn not_joined(failure: &EnrolFailure) -> Failure {
    let exit = match failure {
        EnrolFailure::NoAnswer { .. } => Exit::Unreachable,
        // The same would happen at every start: a supervisor should stop.
        EnrolFailure::Refused { fate: TokenFate::Spent, .. } => Exit::Config,
        EnrolFailure::Refused { .. } | EnrolFailure::Answer { .. } => Exit::Failure,
    };
    // What to do is part of each.
    Failure::new(exit, "this machine could not join the cluster", failure, "")
}

/// Keeps which authority's token it was. Without it the machine works all the same.
fn remember(state: &Path, token: &Token) {
    let kept = disk::make_private_directory(state)
        .and_then(|()| disk::write_whole(&state.join(JOINED_FILE), hex(token.authority()).as_bytes(), 0o600));
    if let Err(error) = kept {
        tracing::warn!(%error, "it cannot be kept which token this machine joined with");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A flag that stayed where it was must be of the cluster that this machine is in.
fn same_cluster(config: &Config, identity: &Identity, token: &Token) -> Result<(), Failure> {
    let joined = || fs::read_to_string(state_directory(config).join(JOINED_FILE)).unwrap_or_default();
    if identity.trust().has_authority(token.authority()) || joined() == hex(token.authority()) {
        return Ok(());
    }
    let (data, cluster) = (config.data_dir(), identity.cluster());
    Err(Failure::new(
        Exit::Config,
        "cannot join another cluster from here",
        format!(
            "{} holds an identity of the cluster {cluster}, and the token is another one's",
            data.display()
        ),
        format!(
            "leave out --join to go on as a member of {}, or name an empty directory with --data-dir; an identity is never \
             replaced, and the token was not used",
            cluster.short()
        ),
    ))
}

fn check_role(config: &Config, roles: Roles, identity: &Identity) -> Result<(), Failure> {
    let fits = match identity.role() {
        Role::Node => true,
        Role::Gateway => !roles.node,
        Role::Client | Role::Admin => false,
    };
    if fits {
        return Ok(());
    }
    let role = wanted_role(roles);
    let why = format!("its certificate is for the role {}, and this needs {role}", identity.role());
    let remedy = format!(
        "join in an empty data directory with a token for it: `lineside token create --role {role}` on the machine with \
         the authority"
    );
    Err(Failure::new(Exit::Config, unusable_text(config), why, remedy))
}

/// The identity, if its time is now. One that ended while this machine, which has the authority's key, was off is renewed.
fn valid(
    config: &Config,
    identity: Identity,
    authority: Option<&Authority>,
    now: SystemTime,
) -> Result<Identity, Failure> {
    match (identity.check_validity(now), authority) {
        (Ok(()), _) => Ok(identity),
        (Err(IdentityError::Expired { .. }), Some(authority)) => {
            let directory = config.data_dir().join(IDENTITY_DIRECTORY);
            let renewed = renew_own(&identity, authority, &directory, now);
            let renewed = renewed.or_fail(
                Exit::Config,
                unusable_text(config),
                "it expired, and the authority here could not renew it: see whether this machine's clock is right",
            )?;
            tracing::warn!(
                "the certificate had expired while this member was off; its own authority renewed it"
            );
            Ok(renewed)
        }
        (Err(error @ IdentityError::Expired { .. }), None) => {
            let remedy = format!(
                "if the clock is right: move {} away and join anew, with a line from `lineside token create` on the \
                 machine with the authority",
                config.data_dir().join(IDENTITY_DIRECTORY).display()
            );
            Err(Failure::new(Exit::Config, unusable_text(config), error, remedy))
        }
        (Err(error), _) => Err(unusable(config, error)),
    }
}

fn renew_own(
    identity: &Identity,
    authority: &Authority,
    directory: &Path,
    now: SystemTime,
) -> anyhow::Result<Identity> {
    let request = CertificateRequest::new();
    let params = RenewParams { csr: request.csr().to_vec().into() };
    let answer = authority.renew(identity.holder(), &params, now)?;
    Identity::store_renewed(directory, &request.renew(identity, &answer)?)?;
    Ok(Identity::load(directory)?)
}

fn unusable_text(config: &Config) -> String {
    format!("the identity in {} cannot be used", config.data_dir().display())
}

fn unusable(config: &Config, error: IdentityError) -> Failure {
    let error = anyhow::Error::from(error);
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    // A full disk is no mistake in the settings: a supervisor should try again.
    match io.is_some_and(|io| io.kind() == ErrorKind::StorageFull) {
        true => Failure::new(
            Exit::Failure,
            unusable_text(config),
            error,
            "free space, or choose another --data-dir",
        ),
        false => Failure::new(Exit::Config, unusable_text(config), error, ""),
    }
}

/// The members that the token names, to be asked first in this start. What cannot be resolved is not needed.
async fn seeds(token: &Token) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    let resolving = async {
        for name in token.addresses() {
            match lookup_host(name).await {
                Ok(addresses) => found.extend(addresses),
                Err(error) => tracing::debug!(name, %error, "an address of the token cannot be resolved"),
            }
        }
    };
    let _in_time = timeout(RESOLVE_WITHIN, resolving).await;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Roles = Roles { node: true, gateway: false };
    const GATEWAY: Roles = Roles { node: false, gateway: true };

    fn config(data: &Path) -> Config {
        let mut config = Config::default();
        config.member.data_dir = Some(data.to_owned());
        config.member.name = Some("press".to_owned());
        config
    }

    fn token(authority: &Authority) -> Token {
        let lifetime = lineside_certs::TOKEN_LIFETIME;
        let order = lineside_certs::TokenOrder { role: Role::Node, name: None, lifetime };
        let token = authority.create_token(&order, SystemTime::now()).expect("the disk works");
        token.at(vec!["127.0.0.1:9".to_owned()])
    }

    #[tokio::test]
    async fn a_first_start_makes_a_cluster_and_the_next_one_finds_it() {
        let home = tempfile::tempdir().expect("a directory");
        let config = config(&home.path().join("data"));
        let options = RunOptions::default();
        let first = enter(&config, NODE, &options).await.expect("an empty directory");
        assert_eq!((first.way, first.authority.is_some()), (Way::Made, true));
        let again = enter(&config, GATEWAY, &options).await.expect("a node's identity serves a door, too");
        assert_eq!((again.way, again.identity.node()), (Way::Was, first.identity.node()));
    }

    #[tokio::test]
    async fn no_init_never_makes_a_cluster() {
        let home = tempfile::tempdir().expect("a directory");
        let config = config(&home.path().join("data"));
        let options = RunOptions { no_init: true, ..RunOptions::default() };
        let refused = enter(&config, NODE, &options).await.err().expect("there is no identity");
        assert_eq!(refused.exit, Exit::Config);
        assert!(refused.text().contains("lineside token create"), "{}", refused.text());
        assert!(!home.path().join("data/ca").exists());
    }

    #[tokio::test]
    async fn a_token_of_the_own_cluster_is_left_alone_and_one_of_another_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        let config = config(&home.path().join("data"));
        let first = enter(&config, NODE, &RunOptions::default()).await.expect("an empty directory");
        let own = first.authority.expect("it was made here");
        let options = RunOptions { join: Some(token(&own)), ..RunOptions::default() };
        let again = enter(&config, NODE, &options).await.expect("the same cluster");
        assert_eq!((again.way, again.seeds), (Way::Was, vec![([127, 0, 0, 1], 9).into()]));

        let other = Authority::create(&home.path().join("other"), "other", SystemTime::now());
        let other = token(&other.expect("a fresh directory"));
        let options = RunOptions { join: Some(other.clone()), ..RunOptions::default() };
        let refused = enter(&config, NODE, &options).await.err().expect("another cluster's");
        assert_eq!(refused.exit, Exit::Config);
        assert!(
            refused.text().contains("never") && refused.text().contains("was not used"),
            "{}",
            refused.text()
        );
        // As after a rotation: the authority of the token is gone, and the machine joined with it.
        remember(&state_directory(&config), &other);
        assert!(enter(&config, NODE, &options).await.is_ok());
    }

    #[tokio::test]
    async fn a_machine_that_reaches_nobody_is_no_member_and_keeps_its_token() {
        let home = tempfile::tempdir().expect("a directory");
        let authority = Authority::create(&home.path().join("ca"), "line", SystemTime::now());
        let config = config(&home.path().join("data"));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let silent = socket.local_addr().expect("bound").to_string();
        drop(socket);
        let token = token(&authority.expect("a fresh directory")).at(vec![silent]);
        let options = RunOptions { join: Some(token), ..RunOptions::default() };
        let refused = enter(&config, NODE, &options).await.err().expect("nobody is there");
        assert_eq!(refused.exit, Exit::Unreachable, "{}", refused.text());
        assert!(refused.text().contains("token"), "{}", refused.text());
        assert!(!home.path().join("data/identity").exists());
    }
}
