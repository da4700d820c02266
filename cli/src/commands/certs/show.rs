//! `lineside certs show`: who this machine is, whom it trusts, when its certificate is renewed.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Args;
use lineside_certs::{
    AUTHORITY_DIRECTORY, Authority, CertificateSummary, Clock, IDENTITY_DIRECTORY, Identity, IdentityError,
    Renewal, Trust,
};
use lineside_wire::{ClusterId, NodeId, Role, TrustList, decode_part};
use serde::Serialize;

use super::office::{seconds, unusable_identity};
use crate::{
    args::SettingsArgs,
    exit::{Exit, Failure, OrFail as _, Outcome},
    member::state_directory,
    output::{self, Format, FormatArgs, Table, until, utc},
};

/// What stands before the number of a generation in an authority's name.
const GENERATION_MARK: &str = " CA g";

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

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct Shown {
    identity: Option<Own>,
    trust: Option<Trusted>,
    authority_key: Option<AuthorityKey>,
    certificates: Vec<Found>,
}

/// The identity.
#[derive(Debug, Serialize)]
struct Own {
    subject: String,
    role: Role,
    node: NodeId,
    cluster: ClusterId,
    serial: String,
    /// Generation of the authority that signed it.
    generation: u32,
    not_before: u64,
    not_after: u64,
    expired: bool,
    renewal: Renews,
}

/// When a certificate is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
enum Renews {
    /// At a moment between these, in seconds since 1970.
    Later { from: u64, to: u64 },
    /// Its time has come: it should have been renewed, or is about to be.
    Due { since: u64 },
    /// The cluster has a new authority: soon, whatever its age.
    NewAuthority { generation: u32 },
    /// Never: an admin's is made anew.
    Never,
    /// Not any more: it has ended.
    TooLate,
}

/// Whom it trusts.
#[derive(Debug, Serialize)]
struct Trusted {
    /// Number of the trust list; 0 when there is none yet.
    number: u64,
    signed_at: Option<u64>,
    /// Generation that signs new certificates.
    issuing: u32,
    authorities: Vec<TrustedAuthority>,
    revoked_certificates: usize,
    revoked_nodes: usize,
}

/// An authority that it trusts.
#[derive(Debug, Serialize)]
struct TrustedAuthority {
    generation: u32,
    name: String,
    not_after: u64,
}

/// The authority's key on this machine.
#[derive(Debug, Serialize)]
struct AuthorityKey {
    directory: PathBuf,
    encrypted: bool,
}

/// A certificate and where it lies.
#[derive(Debug, Serialize)]
struct Found {
    file: PathBuf,
    #[serde(flatten)]
    certificate: CertificateSummary,
    expired: bool,
}

impl ShowArgs {
    pub(super) fn run(self) -> Outcome {
        let format = self.format.output;
        let clock = self.clock()?;
        let now = clock.now();
        let (shown, broken) = self.look(now)?;
        match format {
            Format::Json => output::json(&shown)?,
            Format::Table => output::data(shown.text(seconds(now), clock.behind()))?,
        }
        match broken {
            Some(failure) => Err(failure),
            None => Ok(Exit::Ok),
        }
    }

    /// The time that a member here knows, where its certificates are shown.
    fn clock(&self) -> Result<Clock, Failure> {
        match self.dir {
            Some(_) => Ok(Clock::system()),
            None => Ok(Clock::kept_in(&state_directory(&self.settings.clone().load(Vec::new())?.config))),
        }
    }

