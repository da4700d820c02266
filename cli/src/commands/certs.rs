//! `lineside certs init | issue | show | roles`: offline work on identities.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use lineside_certs::{
    AUTHORITY_DIRECTORY, Authority, CertificateSummary, IDENTITY_DIRECTORY, Identity, Subject, roles,
};
use lineside_wire::Role;

use crate::{
    args::{SettingsArgs, flags},
    exit::{Exit, Failure, OrFail as _, Outcome},
    output::{self, Format, FormatArgs, Table, until},
};

/// `lineside certs …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Make a cluster: its authority and this machine's identity
    Init(InitArgs),
    /// Make an identity for another machine, or for a program
    Issue(IssueArgs),
    /// Show the certificates of this machine, or those in a directory
    Show(ShowArgs),
    /// Show which role may call which method
    Roles(FormatArgs),
}

/// `lineside certs init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The name of the cluster and of this machine [default: the host's name]
    #[arg(long)]
    name: Option<String>,
}

/// `lineside certs issue`.
#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// What the holder may be
    #[arg(long, value_parser = ["node", "gateway", "client", "admin"])]
    role: String,
    /// The holder's name for people
    #[arg(long)]
    name: String,
    /// A directory that is made; copy it to <data directory>/identity of the holder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// `lineside certs show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// A directory with certificates [default: the identity and the authority in the data directory]
    dir: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl Certs {
    /// Does what the command says.
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Init(args) => init(args),
            Self::Issue(args) => issue(args),
            Self::Show(args) => show(args),
            Self::Roles(format) => show_roles(format.output),
        }
    }
}

fn init(args: InitArgs) -> Outcome {
    let config = args.settings.load(flags([("member.name", "--name", args.name)]))?.config;
    let (data, name) = (config.data_dir(), config.name());
    let (identity, made) = Identity::ensure(&data, &name, Role::Node, true, SystemTime::now()).or_fail(
        Exit::Failure,
        format!("cannot make a cluster in {}", data.display()),
        "name an empty directory with --data-dir, or use the cluster that is there",
    )?;
    if !made {
        let what = format!("{} already belongs to the cluster {}", data.display(), identity.cluster());
        let remedy =
            "nothing was changed; `lineside certs show` shows it, another --data-dir makes another cluster";
        return Err(Failure::new(Exit::Failure, what, "an identity is never replaced", remedy));
    }
    output::data(format_args!(
        "cluster    {}\nnode       {} ({})\nauthority  {}\nidentity   {}\n",
        identity.cluster(),
        identity.node(),
        identity.name(),
        data.join(AUTHORITY_DIRECTORY).display(),
        data.join(IDENTITY_DIRECTORY).display(),
    ))?;
    output::note(format_args!(
        "\nKeep a copy of {} in a safe place: whoever has it can make members.\nFor each further machine: \
         lineside certs issue --role node --name NAME --out DIR",
        data.join(AUTHORITY_DIRECTORY).display(),
    ));
    Ok(Exit::Ok)
}

fn issue(args: IssueArgs) -> Outcome {
    let data = args.settings.load(Vec::new())?.config.data_dir();
    let role = Role::ALL.into_iter().find(|role| role.as_str() == args.role);
    let role = role.ok_or_else(|| Failure::new(Exit::Usage, "no such role", &args.role, "use node"))?;
    let authority = Authority::load(&data.join(AUTHORITY_DIRECTORY)).or_fail(
        Exit::Failure,
        format!("cannot issue an identity from {}", data.display()),
        "run this on the machine that made the cluster, or name its --data-dir",
    )?;
    let subject = Subject::new(role, args.name.as_str());
    let issued = authority.issue(&subject, SystemTime::now()).or_fail(
        Exit::Failure,
        format!("cannot issue an identity for {:?}", args.name),
        "choose another --name",
    )?;
    Identity::store(&args.out, &issued).or_fail(
        Exit::Failure,
        format!("cannot write the identity to {}", args.out.display()),
        "name a directory that does not exist yet with --out",
    )?;
    output::data(format_args!("{role} {} ({}) in {}\n", subject.node, subject.name, args.out.display()))?;
    let then = match role {
        Role::Node | Role::Gateway => format!(
            "\nOn that machine:\n  copy {} to DATA/{IDENTITY_DIRECTORY}, readable by its owner only, then delete it here\n  \
             lineside {role} --data-dir DATA",
            args.out.display(),
        ),
        Role::Client | Role::Admin => {
            format!("\nTo use it:\n  lineside members --identity {}", args.out.display())
        }
    };
    output::note(then);
    Ok(Exit::Ok)
}

