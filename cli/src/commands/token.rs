//! `lineside token create | list | revoke`: lines that make machines members.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::{Args, Subcommand};
use lineside_certs::{TOKEN_LIFETIME, TOKEN_LIFETIME_MAX, Token, TokenOrder, TokenRow, TokenState};
use lineside_wire::Role;
use serde::Serialize;

use super::{
    certs::office::{Office, OfficeArgs, seconds, unusable_authority},
    connect::running_here,
};
use crate::{
    config::read_time,
    exit::{Exit, Failure, Outcome},
    member,
    output::{self, Format, FormatArgs, Table, until, utc},
};

/// What every token begins with.
const TOKEN_MARK: &str = "ls1";

/// `lineside token …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a line that makes one machine a member: paste it there
    Create(CreateArgs),
    /// List tokens, and who used them
    List(ListArgs),
    /// Take a token back that was not used yet
    Revoke(RevokeArgs),
}

/// `lineside token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    office: OfficeArgs,
    /// What the machine may be: node, gateway or client
    #[arg(long, default_value = "node", value_parser = role_that_joins)]
    role: Role,
    /// The machine's name for people [default: it chooses one itself]
    #[arg(long)]
    name: Option<String>,
    /// How long the token can be used, at most 24h [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    ttl: Option<Duration>,
    /// Where the machine finds a member with the authority's key, HOST or HOST:PORT; may be given several times
    /// [default: the addresses of the member on this machine]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    address: Vec<String>,
    #[command(flatten)]
    format: FormatArgs,
}

/// `lineside token list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    office: OfficeArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// `lineside token revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The token's id, or its beginning, see `lineside token list`; or the whole token
    id: String,
    #[command(flatten)]
    office: OfficeArgs,
}

impl TokenCommand {
    /// Does what the command says.
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Create(args) => args.run(),
            Self::List(args) => args.run(),
            Self::Revoke(args) => args.run(),
        }
    }
}

/// A token that was made.
#[derive(Debug, Serialize)]
struct Created {
    id: String,
    /// The command to paste, with the secret.
    line: String,
    token: String,
    expires: u64,
    role: Role,
    name: Option<String>,
    addresses: Vec<String>,
}

impl CreateArgs {
    fn run(self) -> Outcome {
        let (format, self_named) = (self.format.output, !self.address.is_empty());
        let (created, office) = self.create()?;
        match format {
            Format::Json => output::json(&created)?,
            Format::Table => output::data(format_args!("{}\n", created.line))?,
        }
        output::note(created.told(seconds(office.now), &office.config.data_dir_flag()));
        let until_then = match self_named {
            true => "the token can be used only while one does, and its time runs",
            false => {
                "the token can be used only while one does, its time runs, and the address in it is the settings'"
            }
        };
        office.warn(until_then);
        Ok(Exit::Ok)
    }

    fn create(self) -> Result<(Created, Office), Failure> {
        let what = "cannot make a token";
        let office = self.office.open(what)?;
        let addresses = addresses(self.address, &office)?;
        let lifetime = self.ttl.unwrap_or(TOKEN_LIFETIME);
        let order = TokenOrder { role: self.role, name: self.name.clone(), lifetime };
        let token = office.authority.create_token(&order, office.now);
        let token = token.map_err(|error| unusable_authority(what, &error))?.at(addresses);
        let created = Created {
            id: token.id().to_string(),
            line: line(self.role, &token),
            token: token.to_string(),
            expires: seconds(office.now + lifetime),
            role: self.role,
            name: self.name,
            addresses: token.addresses().to_vec(),
        };
        Ok((created, office))
    }
}

impl Created {
    /// What the person who pastes it should know. `flag` is what commands here need, to find the authority.
    fn told(&self, now: u64, flag: &str) -> String {
        let name = self.name.as_ref().map(|name| format!(" named {name:?}")).unwrap_or_default();
        let mut text = format!(
            "\nPaste it on the machine that is to be a {}{name}.\nIt works once, until {} ({}); whoever has it can use \
             it.\nTo take it back: lineside token revoke {}{flag}",
            self.role,
            utc(self.expires),
            until(self.expires, now),
            self.id,
        );
        if self.addresses.iter().all(|address| is_of_this_machine_alone(address)) {
            text.push_str(
                "\n\nwarning: no other machine reaches the address in it; name one that they reach with --address",
            );
        }
        text
    }
}

/// The command that a token is pasted as.
fn line(role: Role, token: &Token) -> String {
    match role {
        Role::Node => format!("lineside up --join {token}"),
        Role::Gateway => format!("lineside gateway --join {token}"),
        Role::Client | Role::Admin => format!("lineside certs join {token} --out DIR"),
    }
}

