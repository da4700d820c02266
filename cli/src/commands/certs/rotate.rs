//! `lineside certs rotate-ca start | status | finish`: a new authority takes the place of the old one, without a pause.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use lineside_certs::{
    AuthorityError, CertificateRequest, IDENTITY_DIRECTORY, Identity, IssuedRow, Rotation, Subject,
};
use lineside_client::Standing;
use lineside_wire::{MemberRow, NodeId, Role};
use serde::Serialize;

use super::office::{Office, OfficeArgs, seconds, unusable_authority, unusable_identity};
use crate::{
    commands::connect::{members_from_here, running_here},
    exit::{Exit, Failure, OrFail as _, Outcome},
    output::{self, Format, FormatArgs, Table, until},
};

/// What is said of a holder that no member has seen: a client, say.
const UNSEEN: &str = "unseen";

/// `lineside certs rotate-ca …`.
#[derive(Debug, Subcommand)]
pub(crate) enum RotateCommand {
    /// Make the next authority: it signs from now on, and the old one is still trusted
    Start(OfficeArgs),
    /// Show who still has a certificate of the old authority
    Status(StatusArgs),
    /// Trust the old authority no longer
    Finish(FinishArgs),
}

/// `lineside certs rotate-ca status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    office: OfficeArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// `lineside certs rotate-ca finish`.
#[derive(Debug, Args)]
pub(crate) struct FinishArgs {
    #[command(flatten)]
    office: OfficeArgs,
    /// Also while somebody has a certificate of the old authority only: they are shut out and have to join anew
    #[arg(long)]
    force: bool,
}

/// Somebody whose certificate is of the old authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Behind {
    node: NodeId,
    name: String,
    role: Role,
    generation: u32,
    /// When that certificate ends, in seconds since 1970; it waits no longer then.
    ends: u64,
    /// What the members say of it.
    state: String,
}

/// How far a rotation has come.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Progress {
    issuing: u32,
    retiring: Option<u32>,
    behind: Vec<Behind>,
    /// Why the members could not be asked: then only what was issued here is known.
    members_not_asked: Option<String>,
}

impl RotateCommand {
    pub(super) fn run(self) -> Outcome {
        match self {
            Self::Start(args) => start(args),
            Self::Status(args) => args.run(),
            Self::Finish(args) => args.run(),
        }
    }
}

fn start(args: OfficeArgs) -> Outcome {
    let (text, office) = begin(args)?;
    output::data(text)?;
    output::note(format_args!(
        "\nMembers renew by themselves within minutes, one that is off when it is back.\nKeep a copy of {} anew: the one \
         that you have does not have the new key.\nThen: lineside certs rotate-ca status{flag}, and finish",
        office.directory().display(),
        flag = office.config.data_dir_flag(),
    ));
    office.warn("nobody hears of the new authority before one does");
    Ok(Exit::Ok)
}

fn begin(args: OfficeArgs) -> Result<(String, Office), Failure> {
    let what = "cannot begin a rotation";
    let office = args.open(what)?;
    let rotation = office.authority.rotation_start(office.now).map_err(|error| fail(what, &error))?;
    let behind = behind(&rotation, &[], seconds(office.now));
    let text = format!(
        "generation {} signs from now on; generation {} is trusted until the rotation is finished\n{} to get a new \
         certificate\n",
        rotation.issuing,
        rotation.retiring.unwrap_or_default(),
        counted(behind.len()),
    );
    Ok((text, office))
}

impl StatusArgs {
    fn run(self) -> Outcome {
        let office = self.office.open("cannot tell how far the rotation is")?;
        let progress = Progress::of(&office)?;
        match self.format.output {
            Format::Json => output::json(&progress)?,
            Format::Table => {
                output::data(progress.text(seconds(office.now)))?;
                if let Some(why) = &progress.members_not_asked {
                    output::note(format_args!("\nonly what was issued here is known: {why}"));
                }
            }
        }
        Ok(Exit::Ok)
    }
}

