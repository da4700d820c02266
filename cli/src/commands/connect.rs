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

fn not_connected(error: &ConnectError) -> Failure {
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
pub(crate) mod tests {
    use std::time::SystemTime;

    use lineside_certs::{Authority, Subject};
    use lineside_wire::{LoadReport, MemberState, MembersResult, ModelInfo, NodeId, Role};

    use super::*;

    /// A member as other commands' tests need it: a node, alive, of these models.
    pub(crate) fn row(name: &str, models: Vec<ModelInfo>) -> MemberRow {
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let node = NodeId::from_bytes(bytes);
        let address = ([10, 0, 0, 7], 7443).into();
        let member = MemberState {
            node,
            name: name.to_owned(),
            role: Role::Node,
            software: "0.1.0".to_owned(),
            address,
            http: None,
            door: false,
            epoch: 1,
            revision: 1,
            draining: false,
            cordoned: false,
            weight: 100,
            load: LoadReport { running: 1, queued: 2, slots: 4, limit: 0, call_us: 0 },
            models,
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        };
        MemberRow {
            node,
            name: name.to_owned(),
            address,
            state: "alive".to_owned(),
            role: Some(Role::Node),
            member: Some(member),
            seen_ms_ago: 12,
            in_flight: 0,
            p95_us: None,
            calls: 0,
            failures: 0,
            clock_ahead_ms: None,
            double: None,
        }
    }

    pub(crate) fn list(members: Vec<MemberRow>) -> MembersResult {
        let cluster = lineside_wire::ClusterId::from_bytes([1; 16]);
        MembersResult { cluster, answered_by: members[0].node, members }
    }

    #[test]
    fn an_address_without_a_port_means_the_default_one() {
        let said = ["10.0.0.7", "10.0.0.7:9", "press", "press:9", "::1", "[::1]", "[::1]:9"].map(with_port);
        let meant =
            ["10.0.0.7:7443", "10.0.0.7:9", "press:7443", "press:9", "[::1]:7443", "[::1]:7443", "[::1]:9"];
        assert_eq!(said, meant.map(|address| Ok(address.to_owned())));
        let wrong = ["", ":7443", "press:", "press:x", "press:0", "press:70000"];
        assert!(wrong.iter().all(|text| with_port(text).is_err()));
    }

    #[test]
    fn a_command_asks_those_named_else_the_member_here_and_the_seeds() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.member.data_dir = Some(home.path().to_owned());
        let nobody = addresses(&[], &config).unwrap_err();
        assert_eq!(nobody.exit, Exit::Unreachable);
        assert!(
            nobody.text().contains("run/address") && nobody.text().contains("--connect"),
            "{}",
            nobody.text()
        );

        config.member.seeds = vec![([10, 0, 0, 9], 7443).into()];
        assert_eq!(addresses(&[], &config).unwrap().found, ["10.0.0.9:7443"]);
        fs::create_dir(home.path().join("run")).unwrap();
        let node = NodeId::from_bytes([1; 16]);
        let json = format!(r#"{{"pid":1,"node":"{node}","members":"127.0.0.1:7555"}}"#);
        fs::write(home.path().join(ADDRESS_FILE), json).unwrap();
        assert_eq!(addresses(&[], &config).unwrap().found, ["127.0.0.1:7555", "10.0.0.9:7443"]);
        assert_eq!(addresses(&["press:9".to_owned()], &config).unwrap().found, ["press:9"]);
    }

    #[test]
    fn a_member_that_was_killed_does_not_run() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.member.data_dir = Some(home.path().to_owned());
        assert!(running_here(&config).unwrap_err().contains("run/address"));
        fs::create_dir(home.path().join("run")).unwrap();
        let node = NodeId::from_bytes([1; 16]);
        let wrote = |pid: u32| {
            let json = format!(r#"{{"pid":{pid},"node":"{node}","members":"127.0.0.1:7555"}}"#);
            fs::write(home.path().join(ADDRESS_FILE), json).unwrap();
            running_here(&config)
        };
        assert_eq!(wrote(std::process::id()).unwrap().node, node);
        // Beyond the largest that Linux gives.
        assert!(wrote(1 << 23).unwrap_err().contains("was killed"));
        assert!(wrote(0).unwrap_err().contains("was killed"));
    }

    #[test]
    fn an_identity_is_a_directory_or_a_pair_of_files_and_else_the_members() {
        let mut config = Config::default();
        config.member.data_dir = Some("/data".into());
        let here = Place::Directory("/data/identity".into());
        assert_eq!(Place::named(None, None, None, &config), here);
        let there = Place::named(Some("/camera".into()), None, None, &config);
        assert_eq!(there, Place::Directory("/camera".into()));
        let pair = Place::named(None, Some("c.pem".into()), Some("k.pem".into()), &config);
        let refused = load_identity(&pair, &config).map(drop).unwrap_err();
        assert!(
            refused.text().contains("c.pem") && refused.text().contains("--cert FILE"),
            "{}",
            refused.text()
        );
    }

    #[test]
    fn a_command_goes_by_the_time_that_the_member_here_knew() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.member.data_dir = Some(home.path().to_owned());
        let (identity, _) =
            Identity::ensure(home.path(), "press", Role::Node, true, SystemTime::now()).unwrap();
        let place = Place::named(None, None, None, &config);
        assert!(load_identity(&place, &config).is_ok());
        let state = state_directory(&config);
        fs::create_dir(&state).unwrap();
        let end = identity.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        fs::write(state.join("clock"), format!("{end}\n")).unwrap();
        let refused = load_identity(&place, &config).map(drop).unwrap_err();
        assert!(
            refused.text().contains("expired") && !refused.text().contains("--cert"),
            "{}",
            refused.text()
        );
        fs::write(home.path().join(IDENTITY_DIRECTORY).join("cert.pem"), "").unwrap();
        let damaged = load_identity(&place, &config).map(drop).unwrap_err();
        assert_eq!(damaged.exit, Exit::Config, "{}", damaged.text());
    }

    #[test]
    fn a_member_is_meant_by_its_name_or_by_the_beginning_of_its_id() {
        let mut rows = vec![row("press", Vec::new()), row("weld", Vec::new())];
        assert_eq!(select(&rows, "weld").unwrap().name, "weld");
        let id = rows[0].node.short();
        assert_eq!(select(&rows, &id).unwrap().name, "press");
        assert!(
            select(&rows, "").is_err() && select(&rows, "glue").unwrap_err().text().contains("press, weld")
        );
        assert_eq!(label(&rows, &rows[0]), "press");

        rows[1].name = "press".to_owned();
        assert!(select(&rows, "press").unwrap_err().text().contains("more of the id"));
        assert_eq!(label(&rows, &rows[1]), format!("press {}", rows[1].node.short()));
    }

    #[test]
    fn who_may_not_change_models_hears_how_to_get_to_be_one_who_may() {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        let issued = authority.issue(&Subject::new(Role::Client, "camera"), SystemTime::now()).unwrap();
        Identity::store(&home.path().join("identity"), &issued).unwrap();
        let identity = Identity::load(&home.path().join("identity")).unwrap();
        let refused = check_role(&identity, lineside_wire::method::MODELS_LOAD).unwrap_err();
        assert!(refused.text().contains("certs admin --out DIR"), "{}", refused.text());
        assert!(check_role(&identity, lineside_wire::method::CLUSTER_WATCH).is_ok());
    }
}
