//! `lineside certs revoke | issued`: who got certificates, and whose are taken back.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use lineside_certs::{Identity, IssuedRow, Revoke};
use lineside_wire::NodeId;
use serde::Serialize;

use super::office::{Office, OfficeArgs, seconds, unusable_authority};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs, Table, ago, until},
};

/// `lineside certs revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// A node by its name, its id or the beginning of that: all its certificates, and its id for good; or the serial
    /// number of one certificate
    #[arg(value_name = "NODE|SERIAL")]
    what: String,
    /// Also when it is this machine itself, or an id that is not known here
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    office: OfficeArgs,
}

/// `lineside certs issued`.
#[derive(Debug, Args)]
pub(crate) struct IssuedArgs {
    #[command(flatten)]
    office: OfficeArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// What a text means among the certificates that were issued.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meant {
    /// A node, with a name that it has or had.
    Node(NodeId, String),
    /// One certificate, with its holder's name.
    Certificate(String, String),
    /// Nothing that is known here.
    Unknown,
    /// Several things, each described.
    Several(Vec<String>),
}

impl RevokeArgs {
    pub(super) fn run(self) -> Outcome {
        let (told, office) = self.revoke()?;
        output::data(told)?;
        if office.is_published() {
            output::note(
                "\nThe member that runs here tells the others: within five seconds every member that it reaches\n\
                 closes its connections and takes no new ones.",
            );
        }
        office.warn("nobody hears of it before one does");
        Ok(Exit::Ok)
    }

    fn revoke(self) -> Result<(String, Office), Failure> {
        let what = format!("cannot revoke {:?}", self.what);
        let office = self.office.open(&what)?;
        let fail = |error| unusable_authority(&what, &error);
        let rows = office.authority.issued().map_err(fail)?;
        let meant = meant(&rows, &self.what, seconds(office.now));
        if !self.force {
            check_own(office.own().as_ref(), &meant, &what)?;
        }
        let (head, orders) = match meant {
            Meant::Node(node, name) => {
                (format!("revoked the node {node} ({name}) for good"), vec![Revoke::Node(node)])
            }
            Meant::Certificate(serial, name) => {
                let head = format!("revoked the certificate {serial} of {name}");
                (
                    format!(
                        "{head}; its holder keeps its id; others that it has stay good, and are not renewed"
                    ),
                    vec![Revoke::Serial(serial)],
                )
            }
            Meant::Several(found) => {
                let what = format!("{:?} can be {} things", self.what, found.len());
                return Err(Failure::new(
                    Exit::Failure,
                    what,
                    output::first(&found),
                    "give an id, or more of it",
                ));
            }
            Meant::Unknown => match (self.force, self.what.parse::<NodeId>()) {
                (true, Ok(node)) => {
                    let head =
                        format!("revoked {node}, which is not known here, as a node and as a serial number");
                    (head, vec![Revoke::Node(node), Revoke::Serial(self.what.clone())])
                }
                (_, id) => return Err(unknown(&what, id.is_ok())),
            },
        };
        let mut ended = Vec::new();
        for order in &orders {
            ended.extend(office.authority.revoke(order, office.now).map_err(fail)?);
        }
        Ok((told(&head, &ended, seconds(office.now)), office))
    }
}

fn unknown(what: &str, is_id: bool) -> Failure {
    let remedy = match is_id {
        true => {
            "`lineside certs issued` lists them; --force revokes it all the same, as a node and as a serial number"
        }
        false => {
            "`lineside certs issued` lists them; give a name, an id, the beginning of one, or a serial number; what another \
             machine with the key let in is revoked by its whole id (`lineside members -o json`) and --force"
        }
    };
    Failure::new(Exit::Failure, what, "no certificate that was issued here fits it", remedy)
}

/// A cluster whose only machine with the authority's key shuts itself out has to be begun anew.
fn check_own(own: Option<&Identity>, meant: &Meant, what: &str) -> Result<(), Failure> {
    let is_own = own.is_some_and(|own| match meant {
        Meant::Node(node, _) => own.node() == *node,
        Meant::Certificate(serial, _) => own.holder().serial == *serial,
        Meant::Unknown | Meant::Several(_) => false,
    });
    match is_own {
        false => Ok(()),
        true => Err(Failure::new(
            Exit::Failure,
            what,
            "it is this machine itself: it would be shut out, and with it the authority's key from the cluster",
            "if that is meant, add --force; the key then has to be used on another member",
        )),
    }
}

