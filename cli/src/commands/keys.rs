//! `lineside keys create | list | revoke`: API keys, for programs that come over HTTP without a certificate.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use clap::{Args, Subcommand};
use lineside_certs::{
    API_KEY_LIFETIME, API_KEY_LIFETIME_MAX, API_KEY_MARK, API_KEY_METHODS, ApiKeyId, ApiKeyOrder, ApiKeyRow,
    ApiKeyState, WholeApiKey,
};
use lineside_wire::{matches_pattern, method};
use serde::Serialize;

use super::{
    certs::office::{Office, OfficeArgs, seconds, unusable_authority},
    connect::running_here,
};
use crate::{
    config::{Tls, host_name, read_time},
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs, Table, until, utc},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a key may do when nobody says: run models, and see which there are.
const METHODS: [&str; 3] = [method::INFER, method::MODELS_LIST, method::MODELS_GET];

/// `lineside keys …`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Print a new API key, once: it is kept nowhere
    Create(CreateArgs),
    /// List the API keys, and what each may do
    List(ListArgs),
    /// Take an API key back: within seconds it opens no door
    Revoke(RevokeArgs),
}

/// `lineside keys create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    office: OfficeArgs,
    /// Whose key it is, for people: a machine or a program
    #[arg(long)]
    name: String,
    /// A model that it may use, or a pattern such as 'defect*'; may be given several times [default: all]
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// A method that it may use, or a pattern such as 'models.*'; may be given several times [default: infer,
    /// models.list and models.get]
    #[arg(long, value_name = "METHOD", value_parser = known_method)]
    method: Vec<String>,
    /// How long it can be used: 12h, 90d, or never, which is until it is revoked [default: 365d]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires: Option<Lifetime>,
    /// Requests per second, in the place of the door's own limit (gateway.rate_per_second)
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Requests at once, with --rate [default: a second's worth]
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<NonZeroU32>,
    #[command(flatten)]
    format: FormatArgs,
}

/// How long a key can be used; `None` until it is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lifetime(Option<Duration>);

/// `lineside keys list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    office: OfficeArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// `lineside keys revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The key's id, its beginning, or its name, see `lineside keys list`; or the whole key
    #[arg(value_name = "ID|NAME")]
    what: String,
    #[command(flatten)]
    office: OfficeArgs,
}

impl KeysCommand {
    /// Does what the command says.
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Create(args) => args.run(),
            Self::List(args) => args.run(),
            Self::Revoke(args) => args.run(),
        }
    }
}

/// A key that was made. Not `Debug`: the secret is in it.
#[derive(Serialize)]
struct Created {
    id: String,
    /// The whole key, with the secret.
    key: String,
    name: String,
    models: Vec<String>,
    methods: Vec<String>,
    expires: Option<u64>,
}

impl CreateArgs {
    fn run(self) -> Outcome {
        let format = self.format.output;
        let (created, office) = self.create()?;
        let printed = match format {
            Format::Json => output::json(&created),
            Format::Table => output::data(format_args!("{}\n", created.key)),
        };
        if let Err(error) = printed {
            return Err(created.not_printed(&error, &office));
        }
        output::note(created.told(seconds(office.now), &door(&office), &office.config.data_dir_flag()));
        office.warn("no door knows the key before one does");
        Ok(Exit::Ok)
    }

    fn create(self) -> Result<(Created, Office), Failure> {
        let what = "cannot make an API key";
        let or = |given: Vec<String>, default: &[&str]| match given.is_empty() {
            true => default.iter().map(|text| (*text).to_owned()).collect(),
            false => given,
        };
        let order = ApiKeyOrder {
            name: self.name,
            models: or(self.model, &["*"]),
            methods: or(self.method, &METHODS),
            lifetime: self.expires.unwrap_or(Lifetime(Some(API_KEY_LIFETIME))).0,
            rate: self.rate.map(NonZeroU32::get),
            burst: self.burst.map(NonZeroU32::get),
        };
        let office = self.office.open(what)?;
        let key = office.authority.create_key(&order, office.now);
        let key = key.map_err(|error| unusable_authority(what, &error))?;
        let created = Created {
            id: key.id().to_string(),
            key: key.to_string(),
            name: order.name,
            models: order.models,
            methods: order.methods,
            expires: order.lifetime.map(|lifetime| seconds(office.now + lifetime)),
        };
        Ok((created, office))
    }
}

