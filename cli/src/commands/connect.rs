//! How a command finds the running cluster: whom it asks, and as who.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use lineside_certs::{Clock, Credentials, IDENTITY_DIRECTORY, Identity, IdentityError, roles};
use lineside_client::{AskError, Client, ConnectError};
use lineside_wire::{FaultCode, MemberRow};

use super::certs::office::unusable_identity;
use crate::{
    args::SettingsArgs,
    config::{ADDRESS_FILE, Config, DEFAULT_PORT},
    exit::{Exit, Failure, OrFail as _, Outcome},
    member::{AddressFile, state_directory},
};

/// The flags of every command that talks to a running cluster.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The directory of the identity to use [default: the one of this machine's member]
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// The identity to use as a pair of files: the certificate, with the authorities' behind it
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "identity")]
    cert: Option<PathBuf>,
    /// The key of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// A member to ask, HOST or HOST:PORT; may be given several times [default: the member that runs on this
    /// machine, and the seeds in the settings]
    #[arg(long, value_name = "ADDR", value_parser = with_port)]
    connect: Vec<String>,
}

/// Whom a command would ask, and where it looked for that.
#[derive(Debug, PartialEq, Eq)]
struct Addresses {
    found: Vec<String>,
    looked: Vec<String>,
}

impl ConnectArgs {
    /// What there is to connect with, for a command that decides by the answer whom it needs to be.
    pub(super) fn ready(self) -> Result<Ready, Failure> {
        let config = self.settings.load(Vec::new())?.config;
        let is_named = self.identity.is_some() || self.cert.is_some();
        let identity = load_identity(&Place::named(self.identity, self.cert, self.key, &config), &config)?;
        let addresses = addresses(&self.connect, &config)?.found;
        Ok(Ready { config, identity, is_named, addresses })
    }

    /// Connects, runs the command, says goodbye.
    pub(crate) fn run(self, command: impl AsyncFnOnce(&Client) -> Outcome) -> Outcome {
        self.run_for(None, command)
    }

    /// As [`ConnectArgs::run`], for a command that calls a method which not every role may call: that is known, and
    /// said, before anybody is asked.
    pub(crate) fn run_for(
        self,
        method: Option<&str>,
        command: impl AsyncFnOnce(&Client) -> Outcome,
    ) -> Outcome {
        let config = self.settings.load(Vec::new())?.config;
        let identity = load_identity(&Place::named(self.identity, self.cert, self.key, &config), &config)?;
        if let Some(method) = method {
            check_role(&identity.identity(), method)?;
        }
        let addresses = addresses(&self.connect, &config)?;
        runtime()?.block_on(async {
            let client =
                Client::connect(identity, addresses.found).await.map_err(|error| not_connected(&error))?;
            let outcome = command(&client).await;
            client.close().await;
            outcome
        })
    }
}

/// What a command connects with.
pub(super) struct Ready {
    pub(super) config: Config,
    pub(super) identity: Credentials,
    /// Whether a person named that identity.
    pub(super) is_named: bool,
    /// Whom to ask.
    pub(super) addresses: Vec<String>,
}

/// A runtime for one command.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().or_fail(
        Exit::Failure,
        "cannot start",
        "close some programs: the system gives no more files or threads",
    )
}

/// Where an identity is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    Pair { certificate: PathBuf, key: PathBuf },
}

impl Place {
    /// What is named; else the identity of the member on this machine.
    fn named(
        identity: Option<PathBuf>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        config: &Config,
    ) -> Self {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Self::Pair { certificate, key },
            _ => Self::Directory(identity.unwrap_or_else(|| config.data_dir().join(IDENTITY_DIRECTORY))),
        }
    }

    fn load(&self) -> Result<Identity, IdentityError> {
        match self {
            Self::Directory(directory) => Identity::load(directory),
            Self::Pair { certificate, key } => Identity::load_pair(certificate, key),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) | Self::Pair { certificate: path, .. } => path.display().fmt(f),
        }
    }
}

