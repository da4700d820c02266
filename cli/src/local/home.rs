//! What the processes find on disk: certificates, models, settings, logs, in one directory that goes with it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use lineside_certs::{AUTHORITY_DIRECTORY, Authority, IDENTITY_DIRECTORY, Identity, Subject};
use lineside_wire::{NodeId, Role};
use tempfile::TempDir;

/// The program that calls.
const CLIENT: &str = "camera";
/// The person who looks after the cluster.
const ADMIN: &str = "foreman";

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Its name, and part of its directory's.
    pub(crate) cluster: &'static str,
    /// Who belongs to it.
    pub(crate) members: &'static [Member],
    /// What every node serves.
    pub(crate) models: &'static [Model],
    /// The settings of every member, so that those of this machine and its user change nothing.
    pub(crate) settings: &'static str,
}

/// A member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) role: Role,
}

/// A model, carried in the binary so that it works from anywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    /// Its name.
    pub(crate) name: &'static str,
    /// The file.
    pub(crate) onnx: &'static [u8],
    /// Its `model.toml`, if it needs one.
    pub(crate) settings: Option<&'static str>,
}

impl Member {
    /// A machine that runs models.
    pub(crate) const fn node(name: &'static str) -> Self {
        Self { name, role: Role::Node }
    }

    /// A door.
    pub(crate) const fn gateway(name: &'static str) -> Self {
        Self { name, role: Role::Gateway }
    }
}

/// The directory. It is removed when this is dropped; end the processes first.
pub(crate) struct Home {
    directory: TempDir,
    plan: Plan,
    /// The nodes' names by the id in their certificate, as answers name them.
    names: BTreeMap<String, String>,
}

impl Home {
    /// Makes a cluster with an authority of its own, an identity for each member, for a client and for an admin.
    pub(crate) fn make(plan: Plan) -> anyhow::Result<Self> {
        let prefix = format!("lineside-{}-", plan.cluster);
        let directory =
            tempfile::Builder::new().prefix(&prefix).tempdir().context("no temporary directory")?;
        let mut home = Self { directory, plan, names: BTreeMap::new() };
        let now = SystemTime::now();
        let authority = Authority::create(&home.path().join(AUTHORITY_DIRECTORY), plan.cluster, now)?;
        for Member { name, role } in plan.members {
            let node = issue(&authority, *role, name, &home.data(name).join(IDENTITY_DIRECTORY), now)?;
            if *role == Role::Node {
                home.names.insert(node.to_string(), (*name).to_owned());
            }
        }
        issue(&authority, Role::Client, CLIENT, &home.client(), now)?;
        issue(&authority, Role::Admin, ADMIN, &home.admin(), now)?;
        fs::create_dir(home.logs()).context("no directory for the logs")?;
        fs::write(home.settings(), plan.settings).context("the settings cannot be written")?;
        home.write_models().context("the models cannot be written")?;
        Ok(home)
    }

    /// Writes the models as a repository: `<name>/1/model.onnx`, and `<name>/model.toml` where there is one.
    fn write_models(&self) -> std::io::Result<()> {
        for Model { name, onnx, settings } in self.plan.models {
            let directory = self.models().join(name);
            fs::create_dir_all(directory.join("1"))?;
            fs::write(directory.join("1/model.onnx"), onnx)?;
            if let Some(settings) = settings {
                fs::write(directory.join("model.toml"), settings)?;
            }
        }
        Ok(())
    }

    /// What it is made of.
    pub(crate) const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// All of it.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves the directory on disk.
    pub(crate) fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// A member's data directory.
    pub(crate) fn data(&self, member: &str) -> PathBuf {
        self.path().join(member)
    }

    /// The model repository of every node.
    pub(crate) fn models(&self) -> PathBuf {
        self.path().join("models")
    }

    /// The settings of every member.
    pub(crate) fn settings(&self) -> PathBuf {
        self.path().join("lineside.toml")
    }

    /// The identity of the program that calls.
    pub(crate) fn client(&self) -> PathBuf {
        self.path().join(CLIENT)
    }

    /// The identity of the person who looks after the cluster.
    pub(crate) fn admin(&self) -> PathBuf {
        self.path().join(ADMIN)
    }

    /// What the members write while they run.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    /// The nodes' names by their id.
    pub(crate) const fn names(&self) -> &BTreeMap<String, String> {
        &self.names
    }
}

fn issue(
    authority: &Authority,
    role: Role,
    name: &str,
    directory: &Path,
    now: SystemTime,
) -> anyhow::Result<NodeId> {
    let subject = Subject::new(role, name);
    let issued = authority.issue(&subject, now)?;
    Identity::store(directory, &issued).with_context(|| format!("no identity for {name}"))?;
    Ok(subject.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        cluster: "trial",
        members: &[Member::node("press"), Member::node("weld"), Member::gateway("door")],
        models: &[Model { name: "add", onnx: b"a file", settings: Some("# none") }],
        settings: "",
    };

    #[test]
    fn everyone_has_an_identity_of_one_fresh_cluster() {
        let home = Home::make(PLAN).unwrap();
        let client = Identity::load(&home.client()).unwrap();
        assert_eq!(client.role(), Role::Client);
        assert_eq!(Identity::load(&home.admin()).unwrap().role(), Role::Admin);
        for Member { name, role } in PLAN.members {
            let member = Identity::load(&home.data(name).join(IDENTITY_DIRECTORY)).unwrap();
            assert_eq!((member.cluster(), member.role(), member.name()), (client.cluster(), *role, *name));
            let is_node = *role == Role::Node;
            assert_eq!(home.names().contains_key(&member.node().to_string()), is_node);
        }
        assert!(Home::make(PLAN).unwrap().names().keys().all(|id| !home.names().contains_key(id)));
    }

    #[test]
    fn nothing_is_left_on_disk_unless_it_is_kept() {
        let home = Home::make(PLAN).unwrap();
        let path = home.path().to_owned();
        assert!(
            path.join("models/add/1/model.onnx").is_file() && path.join("models/add/model.toml").is_file()
        );
        drop(home);
        assert!(!path.exists());

        let mut home = Home::make(PLAN).unwrap();
        let path = home.path().to_owned();
        home.keep();
        drop(home);
        assert!(path.exists());
        fs::remove_dir_all(path).unwrap();
    }
}