impl Created {
    /// Nobody has the key, so it is taken back: it would be live for a year.
    fn not_printed(&self, error: &anyhow::Error, office: &Office) -> Failure {
        let id = self.id.parse::<ApiKeyId>().ok();
        let taken_back = id.is_some_and(|id| office.authority.revoke_key(id, office.now).is_ok());
        let remedy = match taken_back {
            true => "it was taken back, as nobody has it: make another one".to_owned(),
            false => {
                format!("nobody has it: lineside keys revoke {}{}", self.id, office.config.data_dir_flag())
            }
        };
        Failure::new(
            Exit::Failure,
            "the API key was made and could not be written",
            format!("{error:#}"),
            remedy,
        )
    }

    /// What the person who hands it on should know. `door` is where HTTP is served, `flag` what commands here need to find
    /// the authority.
    fn told(&self, now: u64, door: &str, flag: &str) -> String {
        let Self { id, name, models, methods, expires, .. } = self;
        let ends = match expires {
            Some(expires) => format!("until {} ({})", utc(*expires), until(*expires, now)),
            None => "until it is revoked".to_owned(),
        };
        format!(
            "\nThis is the key of {name:?}. It is shown this once; only its hash is kept.\nIt may call {}, with the models {}, \
             {ends}.\nTo try it:       curl -H \"X-Api-Key: $KEY\" {door}/v1/models\nTo take it back: lineside keys revoke \
             {id}{flag}",
            methods.join(", "),
            models.join(", "),
        )
    }
}

/// Where HTTP is served on this machine, or would be, as an argument of curl: by HTTPS where there is some, as whoever
/// listens on the way would have the key otherwise.
fn door(office: &Office) -> String {
    let running = running_here(&office.config).ok().and_then(|running| running.http);
    let address = running.unwrap_or(office.config.gateway.http);
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let local = SocketAddr::new(ip, address.port());
    match office.config.gateway.tls {
        Tls::Off => format!("http://{local}"),
        Tls::Cluster => {
            format!("--cacert <(lineside certs ca{}) https://{local}", office.config.data_dir_flag())
        }
        // Files are good for a name that clients dial, and hardly for loopback.
        Tls::Files => format!("https://{}:{}", host_name(), local.port()),
    }
}

impl ListArgs {
    fn run(self) -> Outcome {
        let what = "cannot list the API keys";
        let format = self.format.output;
        let office = self.office.open(what)?;
        let rows = office.authority.keys(office.now).map_err(|error| unusable_authority(what, &error))?;
        match format {
            Format::Json => output::json(&rows)?,
            Format::Table => output::data(table(&rows, seconds(office.now)))?,
        }
        Ok(Exit::Ok)
    }
}

fn table(rows: &[ApiKeyRow], now: u64) -> Table {
    let mut table = Table::new(["ID", "NAME", "MODELS", "METHODS", "EXPIRES", "STATE"]);
    for row in rows {
        table.row([
            row.id.to_string(),
            row.name.clone(),
            row.models.join(","),
            row.methods.join(","),
            match (row.state, row.expires) {
                (ApiKeyState::Live, Some(expires)) => until(expires, now),
                (ApiKeyState::Live, None) => "never".to_owned(),
                (ApiKeyState::Expired | ApiKeyState::Revoked, _) => String::new(),
            },
            state(row.state).to_owned(),
        ]);
    }
    table
}

const fn state(state: ApiKeyState) -> &'static str {
    match state {
        ApiKeyState::Live => "live",
        ApiKeyState::Expired => "expired",
        ApiKeyState::Revoked => "revoked",
    }
}

impl RevokeArgs {
    fn run(self) -> Outcome {
        let (row, office) = self.revoke()?;
        output::data(format_args!("revoked {} ({})\n", row.id, row.name))?;
        if office.is_published() {
            output::note(
                "\nThe member that runs here tells the others: within five seconds no door that it reaches takes the key.",
            );
        }
        office.warn("doors take the key until one does");
        Ok(Exit::Ok)
    }

    fn revoke(self) -> Result<(ApiKeyRow, Office), Failure> {
        let what = "cannot take the API key back";
        let office = self.office.open(what)?;
        let fail = |error| unusable_authority(what, &error);
        let rows = office.authority.keys(office.now).map_err(fail)?;
        let row = select(&rows, &meant(&self.what))?;
        match office.authority.revoke_key(row.id, office.now).map_err(fail)? {
            Some(row) => Ok((row, office)),
            None => Err(Failure::new(Exit::Failure, what, "it was taken back just now", "")),
        }
    }
}