/// The identity, with the time that a member here knows: a command on a board that starts in 1970 works as its member does.
fn load_identity(place: &Place, config: &Config) -> Result<Credentials, Failure> {
    let clock = Clock::kept_in(&state_directory(config));
    let loaded = place.load().and_then(|identity| {
        clock.learn(identity.not_before());
        identity.check_validity(clock.now())?;
        Ok(Credentials::new(Arc::new(identity), clock))
    });
    loaded.map_err(|error| {
        let what = format!("the identity in {place} cannot be used to call the cluster");
        let is_pair = matches!(place, Place::Pair { .. });
        match error {
            error @ IdentityError::Incomplete(_) if !is_pair => unusable_identity(&what, &error),
            IdentityError::Missing(_) | IdentityError::File { .. } | IdentityError::Incomplete(_) => Failure::new(
                Exit::Failure,
                what,
                error,
                "name the member's --data-dir, or an identity of its own with --identity DIR or --cert FILE --key FILE; a \
                 line that makes one is printed, on the machine with the authority's key, by: lineside token create \
                 --role client",
            ),
            error => unusable_identity(&what, &error),
        }
    })
}

fn check_role(identity: &Identity, method: &str) -> Result<(), Failure> {
    if roles::may(identity.role(), method) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failure,
        format!("the role {} may not call {method}", identity.role()),
        format!(
            "the identity of {:?} is a {}'s; this changes the cluster, and needs an admin",
            identity.name(),
            identity.role()
        ),
        "on the machine with the authority's key: lineside certs admin --out DIR; then add --identity DIR",
    ))
}

/// Whom to ask: those that are named, else the member that runs here and the seeds.
fn addresses(named: &[String], config: &Config) -> Result<Addresses, Failure> {
    if !named.is_empty() {
        return Ok(Addresses { found: named.to_vec(), looked: Vec::new() });
    }
    let file = config.data_dir().join(ADDRESS_FILE);
    let mut addresses = Addresses { found: Vec::new(), looked: Vec::new() };
    match running_member(&file) {
        Ok(member) => addresses.found.push(member.members.to_string()),
        Err(why) => addresses.looked.push(why),
    }
    addresses.found.extend(config.member.seeds.iter().map(ToString::to_string));
    if config.member.seeds.is_empty() {
        addresses.looked.push("the settings name no seeds (member.seeds)".to_owned());
    }
    match addresses.found.is_empty() {
        false => Ok(addresses),
        true => Err(Failure::new(
            Exit::Unreachable,
            "no member is known that could be asked",
            addresses.looked.join("; "),
            "name one with --connect HOST, or the --data-dir of the member on this machine; `lineside up` starts one",
        )),
    }
}

/// What the member that runs with this data directory says of itself.
fn running_member(file: &Path) -> Result<AddressFile, String> {
    match fs::read(file) {
        Ok(bytes) => match serde_json::from_slice::<AddressFile>(&bytes) {
            Ok(found) => Ok(found),
            Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("no member runs with this data directory ({} is not there)", file.display()))
        }
        Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
    }
}

/// The member that runs on this machine with these settings, or why there is none.
pub(crate) fn running_here(config: &Config) -> Result<AddressFile, String> {
    let file = config.data_dir().join(ADDRESS_FILE);
    let found = running_member(&file)?;
    // One that was killed leaves its file behind.
    let pid = i32::try_from(found.pid).ok().and_then(rustix::process::Pid::from_raw);
    match pid.map(rustix::process::test_kill_process) {
        Some(Ok(()) | Err(rustix::io::Errno::PERM)) => Ok(found),
        Some(Err(_)) | None => {
            Err(format!("no member runs with this data directory (the one of {} was killed)", file.display()))
        }
    }
}

/// What the members say of each other, asked with the identity of this machine: of the member that runs here, else of
/// the seeds.
pub(crate) fn members_from_here(config: &Config) -> Result<Vec<MemberRow>, Failure> {
    let identity = load_identity(&Place::named(None, None, None, config), config)?;
    let addresses = addresses(&[], config)?;
    runtime()?.block_on(async {
        let client =
            Client::connect(identity, addresses.found).await.map_err(|error| not_connected(&error))?;
        let list = client.members().await.map_err(|error| not_answered(&error));
        client.close().await;
        Ok(list?.members)
    })
}

