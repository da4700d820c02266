//! `lineside certs init | admin | issue`: identities whose key is made here.

use std::path::{Path, PathBuf};

use clap::Args;
use lineside_certs::{AUTHORITY_DIRECTORY, IDENTITY_DIRECTORY, Identity, IdentityError, Subject, disk};
use lineside_wire::Role;

use super::office::{OfficeArgs, now, unusable_authority, unusable_identity};
use crate::{
    args::{SettingsArgs, flags},
    exit::{Exit, Failure, OrFail as _, Outcome},
    output,
};

/// `lineside certs init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The name of the cluster and of this machine [default: the host's name]
    #[arg(long)]
    name: Option<String>,
}

/// `lineside certs admin`.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    office: OfficeArgs,
    /// The admin's name for people
    #[arg(long, default_value = "admin")]
    name: String,
    /// A directory that is made, for --identity of other commands
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// `lineside certs issue`.
#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    #[command(flatten)]
    office: OfficeArgs,
    /// What the holder may be: node, gateway, client or admin
    #[arg(long)]
    role: Role,
    /// The holder's name for people
    #[arg(long)]
    name: String,
    /// A directory that is made; copy it to <data directory>/identity of the holder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl InitArgs {
    pub(super) fn run(self) -> Outcome {
        let (data, identity, flag) = self.make()?;
        output::data(format_args!(
            "cluster    {}\nnode       {} ({})\nauthority  {}\nidentity   {}\n",
            identity.cluster(),
            identity.node(),
            identity.name(),
            data.join(AUTHORITY_DIRECTORY).display(),
            data.join(IDENTITY_DIRECTORY).display(),
        ))?;
        output::note(format_args!(
            "\nKeep a copy of {} in a safe place:\nwhoever has it can make members, and without it nobody can. `lineside \
             certs passphrase` encrypts its key.\nStart this member: lineside up{flag}\nFor each further machine make a \
             line to paste there: lineside token create{flag}",
            data.join(AUTHORITY_DIRECTORY).display(),
        ));
        Ok(Exit::Ok)
    }

    /// The data directory and its new identity, and the flag that names that directory.
    fn make(self) -> Result<(PathBuf, Identity, String), Failure> {
        let config = self.settings.load(flags([("member.name", "--name", self.name)]))?.config;
        let (data, name) = (config.data_dir(), config.name());
        let what = format!("cannot make a cluster in {}", data.display());
        prepare(&data, &what)?;
        let (identity, made) = Identity::ensure(&data, &name, Role::Node, true, now())
            .map_err(|error| unusable_identity(&what, &error))?;
        if !made {
            let what = format!("{} already belongs to the cluster {}", data.display(), identity.cluster());
            let remedy = "nothing was changed; `lineside certs show` shows it, another --data-dir makes another cluster";
            return Err(Failure::new(Exit::Failure, what, "an identity is never replaced", remedy));
        }
        Ok((data, identity, config.data_dir_flag()))
    }
}

impl AdminArgs {
    pub(super) fn run(self) -> Outcome {
        let out = self.out.clone();
        let subject = self.make()?;
        output::data(format_args!("admin {} ({}) in {}\n", subject.node, subject.name, out.display()))?;
        output::note(format_args!(
            "\nGood for a day, and not renewed. To use it:\n  lineside models load MODEL --identity {}",
            out.display()
        ));
        Ok(Exit::Ok)
    }

    fn make(self) -> Result<Subject, Failure> {
        make(self.office, Role::Admin, &self.name, &self.out)
    }
}

impl IssueArgs {
    pub(super) fn run(self) -> Outcome {
        let (role, out) = (self.role, self.out.clone());
        let subject = self.make()?;
        output::data(format_args!("{role} {} ({}) in {}\n", subject.node, subject.name, out.display()))?;
        output::note(match role {
            Role::Node | Role::Gateway => format!(
                "\nOn that machine:\n  copy {} to DATA/{IDENTITY_DIRECTORY}, readable by its owner only, then delete it \
                 here\n  lineside {role} --data-dir DATA",
                out.display(),
            ),
            Role::Client | Role::Admin => {
                format!("\nTo use it:\n  lineside members --identity {}", out.display())
            }
        });
        Ok(Exit::Ok)
    }