/// Where the joining machine is sent: what is named, else where the member on this machine is, or would be.
fn addresses(named: Vec<String>, office: &Office) -> Result<Vec<String>, Failure> {
    if !named.is_empty() {
        return Ok(named);
    }
    let found = match running_here(&office.config) {
        Ok(running) if running.reachable.is_empty() => vec![running.members],
        Ok(running) => running.reachable,
        Err(_) => member::reachable(&office.config),
    };
    match found.is_empty() {
        false => Ok(found.iter().map(SocketAddr::to_string).collect()),
        true => Err(Failure::new(
            Exit::Failure,
            "cannot make a token",
            "it would not say where to join: this machine has no address that others reach, or its port is not known \
             before the member runs",
            "name the address with --address HOST:PORT",
        )),
    }
}

fn is_of_this_machine_alone(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

impl ListArgs {
    fn run(self) -> Outcome {
        let what = "cannot list the tokens";
        let office = self.office.open(what)?;
        let rows = office.authority.tokens(office.now).map_err(|error| unusable_authority(what, &error))?;
        match self.format.output {
            Format::Json => output::json(&rows)?,
            Format::Table => output::data(table(&rows, seconds(office.now)))?,
        }
        Ok(Exit::Ok)
    }
}

fn table(rows: &[TokenRow], now: u64) -> Table {
    let mut table = Table::new(["ID", "ROLE", "NAME", "STATE", "ENDS", "USED BY"]);
    for row in rows {
        table.row([
            row.id.to_string(),
            row.role.to_string(),
            row.name.clone().unwrap_or_default(),
            state(row.state).to_owned(),
            match row.state {
                TokenState::Open => until(row.expires, now),
                TokenState::Used | TokenState::Expired | TokenState::Revoked => String::new(),
            },
            row.used_by.map(|node| node.short()).unwrap_or_default(),
        ]);
    }
    table
}

const fn state(state: TokenState) -> &'static str {
    match state {
        TokenState::Open => "open",
        TokenState::Used => "used",
        TokenState::Expired => "expired",
        TokenState::Revoked => "revoked",
    }
}

impl RevokeArgs {
    fn run(self) -> Outcome {
        let revoked = self.revoke()?;
        output::data(format_args!("revoked {revoked}\n"))?;
        Ok(Exit::Ok)
    }

    fn revoke(self) -> Result<String, Failure> {
        let what = "cannot take the token back";
        let office = self.office.open(what)?;
        let fail = |error| unusable_authority(what, &error);
        let rows = office.authority.tokens(office.now).map_err(fail)?;
        let row = select(&rows, &id(&self.id))?;
        match office.authority.revoke_token(row.id, office.now).map_err(fail)? {
            true => Ok(row.id.to_string()),
            false => Err(not_open(row, &office.config.data_dir_flag())),
        }
    }
}

/// The id that is meant: of a whole token, or of the line with it, its own. The secret is never repeated.
fn id(text: &str) -> String {
    let last = text.split_whitespace().last().unwrap_or_default();
    match last.parse::<Token>() {
        Ok(token) => token.id().to_string(),
        Err(_) if text.contains(TOKEN_MARK) => "ls1...".to_owned(),
        Err(_) => text.to_owned(),
    }
}

/// The token whose id begins so.
fn select<'a>(rows: &'a [TokenRow], wanted: &str) -> Result<&'a TokenRow, Failure> {
    let begins = |row: &&TokenRow| !wanted.is_empty() && row.id.to_string().starts_with(wanted);
    let found: Vec<_> = rows.iter().filter(begins).collect();
    match found[..] {
        [row] => Ok(row),
        [] => Err(Failure::new(
            Exit::Failure,
            format!("there is no token {wanted:?}"),
            "those that are over for a day are forgotten",
            "`lineside token list` shows the ids; give one or its beginning",
        )),
        _ => {
            let ids: Vec<_> = found.iter().map(|row| row.id.to_string()).collect();
            let what = format!("{wanted:?} can be {} tokens", ids.len());
            Err(Failure::new(Exit::Failure, what, output::first(&ids), "give more of the id"))
        }
    }
}

fn not_open(row: &TokenRow, flag: &str) -> Failure {
    let what = format!("the token {} cannot be taken back", row.id);
    let (why, remedy) = match (row.state, row.used_by) {
        (TokenState::Used, Some(node)) => (
            format!("the machine {node} has used it"),
            format!("to shut that out: lineside certs revoke {node}{flag}"),
        ),
        (TokenState::Used, None) | (TokenState::Open, _) => {
            ("it was used just now".to_owned(), "`lineside certs issued` tells by whom".to_owned())
        }
        (TokenState::Expired, _) => ("it has expired, and is of no use to anybody".to_owned(), String::new()),
        (TokenState::Revoked, _) => ("it was taken back already".to_owned(), String::new()),
    };
    Failure::new(Exit::Failure, what, why, remedy)
}