    /// What is there; and why the identity cannot be used, if it is there and cannot.
    fn look(self, now: SystemTime) -> Result<(Shown, Option<Failure>), Failure> {
        let is_named = self.dir.is_some();
        let directories = match self.dir {
            Some(directory) => vec![directory],
            None => {
                let data = self.settings.load(Vec::new())?.config.data_dir();
                vec![data.join(IDENTITY_DIRECTORY), data.join(AUTHORITY_DIRECTORY)]
            }
        };
        let (mut certificates, mut unreadable) = (Vec::new(), None);
        for directory in &directories {
            let (found, failure) = certificates_in(directory, now);
            certificates.extend(found);
            unreadable = unreadable.or(failure);
        }
        let (identity, broken) = match Identity::load(&directories[0]) {
            Ok(identity) => (Some(identity), None),
            Err(IdentityError::Missing(_)) => (None, None),
            // It may hold other certificates than an identity's.
            Err(IdentityError::Incomplete(_)) if is_named => (None, None),
            Err(error) => {
                let what = format!("the identity in {} cannot be used", directories[0].display());
                (None, Some(unusable_identity(&what, &error)))
            }
        };
        // What an identity says of its own damage says more.
        let broken = broken.or(unreadable);
        if certificates.is_empty() && broken.is_none() {
            let places: Vec<_> =
                directories.iter().map(|directory| directory.display().to_string()).collect();
            let remedy = "make a cluster with `lineside up`, join one with a line of `lineside token create`, or name \
                          the directory of an identity";
            return Err(Failure::new(Exit::Failure, "there is no certificate", places.join(", "), remedy));
        }
        let trust = identity.as_ref().and_then(|identity| Trusted::of(identity.trust()));
        let issuing = trust.as_ref().map_or(0, |trust| trust.issuing);
        let authority_key = directories.iter().find_map(|directory| AuthorityKey::in_directory(directory));
        let identity = identity.map(|identity| Own::of(&identity, issuing, now));
        Ok((Shown { identity, trust, authority_key, certificates }, broken))
    }
}

impl Own {
    fn of(identity: &Identity, issuing: u32, now: SystemTime) -> Self {
        let holder = identity.holder();
        Self {
            subject: holder.name.clone(),
            role: holder.role,
            node: holder.node,
            cluster: holder.cluster,
            serial: holder.serial.clone(),
            generation: holder.generation,
            not_before: seconds(identity.not_before()),
            not_after: seconds(identity.not_after()),
            expired: identity.expires_in(now).is_none(),
            renewal: {
                let (not_before, not_after) = (identity.not_before(), identity.not_after());
                Renews::of(holder.role, &Renewal { not_before, not_after }, (holder.generation, issuing), now)
            },
        }
    }
}

impl Renews {
    /// Of a certificate of the first of these generations while the second signs.
    fn of(role: Role, renewal: &Renewal, (own, issuing): (u32, u32), now: SystemTime) -> Self {
        // Which moment between these two it is, the holder has chosen by chance.
        let [from, to] = [0.0, 1.0].map(|chance| seconds(renewal.due_at(chance)));
        let (ends, now) = (seconds(renewal.not_after), seconds(now));
        match role {
            Role::Admin => Self::Never,
            Role::Node | Role::Gateway | Role::Client if ends <= now => Self::TooLate,
            Role::Node | Role::Gateway | Role::Client if own < issuing => {
                Self::NewAuthority { generation: issuing }
            }
            Role::Node | Role::Gateway | Role::Client if from <= now => Self::Due { since: from },
            Role::Node | Role::Gateway | Role::Client => Self::Later { from, to },
        }
    }

    fn text(self, now: u64) -> String {
        match self {
            Self::Later { from, to } => {
                format!(
                    "in {} to {}, by itself ({} to {})",
                    until(from, now),
                    until(to, now),
                    utc(from),
                    utc(to)
                )
            }
            Self::Due { since } => format!(
                "due since {}; by itself, as soon as a member with the authority's key is reached",
                utc(since)
            ),
            Self::NewAuthority { generation } => {
                format!("soon, by itself: generation {generation} of the authority signs now")
            }
            Self::Never => "never; `lineside certs admin` makes another".to_owned(),
            Self::TooLate => {
                "too late: move the identity directory away, and join anew with a token".to_owned()
            }
        }
    }
}

