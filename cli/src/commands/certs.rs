//! `lineside certs …`: identities, and the authority that makes them.
//!
//! What changes whom the cluster trusts works on the authority's directory of this machine; a member that runs here
//! publishes it.

mod audit;
mod join;
mod letter;
mod lock;
mod make;
pub(super) mod office;
mod offline;
mod revoke;
mod rotate;
mod show;
mod web;

use clap::Subcommand;
use lineside_certs::roles;
use lineside_wire::Role;

use crate::{
    exit::{Exit, Outcome},
    output::{self, Format, FormatArgs, Table},
};

/// `lineside certs …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Make a cluster: its authority and this machine's identity
    Init(make::InitArgs),
    /// Show the identity of this machine, whom it trusts and when it is renewed
    Show(show::ShowArgs),
    /// Print the authority's certificate (PEM): what clients need to check the cluster's HTTPS
    Ca(web::CaArgs),
    /// Become a client with a token
    Join(join::JoinArgs),
    /// Make an admin's identity, for a day
    Admin(make::AdminArgs),
    /// Make an identity for another machine, its key too; a token or a request is better: the key then stays there
    Issue(make::IssueArgs),
    /// Ask for a certificate by a file: for machines that no network reaches
    Request(offline::RequestArgs),
    /// Answer a request that came by a file
    Sign(offline::SignArgs),
    /// Put the answer to this machine's request into force
    Install(offline::InstallArgs),
    /// Shut a machine or a certificate out of the cluster
    Revoke(revoke::RevokeArgs),
    /// List the certificates that were issued
    Issued(revoke::IssuedArgs),
    /// Replace the authority by a new one
    #[command(subcommand)]
    RotateCa(rotate::RotateCommand),
    /// Encrypt the authority's key with a passphrase, or set another one
    Passphrase(lock::PassphraseCommandArgs),
    /// Show the audit log of the authority
    Audit(audit::AuditArgs),
    /// Show which role may call which method
    Roles(FormatArgs),
}

impl Certs {
    /// Does what the command says.
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Init(args) => args.run(),
            Self::Show(args) => args.run(),
            Self::Ca(args) => args.run(),
            Self::Join(args) => args.run(),
            Self::Admin(args) => args.run(),
            Self::Issue(args) => args.run(),
            Self::Request(args) => args.run(),
            Self::Sign(args) => args.run(),
            Self::Install(args) => args.run(),
            Self::Revoke(args) => args.run(),
            Self::Issued(args) => args.run(),
            Self::RotateCa(command) => command.run(),
            Self::Passphrase(args) => args.run(),
            Self::Audit(args) => args.run(),
            Self::Roles(format) => show_roles(format.output),
        }
    }
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

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use lineside_certs::{AUTHORITY_DIRECTORY, IDENTITY_DIRECTORY, Identity, IssuedRow};
    use lineside_wire::NodeId;

    use super::{
        office::{OfficeArgs, now},
        *,
    };
    use crate::args::SettingsArgs;

    /// A data directory, as the person at its machine uses it.
    pub(crate) struct Desk {
        home: tempfile::TempDir,
        name: &'static str,
    }

    impl Desk {
        /// A machine with nothing on it.
        pub(crate) fn empty(name: &'static str) -> Self {
            Self { home: tempfile::tempdir().unwrap(), name }
        }

        /// The machine that made a cluster.
        pub(crate) fn founded(name: &'static str) -> Self {
            let desk = Self::empty(name);
            let (_, made) = Identity::ensure(&desk.data(), name, Role::Node, true, now()).unwrap();
            assert!(made);
            desk
        }

        pub(crate) fn data(&self) -> PathBuf {
            self.home.path().join(self.name)
        }

        /// A file beside the data directory: on a USB stick, say.
        pub(crate) fn beside(&self, name: &str) -> PathBuf {
            self.home.path().join(name)
        }

        pub(crate) fn authority(&self) -> PathBuf {
            self.data().join(AUTHORITY_DIRECTORY)
        }

        pub(crate) fn identity(&self) -> Identity {
            Identity::load(&self.data().join(IDENTITY_DIRECTORY)).unwrap()
        }

        pub(crate) fn settings(&self) -> SettingsArgs {
            SettingsArgs { config: None, data_dir: Some(self.data().display().to_string()) }
        }

        pub(crate) fn office(&self) -> OfficeArgs {
            OfficeArgs { settings: self.settings(), ..OfficeArgs::default() }
        }
    }

    /// A certificate of `name`, whose node id is made of `id`, that ends at 1000.
    pub(crate) fn issued(name: &str, id: u8, serial: &str) -> IssuedRow {
        IssuedRow {
            serial: serial.to_owned(),
            node: NodeId::from_bytes([id; 16]),
            role: Role::Node,
            name: name.to_owned(),
            generation: 1,
            issued: 10,
            not_after: 1000,
            revoked: None,
        }
    }
}