/// An address as [`Client::connect`] takes it: without a port, the default one is meant.
fn with_port(text: &str) -> Result<String, String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, DEFAULT_PORT).to_string());
    }
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    match (host, port.map(str::parse::<NonZeroU16>)) {
        ("", _) | (_, Some(Err(_))) => {
            Err("write HOST or HOST:PORT with a port from 1 to 65535, for example 10.0.0.7:7443".to_owned())
        }
        (host, None) => Ok(format!("{host}:{DEFAULT_PORT}")),
        (_, Some(Ok(_))) => Ok(text.to_owned()),
    }
}

pub(super) fn not_connected(error: &ConnectError) -> Failure {
    let remedy = "start a member there, or name another one with --connect HOST:PORT; an identity of another cluster \
                  is given with --identity DIR, or with --cert FILE --key FILE";
    match error {
        ConnectError::NoMember { .. } | ConnectError::Members { .. } => {
            Failure::new(Exit::Unreachable, "the cluster cannot be reached", error, remedy)
        }
        ConnectError::Address(_) | ConnectError::NoAddress => Failure::new(
            Exit::Unreachable,
            "the cluster cannot be reached",
            error,
            "name a member with --connect HOST:PORT",
        ),
        ConnectError::Identity(_) | ConnectError::Bind(_) => {
            Failure::new(Exit::Failure, "cannot begin to call the cluster", error, "")
        }
    }
}

/// A question that was not answered, as the end of a command.
pub(crate) fn not_answered(error: &AskError) -> Failure {
    let (exit, remedy) = match error {
        AskError::NoMember | AskError::Late { .. } | AskError::Broken { .. } => {
            (Exit::Unreachable, "try again; `lineside status` tells how the cluster is")
        }
        AskError::UnknownMember(_) => (Exit::Failure, "`lineside members` lists the members"),
        AskError::Refused { fault, .. } if fault.code == FaultCode::PermissionDenied => (
            Exit::Failure,
            "use an identity of another role: --identity DIR, or --cert FILE --key FILE; `lineside certs roles` lists \
             them",
        ),
        AskError::Refused { fault, .. } if fault.code == FaultCode::MethodNotFound => {
            (Exit::Failure, "bring the cluster and this program to the same release")
        }
        AskError::Refused { .. } => (Exit::Failure, ""),
    };
    Failure::new(exit, "the cluster did not answer", error, remedy)
}

/// The members that are meant by a name or by the beginning of an id.
pub(crate) fn select<'a>(rows: &'a [MemberRow], wanted: &str) -> Result<&'a MemberRow, Failure> {
    let named: Vec<_> = rows.iter().filter(|row| row.name == wanted).collect();
    let by_id = || rows.iter().filter(|row| row.node.to_string().starts_with(wanted)).collect();
    let found: Vec<&MemberRow> = if named.is_empty() && !wanted.is_empty() { by_id() } else { named };
    match found[..] {
        [row] => Ok(row),
        [] => {
            let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
            let why = format!("the members are {}", names.join(", "));
            Err(Failure::new(
                Exit::Failure,
                format!("there is no member {wanted:?}"),
                why,
                "give a name or the beginning of an id",
            ))
        }
        _ => {
            let ids: Vec<_> = found.iter().map(|row| format!("{} {}", row.name, row.node.short())).collect();
            let what = format!("{wanted:?} can be {} members", ids.len());
            Err(Failure::new(Exit::Failure, what, ids.join(", "), "give more of the id"))
        }
    }
}

/// What a person calls each member: its name, with the beginning of the id where the name is not unique.
pub(crate) fn label(rows: &[MemberRow], row: &MemberRow) -> String {
    let is_unique = rows.iter().filter(|other| other.name == row.name).count() == 1;
    match is_unique && !row.name.is_empty() {
        true => row.name.clone(),
        false => format!("{} {}", row.name, row.node.short()).trim_start().to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