impl Trusted {
    /// `None` when its document cannot be read, which loading it has ruled out.
    fn of(trust: &Trust) -> Option<Self> {
        let revoked_certificates = trust.revoked_certificates();
        if let Some(signed) = trust.signed() {
            let list: TrustList = decode_part(&signed.document).ok()?;
            let authorities = list.authorities.iter().filter_map(|authority| {
                let summary = CertificateSummary::of_der(&authority.certificate.as_slice().into()).ok()?;
                Some(TrustedAuthority::of(authority.generation, summary))
            });
            return Some(Self {
                number: list.number,
                signed_at: Some(list.signed_at),
                issuing: list.issuing,
                authorities: authorities.collect(),
                revoked_certificates,
                revoked_nodes: list.revoked_nodes.len(),
            });
        }
        let summary = CertificateSummary::of_pem(&trust.authorities_pem()).ok()?;
        let generation =
            summary.subject.rsplit_once(GENERATION_MARK).and_then(|(_, number)| number.parse().ok());
        Some(Self {
            number: 0,
            signed_at: None,
            issuing: trust.issuing(),
            authorities: vec![TrustedAuthority::of(generation.unwrap_or(0), summary)],
            revoked_certificates,
            revoked_nodes: 0,
        })
    }
}

impl TrustedAuthority {
    fn of(generation: u32, summary: CertificateSummary) -> Self {
        Self { generation, name: summary.subject, not_after: summary.not_after }
    }
}

impl AuthorityKey {
    fn in_directory(directory: &Path) -> Option<Self> {
        let encrypted = Authority::is_locked(directory).ok()?;
        Some(Self { directory: directory.to_owned(), encrypted })
    }
}

impl Shown {
    fn text(&self, now: u64, clock_behind: Option<Duration>) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            let value = value.replace(|c: char| c.is_control(), "?");
            writeln!(text, "{label:<12} {value}").expect("writing to memory does not fail");
        };
        if let Some(own) = &self.identity {
            line("subject", own.subject.clone());
            line("role", own.role.to_string());
            line("node", own.node.to_string());
            line("cluster", own.cluster.to_string());
            line("certificate", format!("{}, of generation {}", own.serial, own.generation));
            let left = until(own.not_after, now);
            let left = if own.expired { left } else { format!("{left} left") };
            line("valid", format!("{} to {} ({left})", utc(own.not_before), utc(own.not_after)));
            line("renewal", own.renewal.text(now));
        }
        if let Some(trust) = &self.trust {
            let signed = match trust.signed_at {
                Some(at) => format!("number {}, signed {}", trust.number, utc(at)),
                None => "none yet".to_owned(),
            };
            line("trust list", signed);
            for authority in &trust.authorities {
                let does = if authority.generation == trust.issuing { "signs" } else { "is still trusted" };
                let (ends, left) = (utc(authority.not_after), until(authority.not_after, now));
                line(
                    "authority",
                    format!(
                        "generation {} {does}, {}, until {ends} ({left})",
                        authority.generation, authority.name
                    ),
                );
            }
            line(
                "revoked",
                format!("{} certificates, {} nodes", trust.revoked_certificates, trust.revoked_nodes),
            );
        }
        if let Some(AuthorityKey { directory, encrypted }) = &self.authority_key {
            let how = if *encrypted { "encrypted with a passphrase" } else { "without a passphrase" };
            line("key", format!("the authority's is here, {how}: {}", directory.display()));
        }
        if let Some(behind) = clock_behind {
            let behind = behind.as_secs();
            line("clock", format!("this machine's is at least {behind} s behind: set it"));
        }
        let gap = if text.is_empty() { "" } else { "\n" };
        format!("{text}{gap}{}", table(&self.certificates, now))
    }
}

/// The certificates among the files of a directory, none when there is no directory; and why the first one that cannot be
/// read cannot.
fn certificates_in(directory: &Path, now: SystemTime) -> (Vec<Found>, Option<Failure>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return (Vec::new(), None) };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pem"));
    files.sort();
    let (mut found, mut unreadable) = (Vec::new(), None);
    for file in files {
        match certificate_in(&file) {
            Ok(Some(certificate)) => {
                let expired = certificate.expires_in(now).is_none();
                found.push(Found { file, certificate, expired });
            }
            Ok(None) => {}
            Err(failure) => unreadable = unreadable.or(Some(failure)),
        }
    }
    (found, unreadable)
}