/// What `wanted` means: what fits wholly outranks what only begins so, and who has a certificate that counts outranks who
/// had one.
fn meant(rows: &[IssuedRow], wanted: &str, now: u64) -> Meant {
    let wanted_id = wanted.to_ascii_lowercase();
    let fits = |row: &IssuedRow| row.name == wanted || row.node.to_string() == wanted_id;
    let begins = |row: &IssuedRow| row.node.to_string().starts_with(&wanted_id);
    if wanted.is_empty() {
        return Meant::Unknown;
    }
    let counts = |row: &&IssuedRow| row.revoked.is_none() && now < row.not_after;
    let nodes = |fits: &dyn Fn(&IssuedRow) -> bool| -> BTreeMap<NodeId, &str> {
        let all = || rows.iter().filter(|row| fits(row)).map(|row| (row.node, row.name.as_str()));
        let living: BTreeMap<_, _> = rows
            .iter()
            .filter(|row| fits(row))
            .filter(counts)
            .map(|row| (row.node, row.name.as_str()))
            .collect();
        if living.is_empty() { all().collect() } else { living }
    };
    let serials = |fits: &dyn Fn(&IssuedRow) -> bool| -> Vec<&IssuedRow> {
        rows.iter().filter(|row| fits(row)).collect()
    };
    let whole = (nodes(&fits), serials(&|row| row.serial == wanted_id));
    let (nodes, certificates) = match whole.0.is_empty() && whole.1.is_empty() {
        false => whole,
        true => (nodes(&begins), serials(&|row| row.serial.starts_with(&wanted_id))),
    };
    let mut found = nodes
        .iter()
        .map(|(node, name)| Meant::Node(*node, (*name).to_owned()))
        .chain(certificates.iter().map(|row| Meant::Certificate(row.serial.clone(), row.name.clone())));
    match (found.next(), found.next()) {
        (None, _) => Meant::Unknown,
        (Some(only), None) => only,
        (Some(_), Some(_)) => {
            let nodes = nodes.iter().map(|(node, name)| format!("the node {node} ({name})"));
            let certificates =
                certificates.iter().map(|row| format!("the certificate {} ({})", row.serial, row.name));
            Meant::Several(nodes.chain(certificates).collect())
        }
    }
}

/// What was done, and which certificates it ended.
fn told(head: &str, ended: &[IssuedRow], now: u64) -> String {
    let mut text = format!("{head}\n");
    for row in ended {
        let left = until(row.not_after, now);
        let row = format!("{} {} ({}), had {left} left", row.role, row.name, row.serial);
        text.push_str(&format!("  ended: {}\n", row.replace(|c: char| c.is_control(), "?")));
    }
    if ended.is_empty() {
        text.push_str("  it had no certificate that still counted\n");
    }
    text
}

/// A row with what became of it, for JSON.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    row: &'a IssuedRow,
    state: &'static str,
}

impl IssuedArgs {
    pub(super) fn run(self) -> Outcome {
        let what = "cannot list the certificates";
        let office = self.office.open(what)?;
        let rows = office.authority.issued().map_err(|error| unusable_authority(what, &error))?;
        let now = seconds(office.now);
        match self.format.output {
            Format::Json => {
                let rows: Vec<_> = rows.iter().map(|row| Listed { row, state: state(row, now) }).collect();
                output::json(&rows)?;
            }
            Format::Table => output::data(table(&rows, now))?,
        }
        Ok(Exit::Ok)
    }
}

const fn state(row: &IssuedRow, now: u64) -> &'static str {
    match row.revoked {
        Some(_) => "revoked",
        None if row.not_after <= now => "expired",
        None => "valid",
    }
}

