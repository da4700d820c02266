//! `lineside certs request | sign | install`: a certificate for a machine that no network reaches, by files that hold nothing
//! secret. The key is made on that machine and stays there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use lineside_certs::{
    CertificateRequest, IDENTITY_DIRECTORY, Identity, IdentityError, IssuedRow, Subject, enrolled_from_pem,
    enrolled_to_pem, request_from_pem,
};
use lineside_wire::{NodeId, Role};

use super::{
    letter::Letter,
    make::prepare,
    office::{OfficeArgs, seconds, unusable_authority, unusable_identity},
};
use crate::{
    args::{SettingsArgs, flags},
    commands::connect::running_here,
    config::Config,
    exit::{Exit, Failure, OrFail as _, Outcome},
    output::{self, utc},
};

/// Below the data directory: the key and the request that wait for an answer.
const REQUEST_DIRECTORY: &str = "request";

const NAME: &str = "name";
/// In a request: the node whose certificate it is to renew.
const RENEWS: &str = "renews";

/// `lineside certs request`.
#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The name that this machine would like to have [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// The file to carry to the machine with the authority's key [default: it is printed]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// `lineside certs sign`.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The file that `lineside certs request` wrote; - reads stdin
    file: PathBuf,
    #[command(flatten)]
    office: OfficeArgs,
    /// What the machine may be: node, gateway, client or admin
    #[arg(long, required_unless_present = "node")]
    role: Option<Role>,
    /// The machine's name for people
    #[arg(long, required_unless_present = "node")]
    name: Option<String>,
    /// Renew the certificate of this node: its id or its beginning
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// The file to carry back [default: it is printed]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// `lineside certs install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The file that `lineside certs sign` wrote; - reads stdin
    file: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl RequestArgs {
    pub(super) fn run(self) -> Outcome {
        let out = self.out.clone();
        check_new(out.as_deref())?;
        let config = self.load()?;
        let (letter, present) = make(&config)?;
        deliver(&letter, out.as_deref())?;
        let file = out.as_ref().map_or_else(|| "FILE".to_owned(), |file| file.display().to_string());
        let how = match present {
            Some(node) => format!("--node {node}"),
            None => format!("--role node --name {}", letter.noted(NAME).unwrap_or("NAME")),
        };
        output::note(format_args!(
            "\nCarry it to the machine with the authority's key, and the answer back (nothing in them is secret):\n  \
             there  lineside certs sign {file} {how} --out ANSWER\n  here   lineside certs install ANSWER{}",
            config.data_dir_flag(),
        ));
        Ok(Exit::Ok)
    }

    fn load(self) -> Result<Config, Failure> {
        Ok(self.settings.load(flags([("member.name", "--name", self.name)]))?.config)
    }
}

/// The request; with the node that it is to renew, if this machine has an identity.
fn make(config: &Config) -> Result<(Letter, Option<NodeId>), Failure> {
    let data = config.data_dir();
    let what = format!("cannot make a request in {}", data.display());
    prepare(&data, &what)?;
    let present = present(&data, &what)?;
    let directory = data.join(REQUEST_DIRECTORY);
    let request = match CertificateRequest::load(&directory) {
        // The file was lost, say: the same once more.
        Ok(request) => request,
        Err(IdentityError::RequestMissing(_)) => {
            let request = CertificateRequest::new();
            request.store(&directory).map_err(|error| unusable_identity(&what, &error))?;
            request
        }
        Err(error) => return Err(unusable_identity(&what, &error)),
    };
    let name = present.as_ref().map_or_else(|| config.name(), |identity| identity.name().to_owned());
    let title = "Lineside: a request for a certificate. Nothing in this file is secret.";
    let letter = Letter::new(title, request.pem()).note(NAME, name);
    let node = present.map(|identity| identity.node());
    let letter = node.iter().fold(letter, |letter, node| letter.note(RENEWS, node));
    Ok((letter, node))
}

impl SignArgs {
    pub(super) fn run(self) -> Outcome {
        let out = self.out.clone();
        let (letter, subject) = self.sign()?;
        deliver(&letter, out.as_deref())?;
        let Subject { role, node, name } = subject;
        output::note(format_args!(
            "\nsigned for the {role} {node} ({name}). On that machine: lineside certs install {}",
            out.as_ref().map_or_else(|| "FILE".to_owned(), |file| file.display().to_string()),
        ));
        Ok(Exit::Ok)
    }