/// What is meant: of a whole key its id. The secret is never repeated.
fn meant(text: &str) -> String {
    match text.trim().parse::<WholeApiKey>() {
        Ok(key) => key.id().to_string(),
        Err(_) => match text.trim().strip_prefix(API_KEY_MARK).and_then(|rest| rest.split('_').next()) {
            // A key that was cut off still names itself.
            Some(id) if id.parse::<ApiKeyId>().is_ok() => id.to_owned(),
            Some(_) => format!("{API_KEY_MARK}..."),
            None => text.to_owned(),
        },
    }
}

/// The one key that is meant, which is not revoked: a name outranks the beginning of an id.
fn select<'a>(rows: &'a [ApiKeyRow], wanted: &str) -> Result<&'a ApiKeyRow, Failure> {
    let there = || rows.iter().filter(|row| row.state != ApiKeyState::Revoked);
    let mut found: Vec<_> = there().filter(|row| row.name == wanted).collect();
    if found.is_empty() && !wanted.is_empty() {
        found = there().filter(|row| row.id.to_string().starts_with(wanted)).collect();
    }
    match found[..] {
        [row] => Ok(row),
        [] => Err(Failure::new(
            Exit::Failure,
            format!("there is no API key {wanted:?}"),
            "no key that is live or expired has this name, or an id that begins so",
            "`lineside keys list` shows them",
        )),
        _ => {
            let each = |row: &&ApiKeyRow| format!("{} ({}, {})", row.id, row.name, state(row.state));
            let described: Vec<_> = found.iter().map(each).collect();
            let what = format!("{wanted:?} can be {} API keys", found.len());
            Err(Failure::new(
                Exit::Failure,
                what,
                output::first(&described),
                "revoke each by its id, or the beginning of it",
            ))
        }
    }
}