fn table(rows: &[IssuedRow], now: u64) -> Table {
    let head = ["NAME", "ROLE", "NODE", "SERIAL", "CA", "ISSUED", "STATE", "ENDS"];
    let mut table = Table::new(head);
    for row in rows {
        let since = Duration::from_secs(now.saturating_sub(row.issued));
        table.row([
            row.name.clone(),
            row.role.to_string(),
            row.node.short(),
            row.serial.clone(),
            format!("g{}", row.generation),
            ago(since),
            state(row, now).to_owned(),
            if row.revoked.is_some() { String::new() } else { until(row.not_after, now) },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::certs::tests::{Desk, issued};

    fn node(id: u8, name: &str) -> Meant {
        Meant::Node(NodeId::from_bytes([id; 16]), name.to_owned())
    }

    #[test]
    fn a_node_is_meant_by_name_or_id_and_a_certificate_by_its_serial_number() {
        let mut renewed = issued("weld", 0x2b, "0d01");
        renewed.issued = 20;
        let rows = [issued("press", 0x1a, "0a01"), issued("weld", 0x2b, "0b02"), renewed];
        for wanted in ["weld", "2b", "2B", &rows[1].node.to_string()] {
            assert_eq!(meant(&rows, wanted, 50), node(0x2b, "weld"), "{wanted}");
        }
        let certificate = Meant::Certificate("0b02".to_owned(), "weld".to_owned());
        for wanted in ["0b02", "0B02", "0b"] {
            assert_eq!(meant(&rows, wanted, 50), certificate, "{wanted}");
        }
        assert_eq!([meant(&rows, "", 50), meant(&rows, "glue", 50)], [Meant::Unknown, Meant::Unknown]);
        let Meant::Several(found) = meant(&rows, "0", 50) else { panic!("not several") };
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn of_two_with_one_name_the_one_whose_certificate_counts_is_meant() {
        let mut old = issued("weld", 1, "0a");
        let rows = |old: &IssuedRow| [old.clone(), issued("weld", 2, "0b")];
        assert!(matches!(meant(&rows(&old), "weld", 50), Meant::Several(found) if found.len() == 2));
        old.revoked = Some(40);
        assert_eq!(meant(&rows(&old), "weld", 50), node(2, "weld"));
        (old.revoked, old.not_after) = (None, 50);
        assert_eq!(meant(&rows(&old), "weld", 50), node(2, "weld"));
        // Nobody counts any longer: a person decides.
        assert!(matches!(meant(&rows(&old), "weld", 2000), Meant::Several(_)));
    }

    #[test]
    fn what_was_ended_is_told() {
        let text = told("revoked the node", &[issued("we\u{1b}ld", 2, "0b")], 760);
        assert_eq!(text, "revoked the node\n  ended: node we?ld (0b), had 4m left\n");
        assert!(told("revoked", &[], 50).contains("no certificate that still counted"));
    }

    #[test]
    fn the_list_says_what_became_of_each_certificate() {
        let mut gone = issued("weld", 2, "0b");
        gone.revoked = Some(40);
        let text = table(&[issued("press", 1, "0a"), gone, issued("old", 3, "0c")], 880).to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["press", "node", "01010101", "0a", "g1", "14m", "valid", "2m"]);
        assert_eq!(lines[2][6..], ["revoked", "-"]);
        assert_eq!(state(&issued("old", 3, "0c"), 1000), "expired");
    }

    #[test]
    fn a_node_is_revoked_and_this_machine_itself_only_by_force() {
        let desk = Desk::founded("press");
        let out = desk.beside("weld");
        let office = desk.office().open("").unwrap();
        let subject = lineside_certs::Subject::new(lineside_wire::Role::Node, "weld");
        Identity::store(&out, &office.authority.issue(&subject, office.now).unwrap()).unwrap();
        let revoke =
            |what: &str, force| RevokeArgs { what: what.to_owned(), force, office: desk.office() }.revoke();
        let (text, _) = revoke("weld", false).unwrap();
        assert!(text.contains(&subject.node.to_string()) && text.contains("ended: node weld"), "{text}");
        let rows = office.authority.issued().unwrap();
        assert!(rows.iter().any(|row| row.node == subject.node && row.revoked.is_some()), "{rows:?}");

        let own = revoke("press", false).map(drop).unwrap_err();
        assert!(own.text().contains("--force"), "{}", own.text());
        let serial = desk.identity().holder().serial.clone();
        assert!(revoke(&serial, false).is_err());
        let unknown = NodeId::from_bytes([0x77; 16]).to_string();
        assert!(revoke(&unknown, false).map(drop).unwrap_err().text().contains("--force"));
        assert!(revoke("glue", true).map(drop).unwrap_err().text().contains("certs issued"));
        assert!(revoke(&unknown, true).unwrap().0.contains("not known here"));
        assert!(revoke("press", true).is_ok());
    }
}