impl FinishArgs {
    fn run(self) -> Outcome {
        let (text, office) = self.finish()?;
        output::data(text)?;
        office.warn("nobody hears of it before one does");
        Ok(Exit::Ok)
    }

    fn finish(self) -> Result<(String, Office), Failure> {
        let what = "cannot finish the rotation";
        let office = self.office.open(what)?;
        lead_the_way(&office, self.force)?;
        let progress = Progress::of(&office)?;
        if !self.force {
            progress.check_nobody_is_behind(seconds(office.now))?;
        }
        let rotation = office.authority.rotation_finish(office.now).map_err(|error| fail(what, &error))?;
        let mut text = format!(
            "generation {} is the only authority now; the key of generation {} is removed, and open tokens of it are \
             revoked\n",
            rotation.issuing,
            progress.retiring.unwrap_or_default(),
        );
        for behind in &progress.behind {
            text.push_str(&format!("  shut out, has to join anew: {}\n", behind.called()));
        }
        Ok((text, office))
    }
}

/// This machine must not be left behind, by force neither: nobody else could tell the cluster of its new authority. While no
/// member runs here, it is renewed now; one that runs does it itself.
fn lead_the_way(office: &Office, force: bool) -> Result<(), Failure> {
    let what = "cannot finish the rotation";
    let rotation = office.authority.rotation(office.now).map_err(|error| fail(what, &error))?;
    let own =
        office.own().filter(|own| own.role().is_member() && own.cluster() == office.authority.cluster());
    let Some(own) =
        own.filter(|own| rotation.retiring.is_some() && own.holder().generation < rotation.issuing)
    else {
        return Ok(());
    };
    if running_here(&office.config).is_err() {
        return renew(office, &own);
    }
    match force {
        // It is among those who are behind.
        false => Ok(()),
        true => Err(Failure::new(
            Exit::Failure,
            what,
            "this machine itself has a certificate of the old authority only, and nobody else could tell the cluster of \
             the new one",
            "wait some minutes: the member that runs here renews it; or stop that, and it is renewed at once",
        )),
    }
}

/// Renews the identity of this machine with the key that is here.
fn renew(office: &Office, own: &Identity) -> Result<(), Failure> {
    let what = "cannot renew the certificate of this machine";
    let subject = Subject { role: own.role(), node: own.node(), name: own.name().to_owned() };
    let request = CertificateRequest::new();
    let signed = office.authority.sign(request.csr(), &subject, office.now);
    let signed = signed.map_err(|error| fail(what, &error))?;
    let issued = request.renew(own, &signed).or_fail(Exit::Failure, what, "")?;
    let directory = office.config.data_dir().join(IDENTITY_DIRECTORY);
    Identity::store_renewed(&directory, &issued).map_err(|error| unusable_identity(what, &error))
}

fn fail(what: &str, error: &AuthorityError) -> Failure {
    unusable_authority(what, error)
}