/// The roles that a token can be for.
fn role_that_joins(text: &str) -> Result<Role, String> {
    match text.parse() {
        Ok(role @ (Role::Node | Role::Gateway | Role::Client)) => Ok(role),
        Ok(Role::Admin) => {
            Err("no token makes an admin; on the machine with the authority's key: lineside certs admin"
                .to_owned())
        }
        Err(_) => Err("write node, gateway or client".to_owned()),
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(1)..=TOKEN_LIFETIME_MAX;
    read_time(text)
        .filter(|time| allowed.contains(time))
        .ok_or_else(|| "write a time from 1s to 24h, 15m say".to_owned())
}

fn address(text: &str) -> Result<String, String> {
    Token::address(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use lineside_certs::TokenId;
    use lineside_wire::NodeId;

    use super::*;
    use crate::commands::certs::tests::Desk;

    fn row(id: u8, state: TokenState) -> TokenRow {
        let used_by = (state == TokenState::Used).then_some(NodeId::from_bytes([9; 16]));
        TokenRow { id: TokenId([id; 8]), role: Role::Node, name: None, expires: 650, state, used_by }
    }

    fn order(desk: &Desk, role: Role) -> CreateArgs {
        CreateArgs {
            office: desk.office(),
            role,
            name: Some("weld".to_owned()),
            ttl: None,
            address: vec!["10.0.0.7:7443".to_owned()],
            format: FormatArgs { output: Format::Table },
        }
    }

    #[test]
    fn a_token_is_one_line_to_paste_for_its_role() {
        let desk = Desk::founded("press");
        let begins = ["lineside up --join ls1.", "lineside gateway --join ls1.", "lineside certs join ls1."];
        for (role, begin) in [Role::Node, Role::Gateway, Role::Client].into_iter().zip(begins) {
            let (created, office) = order(&desk, role).create().unwrap();
            assert!(created.line.starts_with(begin) && !created.line.contains('\n'), "{}", created.line);
            assert!(created.token.ends_with("@10.0.0.7:7443"), "{}", created.token);
            let told = created.told(seconds(office.now), " --data-dir /line");
            assert!(!told.contains(&created.token), "the secret is told twice");
            assert!(told.ends_with(&format!("token revoke {} --data-dir /line", created.id)), "{told}");
            let token: Token = created.token.parse().unwrap();
            assert_eq!(token.id().to_string(), created.id);
        }
    }

    #[test]
    fn a_token_can_be_listed_and_taken_back_once() {
        let desk = Desk::founded("press");
        let (created, office) = order(&desk, Role::Node).create().unwrap();
        let rows = office.authority.tokens(office.now).unwrap();
        let text = table(&rows, seconds(office.now)).to_string();
        assert!(text.contains(&created.id) && text.contains("weld") && text.contains("open"), "{text}");

        let revoke = || RevokeArgs { id: created.id[..4].to_owned(), office: desk.office() }.revoke();
        assert_eq!(revoke().unwrap(), created.id);
        assert!(revoke().unwrap_err().text().contains("taken back already"));
    }

    #[test]
    fn a_token_is_meant_by_the_beginning_of_its_id() {
        let rows = [row(0x1a, TokenState::Open), row(0x1b, TokenState::Used), row(0x2c, TokenState::Expired)];
        assert_eq!(select(&rows, "2").unwrap().id, TokenId([0x2c; 8]));
        assert!(select(&rows, "1").unwrap_err().text().contains("can be 2 tokens"));
        for nothing in ["", "ff"] {
            assert!(select(&rows, nothing).unwrap_err().text().contains("token list"));
        }
        assert!(not_open(&rows[1], "").text().contains("certs revoke 0909"));
        assert!(not_open(&rows[2], "").text().contains("expired"));
    }

    #[test]
    fn a_token_is_also_meant_by_itself_and_its_secret_is_not_repeated() {
        let desk = Desk::founded("press");
        let (created, _) = order(&desk, Role::Node).create().unwrap();
        assert_eq!([id("1a"), id("ls1.half.of.it"), id(&created.line)], ["1a", "ls1...", &created.id]);
        let revoke = |text: &str| RevokeArgs { id: text.to_owned(), office: desk.office() }.revoke();
        assert_eq!(revoke(&created.line).unwrap(), created.id);
        assert!(revoke(&created.token).unwrap_err().text().contains("taken back already"));
    }

    #[test]
    fn only_what_a_token_can_be_is_taken() {
        assert_eq!(role_that_joins("gateway"), Ok(Role::Gateway));
        assert!(role_that_joins("admin").unwrap_err().contains("certs admin"));
        assert!(role_that_joins("root").is_err());
        assert_eq!(lifetime("2h"), Ok(Duration::from_secs(7200)));
        assert!(["0s", "25h", "15", "soon"].iter().all(|text| lifetime(text).is_err()));
        assert_eq!(address("10.0.0.7").as_deref(), Ok("10.0.0.7:7443"));
        assert!(address("10.0.0.7:0").is_err());
    }

    #[test]
    fn an_address_that_nobody_else_reaches_is_told() {
        let alone = ["127.0.0.1:7443", "[::1]:7443", "localhost:7443"];
        assert!(alone.into_iter().all(is_of_this_machine_alone));
        assert!(!["10.0.0.7:7443", "press:7443", "[fd00::7]:7443"].into_iter().any(is_of_this_machine_alone));
    }
}
