//! How a member is to be started.

use std::{fmt::Display, path::PathBuf};

use lineside_wire::Role;

/// A member before it runs. What it does not say is the same for all members of a story: 127.0.0.1, free ports, the
/// fast preset, one session, one shard, found by a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) command: &'static str,
    pub(crate) role: Role,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) flags: Vec<String>,
    pub(crate) mdns: bool,
    pub(crate) data: Option<PathBuf>,
}

impl Plan {
    fn new(name: &str, command: &'static str, role: Role) -> Self {
        let (settings, flags) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), command, role, settings, flags, mdns: false, data: None }
    }

    /// Runs models.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::new(name, "node", Role::Node)
    }

    /// Serves HTTP.
    #[must_use]
    pub fn gateway(name: &str) -> Self {
        Self::new(name, "gateway", Role::Gateway)
    }

    /// Both in one process.
    #[must_use]
    pub fn up(name: &str) -> Self {
        Self::new(name, "up", Role::Node)
    }

    /// Sets a setting, such as `node.sessions`; an empty value leaves it to the member's own default.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Adds a flag of the command line.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Finds the others by mDNS, without any seed.
    #[must_use]
    pub fn by_mdns(mut self) -> Self {
        self.mdns = true;
        self
    }

    /// Lives in this data directory, which is used as it is.
    #[must_use]
    pub fn in_directory(mut self, data: PathBuf) -> Self {
        self.data = Some(data);
        self
    }

    /// The value of a setting that was set; the last one counts.
    pub(crate) fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(set, _)| set == key).map(|(_, value)| value.as_str())
    }
}
