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
    /// Begins in an empty directory, with a token.
    pub(crate) joins: bool,
    /// Others reach it through a relay.
    pub(crate) relayed: bool,
    /// Models of its own, each with the name that it serves it under.
    pub(crate) models: Vec<(String, String)>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl Plan {
    fn new(name: &str, command: &'static str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            command,
            role,
            settings: Vec::new(),
            flags: Vec::new(),
            mdns: false,
            data: None,
            joins: false,
            relayed: false,
            models: Vec::new(),
            environment: Vec::new(),
        }
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

    /// Begins in an empty directory and joins with this token.
    #[must_use]
    pub fn joining(mut self, token: &str) -> Self {
        self.joins = true;
        self.flag("--join").flag(token)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Others reach it through a relay, with the weather that [`Floor::weather`](crate::Floor::weather) makes.
    #[must_use]
    pub fn behind_relay(mut self) -> Self {
        self.relayed = true;
        self
    }

    /// Has a repository of its own, and in it this model, under a name that may be another's: a node whose model is not
    /// what it should be.
    #[must_use]
    pub fn serving(mut self, model: &str, name: &str) -> Self {
        self.models.push((model.to_owned(), name.to_owned()));
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