/// The certificate in a file; `None` for one with a key alone.
fn certificate_in(file: &Path) -> Result<Option<CertificateSummary>, Failure> {
    let (what, remedy) = (format!("cannot read {}", file.display()), "restore it from a backup");
    let pem = std::fs::read_to_string(file).or_fail(Exit::Failure, &what, remedy)?;
    if pem.contains("PRIVATE KEY-----") && !pem.contains("CERTIFICATE-----") {
        return Ok(None);
    }
    let damaged = |_| Failure::new(Exit::Config, &what, "its certificate is damaged or cut off", remedy);
    CertificateSummary::of_pem(&pem).map(Some).map_err(damaged)
}

fn table(found: &[Found], now: u64) -> Table {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::commands::certs::{office::now, tests::Desk};

    fn look(desk: &Desk, dir: Option<PathBuf>) -> Result<(Shown, Option<Failure>), Failure> {
        ShowArgs { dir, settings: desk.settings(), format: FormatArgs { output: Format::Table } }.look(now())
    }

    #[test]
    fn a_certificate_is_renewed_before_half_its_life_and_soon_under_a_new_authority() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let renewal = Renewal { not_before: at(1_000), not_after: at(2_000) };
        let of = |role, generations, now| Renews::of(role, &renewal, generations, at(now));
        assert_eq!(of(Role::Node, (1, 1), 1_399), Renews::Later { from: 1_400, to: 1_500 });
        assert_eq!(of(Role::Node, (1, 1), 1_400), Renews::Due { since: 1_400 });
        assert_eq!(of(Role::Client, (1, 2), 1_001), Renews::NewAuthority { generation: 2 });
        assert_eq!(of(Role::Admin, (1, 2), 1_999), Renews::Never);
        assert_eq!(of(Role::Gateway, (1, 2), 2_000), Renews::TooLate);
        let texts = [Renews::Never, Renews::TooLate, Renews::Due { since: 5 }].map(|renews| renews.text(9));
        assert!(
            texts[0].contains("certs admin") && texts[1].contains("anew") && texts[2].contains("due since")
        );
    }

    #[test]
    fn a_member_shows_who_it_is_and_whom_it_trusts() {
        let desk = Desk::founded("press");
        let (shown, broken) = look(&desk, None).unwrap();
        assert!(broken.is_none());
        let text = shown.text(seconds(now()), None);
        for said in
            ["subject      press", "role         node", "generation 1 signs", "0 certificates, 0 nodes"]
        {
            assert!(text.contains(said), "{said:?} is not in {text}");
        }
        assert!(text.contains("without a passphrase") && text.contains("d left"), "{text}");
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(
            (&json["identity"]["generation"], &json["identity"]["renewal"]["state"]),
            (&1.into(), &"later".into())
        );
        let late = shown.text(u64::MAX / 2, Some(Duration::from_secs(90)));
        assert!(late.contains("expired") && late.contains("90 s behind"), "{late}");
    }

    #[test]
    fn a_directory_is_shown_also_when_its_identity_cannot_be_used() {
        let desk = Desk::founded("press");
        let identity = desk.data().join(IDENTITY_DIRECTORY);
        fs::write(identity.join("key.pem"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .unwrap();
        let (shown, broken) = look(&desk, Some(identity)).unwrap();
        assert!(shown.identity.is_none() && shown.certificates.len() == 2, "{shown:?}");
        assert_eq!(broken.unwrap().exit, Exit::Config);
    }

    #[test]
    fn one_damaged_file_does_not_hide_the_others() {
        let desk = Desk::founded("press");
        fs::write(desk.data().join(IDENTITY_DIRECTORY).join("cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA")
            .unwrap();
        let (shown, broken) = look(&desk, None).unwrap();
        assert_eq!(shown.certificates.len(), 2, "{shown:?}");
        assert!(broken.unwrap().text().contains("join anew"));

        fs::write(desk.authority().join("ca-g1.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
        let (_, broken) = look(&desk, Some(desk.authority())).unwrap();
        let text = broken.unwrap().text();
        assert!(text.contains("ca-g1.pem") && text.contains("damaged or cut off"), "{text}");
    }

    #[test]
    fn where_nothing_is_that_is_said() {
        let refused = look(&Desk::empty("weld"), None).map(drop).unwrap_err();
        assert!(refused.text().contains("lineside token create"), "{}", refused.text());
    }
}