    fn sign(self) -> Result<(Letter, Subject), Failure> {
        let what = "cannot sign the request";
        // Before a certificate is issued that nobody could carry back.
        check_new(self.out.as_deref())?;
        let office = self.office.open(what)?;
        let letter = Letter::read(&self.file, what)?;
        let remedy = "make another with `lineside certs request`";
        let csr = request_from_pem(letter.pem()).or_fail(Exit::Failure, what, remedy)?;
        let issued = office.authority.issued().map_err(|error| unusable_authority(what, &error))?;
        let subject = match &self.node {
            Some(wanted) => renewed(&issued, wanted, self.role, self.name)?,
            None => new_member(&letter, self.role, self.name)?,
        };
        let enrolled = office.authority.sign(&csr, &subject, office.now);
        let enrolled = enrolled.map_err(|error| unusable_authority(what, &error))?;
        let title = "Lineside: the answer to a request. Nothing in this file is secret.";
        let answer = Letter::new(title, enrolled_to_pem(&enrolled))
            .note(NAME, &subject.name)
            .note("role", subject.role)
            .note("node", subject.node)
            .note("signed", utc(seconds(office.now)));
        Ok((answer, subject))
    }
}

/// Whom a request without `--node` is for. One that asks to be renewed could not be installed then.
fn new_member(letter: &Letter, role: Option<Role>, name: Option<String>) -> Result<Subject, Failure> {
    if let Some(node) = letter.noted(RENEWS) {
        return Err(Failure::new(
            Exit::Failure,
            "cannot sign the request as one of a new machine",
            format!("it comes from a machine that has an identity already, and asks to renew it: {node}"),
            format!("add --node {node}, if you trust whoever brought it"),
        ));
    }
    match (role, name) {
        (Some(role), Some(name)) => Ok(Subject::new(role, name)),
        _ => Err(Failure::new(Exit::Usage, "cannot sign the request", "", "name --role and --name")),
    }
}

/// Whom a request with `--node` is for: the holder of the newest certificate of that node.
fn renewed(
    issued: &[IssuedRow],
    wanted: &str,
    role: Option<Role>,
    name: Option<String>,
) -> Result<Subject, Failure> {
    let mut rows: Vec<&IssuedRow> = Vec::new();
    for row in issued.iter().filter(|row| !wanted.is_empty() && row.node.to_string().starts_with(wanted)) {
        match rows.iter_mut().find(|seen| seen.node == row.node) {
            Some(seen) if seen.issued < row.issued => *seen = row,
            Some(_) => {}
            None => rows.push(row),
        }
    }
    let what = format!("cannot renew the certificate of {wanted:?}");
    let (node, of_role, named) = match rows[..] {
        [row] => (row.node, Some(row.role), Some(row.name.clone())),
        [] => match wanted.parse::<NodeId>() {
            Ok(node) if role.is_some() && name.is_some() => (node, None, None),
            _ => {
                let why = "no certificate of such a node is known here";
                let remedy = "`lineside certs issued` lists them; of one that is not in it, give the whole id, --role \
                              and --name";
                return Err(Failure::new(Exit::Failure, what, why, remedy));
            }
        },
        _ => {
            let ids: Vec<_> = rows.iter().map(|row| format!("{} {}", row.name, row.node)).collect();
            let why = format!("it can be {}", ids.join(", "));
            return Err(Failure::new(Exit::Failure, what, why, "give more of the id"));
        }
    };
    match (of_role.or(role), role) {
        (Some(is), Some(wished)) if is != wished => Err(Failure::new(
            Exit::Failure,
            what,
            format!("it is a {is}, and is to be a {wished}: a renewal changes no role"),
            "leave --role out; another role needs a new identity, made in an empty data directory",
        )),
        (Some(role), _) => Ok(Subject { role, node, name: name.or(named).unwrap_or_default() }),
        (None, _) => Err(Failure::new(Exit::Usage, what, "", "name its --role")),
    }
}

impl InstallArgs {
    pub(super) fn run(self) -> Outcome {
        let config = self.settings.clone().load(Vec::new())?.config;
        let (identity, was_renewed) = self.install(&config.data_dir())?;
        output::data(format_args!(
            "{} {} ({}) of the cluster {}\n",
            identity.role(),
            identity.node(),
            identity.name(),
            identity.cluster(),
        ))?;
        let ends = utc(seconds(identity.not_after()));
        let then = match (running_here(&config).is_ok(), identity.role()) {
            (true, _) => "The member that runs here uses it after its next start.".to_owned(),
            (false, Role::Node) => "Start it: lineside up, or lineside node".to_owned(),
            (false, Role::Gateway) => "Start it: lineside gateway".to_owned(),
            (false, Role::Client | Role::Admin) => "Commands on this machine use it.".to_owned(),
        };
        let done = if was_renewed { "renewed" } else { "installed" };
        output::note(format_args!("\n{done}, good until {ends}. {then}"));
        Ok(Exit::Ok)
    }