    fn make(self) -> Result<Subject, Failure> {
        make(self.office, self.role, &self.name, &self.out)
    }
}

/// Makes an identity, key and all, in a directory.
fn make(office: OfficeArgs, role: Role, name: &str, out: &Path) -> Result<Subject, Failure> {
    let what = format!("cannot make an identity for {name:?}");
    let office = office.open(&what)?;
    check_free(out)?;
    let subject = Subject::new(role, name);
    let issued =
        office.authority.issue(&subject, office.now).map_err(|error| unusable_authority(&what, &error))?;
    let what = format!("cannot write the identity to {}", out.display());
    Identity::store(out, &issued).map_err(|error| unusable_identity(&what, &error))?;
    Ok(subject)
}

/// Makes sure of a place for an identity before something is used up for it: a token, a line in the audit log.
pub(super) fn check_free(out: &Path) -> Result<(), Failure> {
    let what = format!("cannot write the identity to {}", out.display());
    match Identity::load(out) {
        Err(IdentityError::Missing(_)) => prepare(out, &what),
        Ok(_) | Err(_) => {
            let error = IdentityError::Exists(out.to_owned());
            Err(unusable_identity(&what, &error))
        }
    }
}

/// Makes a directory that only its owner can enter; closes one that is there and empty.
pub(super) fn prepare(directory: &Path, what: &str) -> Result<(), Failure> {
    let made = disk::make_private_directory(directory).and_then(|()| disk::tighten_if_empty(directory));
    made.or_fail(Exit::Failure, what, "name a directory that this user may write")?;
    disk::check_directory(directory).or_fail(Exit::Config, what, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::certs::tests::Desk;

    #[test]
    fn a_cluster_is_made_once() {
        let desk = Desk::empty("press");
        let init = || InitArgs { settings: desk.settings(), name: Some("press".to_owned()) }.make();
        let (_, identity, flag) = init().unwrap();
        assert!(flag.starts_with(" --data-dir "), "{flag}");
        assert_eq!((identity.name(), identity.role()), ("press", Role::Node));
        let refused = init().map(drop).unwrap_err();
        assert!(refused.text().contains("never replaced"), "{}", refused.text());
        assert_eq!(desk.identity().node(), identity.node());
    }

    #[test]
    fn an_admin_is_made_for_a_day_and_never_over_another_identity() {
        let desk = Desk::founded("press");
        let out = desk.beside("me");
        let admin = || AdminArgs { office: desk.office(), name: "me".to_owned(), out: out.clone() }.make();
        let subject = admin().unwrap();
        let made = Identity::load(&out).unwrap();
        assert_eq!((made.role(), made.node(), made.name()), (Role::Admin, subject.node, "me"));
        let day = std::time::Duration::from_secs(24 * 3600);
        assert!(made.expires_in(now()).unwrap() <= day);
        assert!(admin().unwrap_err().text().contains("never replaced"));
    }

    #[test]
    fn an_identity_for_another_machine_is_of_the_same_cluster() {
        let desk = Desk::founded("press");
        let out = desk.beside("weld");
        let order = |name: &str| IssueArgs {
            office: desk.office(),
            role: Role::Gateway,
            name: name.to_owned(),
            out: out.clone(),
        };
        assert!(order("we/ld").make().unwrap_err().text().contains("cannot be a name"));
        order("weld").make().unwrap();
        let made = Identity::load(&out).unwrap();
        assert_eq!((made.cluster(), made.role()), (desk.identity().cluster(), Role::Gateway));
    }

    #[test]
    fn who_has_no_authority_hears_where_to_go() {
        let desk = Desk::empty("weld");
        let admin = AdminArgs { office: desk.office(), name: "me".to_owned(), out: desk.beside("me") };
        let refused = admin.make().unwrap_err();
        assert_eq!(refused.exit, Exit::Failure);
        assert!(refused.text().contains("machine with the authority's key"), "{}", refused.text());
        assert!(!desk.beside("me").exists());
    }
}