/// A method that there is, or a pattern of some.
fn known_method(text: &str) -> Result<String, String> {
    if API_KEY_METHODS.iter().any(|method| matches_pattern(text, method)) {
        return Ok(text.to_owned());
    }
    let distance = |method: &&&str| strsim::damerau_levenshtein(text, method);
    let nearest =
        API_KEY_METHODS.iter().min_by_key(distance).filter(|method| distance(method) <= method.len() / 2);
    let all = API_KEY_METHODS.join(", ");
    match nearest {
        Some(nearest) => Err(format!("did you mean {nearest}? There are {all}, and patterns with *")),
        None => Err(format!("there are {all}, and patterns with *")),
    }
}

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let days = |text: &str| DAY.checked_mul(text.strip_suffix('d')?.trim_end().parse().ok()?);
    let allowed = Duration::from_secs(1)..=API_KEY_LIFETIME_MAX;
    let time = days(text).or_else(|| read_time(text)).filter(|time| allowed.contains(time));
    time.map(|time| Lifetime(Some(time))).ok_or_else(|| {
        let most = API_KEY_LIFETIME_MAX.as_secs() / DAY.as_secs();
        format!("write a time from 1s to {most}d, such as 90d, or never")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::certs::tests::Desk;

    fn row(id: u8, name: &str, state: ApiKeyState) -> ApiKeyRow {
        ApiKeyRow {
            id: ApiKeyId([id; 8]),
            name: name.to_owned(),
            models: vec!["*".to_owned()],
            methods: vec!["infer".to_owned()],
            created: Some(10),
            expires: Some(100 + 90 * DAY.as_secs()),
            rate: None,
            burst: None,
            state,
        }
    }

    fn order(desk: &Desk, name: &str) -> CreateArgs {
        CreateArgs {
            office: desk.office(),
            name: name.to_owned(),
            model: Vec::new(),
            method: Vec::new(),
            expires: None,
            rate: None,
            burst: None,
            format: FormatArgs { output: Format::Table },
        }
    }

    #[test]
    fn a_key_is_shown_once_and_may_run_models_for_a_year() {
        let desk = Desk::founded("press");
        let (created, office) = order(&desk, "press-7").create().unwrap();
        assert!(created.key.starts_with("lsk_") && created.key.contains(&created.id));
        let told = created.told(seconds(office.now), &door(&office), " --data-dir /line");
        assert!(!told.contains(&created.key), "the secret is told twice");
        assert!(
            told.contains("It may call infer, models.list, models.get, with the models *, until 20"),
            "{told}"
        );
        assert!(
            told.contains("(365d)")
                && told.contains("curl -H \"X-Api-Key: $KEY\" http://127.0.0.1:8080/v1/models")
        );
        assert!(told.ends_with(&format!("keys revoke {} --data-dir /line", created.id)), "{told}");
        let rows = office.authority.keys(office.now).unwrap();
        let text = table(&rows, seconds(office.now)).to_string();
        assert!(text.contains(&created.id) && text.contains("press-7") && text.contains("live"), "{text}");
        assert!(!serde_json::to_string(&rows).unwrap().contains("hash"));

        let never = CreateArgs {
            model: vec!["defect*".to_owned()],
            expires: Some(Lifetime(None)),
            ..order(&desk, "weld")
        };
        let (never, office) = never.create().unwrap();
        let told = never.told(seconds(office.now), "http://door", "");
        assert!(told.contains("models defect*, until it is revoked"), "{told}");
    }

    #[test]
    fn a_key_can_be_taken_back_once_by_name_or_by_itself() {
        let desk = Desk::founded("press");
        let (one, _) = order(&desk, "press-7").create().unwrap();
        let (two, _) = order(&desk, "weld").create().unwrap();
        let revoke = |what: &str| {
            RevokeArgs { what: what.to_owned(), office: desk.office() }
                .revoke()
                .map(|(row, _)| row.id.to_string())
        };
        assert_eq!(revoke("weld").unwrap(), two.id);
        assert!(revoke("weld").unwrap_err().text().contains("keys list"));
        assert_eq!(revoke(&one.key).unwrap(), one.id);
        let (_, _) = order(&desk, "press-7").create().unwrap();
        let (_, _) = order(&desk, "press-7").create().unwrap();
        assert!(revoke("press-7").unwrap_err().text().contains("can be 2 API keys"));
    }

    #[test]
    fn a_key_that_could_not_be_shown_opens_no_door() {
        let desk = Desk::founded("press");
        let (created, office) = order(&desk, "press-7").create().unwrap();
        let told = created.not_printed(&anyhow::anyhow!("no space left"), &office).text();
        assert!(told.contains("no space left") && told.contains("taken back"), "{told}");
        assert!(!told.contains(&created.key));
        let rows = office.authority.keys(office.now).unwrap();
        assert_eq!(rows.iter().map(|row| row.state).collect::<Vec<_>>(), [ApiKeyState::Revoked]);
    }

    #[test]
    fn a_key_is_meant_by_its_name_or_the_beginning_of_its_id_and_revoked_ones_are_gone() {
        let rows = [
            row(0x1a, "press", ApiKeyState::Live),
            row(0x1b, "press", ApiKeyState::Revoked),
            row(0x1c, "1a", ApiKeyState::Expired),
        ];
        assert_eq!(select(&rows, "press").unwrap().id, ApiKeyId([0x1a; 8]));
        assert_eq!(select(&rows, "1a").unwrap().name, "1a", "a name outranks an id");
        assert_eq!(select(&rows, "1a1a").unwrap().name, "press");
        assert!(select(&rows, "1").unwrap_err().text().contains("can be 2 API keys"));
        for nothing in ["", "1b", "ff"] {
            assert!(select(&rows, nothing).is_err(), "{nothing}");
        }
        let text = table(&rows, 100).to_string();
        assert!(text.contains("90d") && text.contains("revoked") && text.contains("expired"), "{text}");
        let cut_off = "lsk_1a1a1a1a1a1a1a1a_BwcH";
        assert_eq!(
            [meant(cut_off), meant("lsk_secret"), meant("press")],
            ["1a1a1a1a1a1a1a1a", "lsk_...", "press"]
        );
    }

    #[test]
    fn only_what_a_key_can_be_is_taken() {
        assert!(
            known_method("infer").is_ok() && known_method("models.*").is_ok() && known_method("*").is_ok()
        );
        assert!(known_method("model.list").unwrap_err().contains("did you mean models.list?"));
        assert!(known_method("xyzzy*").unwrap_err().contains("cluster.members"));
        assert_eq!(lifetime("90d"), Ok(Lifetime(Some(90 * DAY))));
        assert_eq!(lifetime("12h"), Ok(Lifetime(Some(DAY / 2))));
        assert_eq!(lifetime("never"), Ok(Lifetime(None)));
        let wrong = ["0d", "4000d", "99999999999999999999d", "-1d", "90", "soon", "d", ""];
        assert!(wrong.iter().all(|text| lifetime(text).is_err()));
        let desk = Desk::founded("press");
        let refused = CreateArgs { model: vec!["../x".to_owned()], ..order(&desk, "press-7") }.create();
        assert!(refused.err().unwrap().text().contains("../x"));
        let elsewhere = Desk::empty("weld");
        assert!(order(&elsewhere, "press-7").create().err().unwrap().text().contains("authority's key"));
    }
}