    /// The identity that this machine has now, and whether it had one before.
    fn install(self, data: &Path) -> Result<(Identity, bool), Failure> {
        let what = format!("cannot install {}", self.file.display());
        let asked = data.join(REQUEST_DIRECTORY);
        let request = CertificateRequest::load(&asked).map_err(|error| match error {
            IdentityError::RequestMissing(_) => Failure::new(
                Exit::Failure,
                &what,
                format!("no request waits for an answer in {}", asked.display()),
                "it was made on another machine or with another --data-dir, or was installed already: `lineside certs \
                 show` tells; `lineside certs request` makes another",
            ),
            error => unusable_identity(&what, &error),
        })?;
        let letter = Letter::read(&self.file, &what)?;
        let again = "have the request of this machine signed again with `lineside certs sign`";
        let answer = enrolled_from_pem(letter.pem()).or_fail(Exit::Failure, &what, again)?;
        let directory = data.join(IDENTITY_DIRECTORY);
        let present = present(data, &what)?;
        let stored = match &present {
            Some(present) => {
                let issued = request.renew(present, &answer).or_fail(Exit::Failure, &what, again)?;
                Identity::store_renewed(&directory, &issued)
            }
            None => {
                prepare(data, &what)?;
                let issued = request.complete(&answer, None).or_fail(Exit::Failure, &what, again)?;
                Identity::store(&directory, &issued)
            }
        };
        let identity = stored.and_then(|()| Identity::load(&directory));
        let identity = identity.map_err(|error| unusable_identity(&what, &error))?;
        // Only now: until the identity is whole, the answer can be installed again.
        CertificateRequest::remove(&asked).or_fail(
            Exit::Failure,
            format!("the identity is installed, but the used request in {} is still there", asked.display()),
            "remove that directory: its key is the identity's",
        )?;
        Ok((identity, present.is_some()))
    }
}

/// The identity in a data directory, if there is one. What is there and cannot be used is in the way.
fn present(data: &Path, what: &str) -> Result<Option<Identity>, Failure> {
    match Identity::load(&data.join(IDENTITY_DIRECTORY)) {
        Ok(identity) => Ok(Some(identity)),
        Err(IdentityError::Missing(_)) => Ok(None),
        Err(error) => Err(unusable_identity(what, &error)),
    }
}

/// Makes sure that a file to write is not there yet.
fn check_new(out: Option<&Path>) -> Result<(), Failure> {
    match out {
        Some(file) if fs::symlink_metadata(file).is_ok() => Err(Failure::new(
            Exit::Failure,
            format!("cannot write {}", file.display()),
            "it is there already, and a file is never replaced",
            "name another file with --out",
        )),
        Some(_) | None => Ok(()),
    }
}