/// A certificate and where it lies.
#[derive(serde::Serialize)]
struct Found {
    file: PathBuf,
    #[serde(flatten)]
    certificate: CertificateSummary,
    expired: bool,
}

fn show(args: ShowArgs) -> Outcome {
    let directories = match args.dir {
        Some(directory) => vec![directory],
        None => {
            let data = args.settings.load(Vec::new())?.config.data_dir();
            vec![data.join(IDENTITY_DIRECTORY), data.join(AUTHORITY_DIRECTORY)]
        }
    };
    let now = SystemTime::now();
    let mut found = Vec::new();
    for directory in &directories {
        found.extend(certificates_in(directory, now)?);
    }
    if found.is_empty() {
        let places: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
        let remedy = "make a cluster with `lineside certs init`, or name the directory of an identity";
        return Err(Failure::new(Exit::Failure, "there is no certificate", places.join(", "), remedy));
    }
    match args.format.output {
        Format::Json => output::json(&found)?,
        Format::Table => output::data(table(&found, now))?,
    }
    Ok(Exit::Ok)
}

/// The certificates among the files of a directory; none when there is no directory.
fn certificates_in(directory: &Path, now: SystemTime) -> Result<Vec<Found>, Failure> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(Vec::new()) };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pem"));
    files.retain(|file| file.file_stem().is_some_and(|stem| stem != "key"));
    files.sort();
    let read = |file: PathBuf| {
        let certificate = std::fs::read_to_string(&file)
            .map_err(anyhow::Error::from)
            .and_then(|pem| Ok(CertificateSummary::of_pem(&pem)?))
            .or_fail(Exit::Failure, format!("cannot read {}", file.display()), "restore it from a backup")?;
        let expired = certificate.expires_in(now).is_none();
        Ok(Found { file, certificate, expired })
    };
    files.into_iter().map(read).collect()
}

fn table(found: &[Found], now: SystemTime) -> Table {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut table = Table::new(["NAME", "ROLE", "NODE", "CLUSTER", "ENDS", "FILE"]);
    for Found { file, certificate, .. } in found {
        let cluster = certificate.cluster.or(certificate.authority_of);
        table.row([
            certificate.subject.clone(),
            certificate.role.map_or_else(|| "authority".to_owned(), |role| role.to_string()),
            certificate.node.map(|node| node.short()).unwrap_or_default(),
            cluster.map(|cluster| cluster.short()).unwrap_or_default(),
            until(certificate.not_after, now),
            file.display().to_string(),
        ]);
    }
    table
}

fn show_roles(format: Format) -> Outcome {
    match format {
        Format::Json => {
            let table: serde_json::Map<_, _> = roles::TABLE
                .iter()
                .map(|(method, roles)| ((*method).to_owned(), serde_json::json!(roles)))
                .collect();
            output::json(&table)?;
        }
        Format::Table => {
            let mut table = Table::new(["METHOD", "NODE", "GATEWAY", "CLIENT", "ADMIN"]);
            for (method, allowed) in roles::TABLE {
                let may = |role| if allowed.contains(&role) { "yes" } else { "" }.to_owned();
                let [node, gateway, client, admin] = Role::ALL.map(may);
                table.row([(*method).to_owned(), node, gateway, client, admin]);
            }
            output::data(table)?;
        }
    }
    Ok(Exit::Ok)
}
