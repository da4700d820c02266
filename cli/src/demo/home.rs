//! What the demo's processes find on disk: certificates, models, settings, logs, in one directory that goes with it.

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

use super::samples;

/// The machines that run models.
pub(super) const NODES: [&str; 3] = ["press", "weld", "paint"];
/// The door.
pub(super) const GATEWAY: &str = "gateway";
/// The program that calls.
const CLIENT: &str = "camera";
/// The cluster's name.
const CLUSTER: &str = "demo";

/// The settings of every member, so that those of this machine and its user change nothing. One session and one
/// shard each: four processes share the cores that one would have.
const SETTINGS: &str = "\
[node]
sessions = 1

[gateway]
shards = 1
rate_per_second = 0

[log]
format = \"human\"
level = \"info\"
";

/// The directory. It is removed when this is dropped; end the processes first.
pub(super) struct Home {
    directory: TempDir,
    /// The nodes' names by the id in their certificate, as answers name them.
    names: BTreeMap<String, String>,
}

impl Home {
    /// Makes a cluster with an authority of its own, an identity for each member and one for a client.
    pub(super) fn make() -> anyhow::Result<Self> {
        let prefix = "lineside-demo-";
        let directory =
            tempfile::Builder::new().prefix(prefix).tempdir().context("no temporary directory")?;
        let mut home = Self { directory, names: BTreeMap::new() };
        let now = SystemTime::now();
        let authority = Authority::create(&home.path().join(AUTHORITY_DIRECTORY), CLUSTER, now)?;
        for name in NODES {
            let node = issue(&authority, Role::Node, name, &home.data(name).join(IDENTITY_DIRECTORY), now)?;
            home.names.insert(node.to_string(), name.to_owned());
        }
        issue(&authority, Role::Gateway, GATEWAY, &home.data(GATEWAY).join(IDENTITY_DIRECTORY), now)?;
        issue(&authority, Role::Client, CLIENT, &home.client(), now)?;
        fs::create_dir(home.logs()).context("no directory for the logs")?;
        fs::write(home.settings(), SETTINGS).context("the settings cannot be written")?;
        samples::write_models(&home.models()).context("the models cannot be written")?;
        Ok(home)
    }

    /// All of it.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A member's data directory.
    pub(super) fn data(&self, member: &str) -> PathBuf {
        self.path().join(member)
    }

    /// The model repository of every node.
    pub(super) fn models(&self) -> PathBuf {
        self.path().join("models")
    }

    /// The settings of every member.
    pub(super) fn settings(&self) -> PathBuf {
        self.path().join("lineside.toml")
    }

    /// The identity of the program that calls.
    pub(super) fn client(&self) -> PathBuf {
        self.path().join(CLIENT)
    }

    /// What the members write while they run.
    pub(super) fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    /// The nodes' names by their id.
    pub(super) fn names(&self) -> &BTreeMap<String, String> {
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

    #[test]
    fn everyone_has_an_identity_of_one_fresh_cluster() {
        let home = Home::make().unwrap();
        let client = Identity::load(&home.client()).unwrap();
        assert_eq!(client.role(), Role::Client);
        for name in NODES {
            let node = Identity::load(&home.data(name).join(IDENTITY_DIRECTORY)).unwrap();
            assert_eq!((node.cluster(), node.role(), node.name()), (client.cluster(), Role::Node, name));
            assert_eq!(home.names()[&node.node().to_string()], name);
        }
        let gateway = Identity::load(&home.data(GATEWAY).join(IDENTITY_DIRECTORY)).unwrap();
        assert_eq!((gateway.cluster(), gateway.role()), (client.cluster(), Role::Gateway));
        assert!(Home::make().unwrap().names().keys().all(|id| !home.names().contains_key(id)));
    }

    #[test]
    fn nothing_is_left_on_disk() {
        let home = Home::make().unwrap();
        let path = home.path().to_owned();
        assert!(path.join("models/add/1/model.onnx").is_file());
        drop(home);
        assert!(!path.exists());
    }

    #[test]
    fn the_settings_of_the_members_are_valid() {
        let home = Home::make().unwrap();
        let sources = crate::config::Sources { file: Some(home.settings()), ..Default::default() };
        let loaded = crate::config::load(&sources).expect("the settings are valid");
        assert_eq!(loaded.config.node.sessions.map(std::num::NonZeroU32::get), Some(1));
    }
}