/// Writes a letter to a file, or prints it.
fn deliver(letter: &Letter, out: Option<&Path>) -> Result<(), Failure> {
    match out {
        Some(file) => {
            letter.write(file)?;
            output::data(format_args!("{}\n", file.display()))?;
        }
        None => output::data(letter)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::certs::tests::{Desk, issued};

    fn request(desk: &Desk) -> PathBuf {
        let out = desk.beside("request.txt");
        let _ = fs::remove_file(&out);
        let args = RequestArgs { settings: desk.settings(), name: Some("weld".to_owned()), out: None };
        make(&args.load().unwrap()).unwrap().0.write(&out).unwrap();
        out
    }

    fn sign(office: &Desk, file: PathBuf, node: Option<NodeId>) -> Result<PathBuf, Failure> {
        let new = node.is_none();
        let args = SignArgs {
            file,
            office: office.office(),
            role: new.then_some(Role::Node),
            name: new.then(|| "weld".to_owned()),
            node: node.map(|node| node.to_string()),
            out: None,
        };
        let answer = office.beside("answer.txt");
        let _ = fs::remove_file(&answer);
        args.sign()?.0.write(&answer)?;
        Ok(answer)
    }

    fn install(desk: &Desk, file: PathBuf) -> Result<(Identity, bool), Failure> {
        InstallArgs { file, settings: desk.settings() }.install(&desk.data())
    }

    #[test]
    fn nothing_is_signed_for_a_file_that_is_there_already() {
        let (office, weld) = (Desk::founded("press"), Desk::empty("weld"));
        let asked = request(&weld);
        let args = SignArgs {
            file: asked.clone(),
            office: office.office(),
            role: Some(Role::Node),
            name: Some("weld".to_owned()),
            node: None,
            out: Some(asked),
        };
        let refused = args.sign().map(drop).unwrap_err();
        assert!(refused.text().contains("there already"), "{}", refused.text());
        let office = office.office().open("").unwrap();
        assert_eq!(office.authority.issued().unwrap().len(), 1, "only its own");
    }

    #[test]
    fn a_machine_that_no_network_reaches_joins_and_renews_by_files() {
        let (office, weld) = (Desk::founded("press"), Desk::empty("weld"));
        let asked = request(&weld);
        assert_eq!(fs::read(&asked).unwrap(), fs::read(request(&weld)).unwrap(), "another key was made");
        let answer = sign(&office, asked, None).unwrap();
        for file in [weld.beside("request.txt"), answer.clone()] {
            assert!(!fs::read_to_string(file).unwrap().contains("PRIVATE"), "a key is on the stick");
        }
        let (first, was_renewed) = install(&weld, answer.clone()).unwrap();
        assert_eq!((first.role(), first.name(), was_renewed), (Role::Node, "weld", false));
        assert_eq!(first.cluster(), office.identity().cluster());
        assert!(!weld.data().join(REQUEST_DIRECTORY).join("request.key").exists(), "a used key was left");
        let again = install(&weld, answer).map(drop).unwrap_err();
        assert!(again.text().contains("no request waits"), "{}", again.text());

        let asked = request(&weld);
        let unasked = sign(&office, asked.clone(), None).unwrap_err();
        assert!(unasked.text().contains(&format!("--node {}", first.node())), "{}", unasked.text());
        let answer = sign(&office, asked, Some(first.node())).unwrap();
        let (second, was_renewed) = install(&weld, answer).unwrap();
        assert_eq!((second.node(), was_renewed), (first.node(), true));
        assert_ne!(second.holder().serial, first.holder().serial);
    }

    #[test]
    fn an_identity_is_not_replaced_by_the_answer_to_another_machine() {
        let (office, weld, paint) = (Desk::founded("press"), Desk::empty("weld"), Desk::empty("paint"));
        let answer = sign(&office, request(&weld), None).unwrap();
        request(&paint);
        assert!(install(&paint, answer.clone()).is_err(), "a certificate for another key was installed");
        assert!(!paint.data().join(IDENTITY_DIRECTORY).join("cert.pem").exists());
        let (first, _) = install(&weld, answer).unwrap();

        // The right key, and another node's id: the person who signed took the wrong one.
        let asked = request(&weld);
        let wrong = sign(&office, asked, Some(office.identity().node())).unwrap();
        assert!(install(&weld, wrong).is_err(), "the machine became another one");
        assert_eq!(weld.identity().holder(), first.holder());
    }

    #[test]
    fn what_is_no_request_is_not_signed() {
        let office = Desk::founded("press");
        let file = office.beside("no-request.txt");
        let pem =
            |label: &str, base64: &str| format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
        for text in [
            "hello".to_owned(),
            pem("CERTIFICATE", "MAA="),
            pem("CERTIFICATE REQUEST", "MAA="),
            pem("CERTIFICATE REQUEST", &"AAAA".repeat(2000)),
            "x".repeat(1 << 20),
        ] {
            fs::write(&file, text).unwrap();
            let refused = sign(&office, file.clone(), None).unwrap_err();
            assert!(refused.text().contains("cannot sign the request\n  why: "), "{}", refused.text());
            assert_eq!(refused.exit, Exit::Failure);
        }
    }

    #[test]
    fn a_renewal_is_for_one_known_node_and_keeps_its_role() {
        let mut newer = issued("press", 1, "0c");
        (newer.issued, newer.name) = (20, "press-2".to_owned());
        let rows = [issued("press", 1, "0a"), newer, issued("weld", 2, "0b")];
        let subject = renewed(&rows, "01", None, None).unwrap();
        assert_eq!((subject.node, subject.name.as_str()), (NodeId::from_bytes([1; 16]), "press-2"));
        let other = renewed(&rows, "01", Some(Role::Gateway), None).unwrap_err();
        assert!(other.text().contains("changes no role"), "{}", other.text());
        assert!(renewed(&rows, "0", None, None).unwrap_err().text().contains("it can be press-2"));
        assert!(renewed(&rows, "ff", None, None).unwrap_err().text().contains("certs issued"));
        let id = NodeId::from_bytes([9; 16]).to_string();
        let unknown = renewed(&rows, &id, Some(Role::Client), Some("camera".to_owned())).unwrap();
        assert_eq!((unknown.role, unknown.name.as_str()), (Role::Client, "camera"));
    }
}