impl Progress {
    fn of(office: &Office) -> Result<Self, Failure> {
        let what = "cannot tell how far the rotation is";
        let rotation = office.authority.rotation(office.now).map_err(|error| fail(what, &error))?;
        let asked = running_here(&office.config)
            .and_then(|_| members_from_here(&office.config).map_err(|failure| failure.why().to_owned()));
        let (members, members_not_asked) = match asked {
            Ok(members) => (members, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let behind = behind(&rotation, &members, seconds(office.now));
        Ok(Self { issuing: rotation.issuing, retiring: rotation.retiring, behind, members_not_asked })
    }

    fn text(&self, now: u64) -> String {
        let Some(retiring) = self.retiring else {
            return format!("no rotation runs; generation {} is the only authority\n", self.issuing);
        };
        let mut text = format!(
            "generation {} signs; generation {retiring} is trusted until the rotation is finished\n",
            self.issuing
        );
        if self.behind.is_empty() {
            text.push_str("nobody is behind: it can be finished (lineside certs rotate-ca finish)\n");
            return text;
        }
        text.push_str(&format!(
            "{} a certificate of generation {retiring} only\n\n",
            having(self.behind.len())
        ));
        let mut table = Table::new(["NAME", "ROLE", "NODE", "STATE", "ENDS"]);
        for Behind { node, name, role, ends, state, .. } in &self.behind {
            table.row([name.clone(), role.to_string(), node.short(), state.clone(), until(*ends, now)]);
        }
        text + &table.to_string()
    }

    fn check_nobody_is_behind(&self, now: u64) -> Result<(), Failure> {
        let Some(retiring) = self.retiring.filter(|_| !self.behind.is_empty()) else { return Ok(()) };
        let listed = self.behind.iter().map(|behind| {
            format!("{} ({}, ends in {})", behind.called(), behind.state, until(behind.ends, now))
        });
        Err(Failure::new(
            Exit::Failure,
            "the rotation is not finished",
            format!(
                "{} a certificate of generation {retiring} only: {}",
                having(self.behind.len()),
                output::first(&listed.collect::<Vec<_>>()),
            ),
            match self.members_not_asked {
                None => {
                    "wait: they renew by themselves while they run; revoke those that are gone for good, or finish with \
                     --force: they are then shut out and have to join anew"
                }
                Some(_) => {
                    "start the member here, and wait: only then the others renew; revoke those that are gone for good, or \
                     finish with --force: they are then shut out and have to join anew"
                }
            },
        ))
    }
}

impl Behind {
    fn called(&self) -> String {
        let name = self.name.replace(|c: char| c.is_control(), "?");
        format!("{} {name} {}", self.role, self.node.short())
    }
}

fn counted(holders: usize) -> String {
    match holders {
        0 => "nobody has".to_owned(),
        holders => having(holders),
    }
}

fn having(holders: usize) -> String {
    match holders {
        1 => "1 holder has".to_owned(),
        holders => format!("{holders} holders have"),
    }
}

/// Who is behind: what was issued here, corrected by what members show. Another machine with the key may have renewed
/// some, and may have issued for others.
fn behind(rotation: &Rotation, members: &[MemberRow], now: u64) -> Vec<Behind> {
    if rotation.retiring.is_none() {
        return Vec::new();
    }
    let shown: BTreeMap<_, _> = members.iter().map(|row| (row.node, row)).collect();
    let shows = |node: NodeId| {
        shown.get(&node).and_then(|row| row.member.as_ref()).map(|member| member.certificate_generation)
    };
    let waiting = rotation.waiting.iter().filter(|row| shows(row.node) != Some(rotation.issuing));
    let of_row = |row: &IssuedRow| Behind {
        node: row.node,
        name: row.name.clone(),
        role: row.role,
        generation: row.generation,
        ends: row.not_after,
        state: shown.get(&row.node).map_or(UNSEEN, |row| row.state.as_str()).to_owned(),
    };
    let mut behind: Vec<_> = waiting.map(of_row).collect();
    for row in members {
        let Some(member) = &row.member else { continue };
        // One that is gone does not come back with what it last showed, or it waits in the registry; 0 does not say.
        let is_there = row.state.parse().is_ok_and(Standing::is_present);
        let is_old = (1..rotation.issuing).contains(&member.certificate_generation);
        let is_valid = now < member.certificate_expires;
        let is_known = behind.iter().any(|known| known.node == row.node);
        if is_there && is_old && is_valid && !is_known {
            behind.push(Behind {
                node: row.node,
                name: row.name.clone(),
                role: member.role,
                generation: member.certificate_generation,
                ends: member.certificate_expires,
                state: row.state.clone(),
            });
        }
    }
    behind
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{
        certs::tests::{Desk, issued},
        connect::tests as rows,
    };

    fn member(id: u8, generation: u32, state: &str) -> MemberRow {
        let mut row = rows::row("shown", Vec::new());
        row.node = NodeId::from_bytes([id; 16]);
        row.state = state.to_owned();
        let member = row.member.as_mut().unwrap();
        (member.certificate_generation, member.certificate_expires) = (generation, 900);
        row
    }

    fn rotation() -> Rotation {
        let waiting = vec![issued("weld", 1, "0a"), issued("paint", 2, "0b"), issued("camera", 3, "0c")];
        Rotation { issuing: 2, retiring: Some(1), waiting }
    }

    #[test]
    fn who_is_behind_is_what_was_issued_corrected_by_what_is_seen() {
        // weld was renewed by another holder of the key, which also issued for lathe; old is gone.
        let members =
            [member(1, 2, "alive"), member(2, 1, "down"), member(4, 1, "alive"), member(5, 1, "down")];
        let behind = behind(&rotation(), &members, 50);
        let told: Vec<_> = behind.iter().map(|one| (one.node.as_bytes()[0], one.state.as_str())).collect();
        assert_eq!(told, [(2, "down"), (3, UNSEEN), (4, "alive")]);
        // Certificates that end, and members that do not say, are not waited for.
        assert_eq!(super::behind(&rotation(), &members, 950).len(), 2);
        assert!(
            super::behind(&rotation(), &[member(4, 0, "alive")], 50).iter().all(|one| one.name != "shown")
        );
        let none = Rotation { retiring: None, ..rotation() };
        assert_eq!(super::behind(&none, &members, 50), []);
    }

    #[test]
    fn a_rotation_that_somebody_has_not_followed_is_not_finished_and_names_them() {
        let behind = behind(&rotation(), &[], 50);
        let progress = Progress { issuing: 2, retiring: Some(1), behind, members_not_asked: None };
        let refused = progress.check_nobody_is_behind(50).unwrap_err();
        assert_eq!(refused.exit, Exit::Failure);
        let text = refused.text();
        for said in ["weld", "paint", "camera", "3 holders have", "--force", "join anew"] {
            assert!(text.contains(said), "{text}");
        }
        let table = progress.text(50);
        assert!(table.contains("generation 2 signs") && table.contains("paint"), "{table}");
        let done = Progress { behind: Vec::new(), ..progress };
        assert!(done.check_nobody_is_behind(50).is_ok() && done.text(50).contains("finish"));
        let none = Progress { retiring: None, ..done };
        assert!(none.text(50).contains("no rotation runs"));
    }

    #[test]
    fn an_authority_is_rotated_from_start_to_finish() {
        let desk = Desk::founded("press");
        assert!(begin(desk.office()).unwrap().0.contains("generation 2 signs from now on"));
        assert!(begin(desk.office()).map(drop).unwrap_err().text().contains("a rotation runs"));
        let progress = Progress::of(&desk.office().open("").unwrap()).unwrap();
        assert_eq!((progress.issuing, progress.retiring, progress.behind.len()), (2, Some(1), 1));
        assert!(progress.members_not_asked.is_some());

        let finish = |force| FinishArgs { office: desk.office(), force }.finish();
        let (text, office) = finish(false).unwrap();
        assert!(text.contains("generation 2 is the only authority now"), "{text}");
        let after = Progress::of(&office).unwrap();
        assert_eq!((after.issuing, after.retiring), (2, None));
        assert_eq!(desk.identity().holder().generation, 2, "this machine was left behind");
        assert!(finish(true).map(drop).unwrap_err().text().contains("no rotation runs"));
    }

    #[test]
    fn who_did_not_follow_is_shut_out_only_by_force() {
        let desk = Desk::founded("press");
        let office = desk.office().open("").unwrap();
        office.authority.issue(&Subject::new(Role::Node, "weld"), office.now).unwrap();
        begin(desk.office()).map(drop).unwrap();
        let finish = |force| FinishArgs { office: desk.office(), force }.finish();
        let refused = finish(false).map(drop).unwrap_err();
        assert!(refused.text().contains("weld") && !refused.text().contains("press"), "{}", refused.text());
        let (text, _) = finish(true).unwrap();
        assert!(text.contains("shut out, has to join anew: node weld") && !text.contains("press"), "{text}");
    }
}
