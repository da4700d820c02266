//! A gateway and a node that serve one model, or many.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use lineside_wire::Role;

use crate::{
    compare::{Measured, Round},
    cpu,
    gateway::{body::Body, wrk},
    identities::Identities,
    member::{Member, UP_WITHIN, now},
};

/// The two processes, and the models that they serve.
pub(crate) struct Served {
    pub(crate) gateway: Member,
    pub(crate) node: Member,
    /// Holds their data.
    pub(crate) identities: Identities,
}

impl Served {
    /// Starts a node with these models, each copied from a directory with a version below it, and a gateway.
    pub(crate) fn start(binary: &Path, library: &Path, models: &[(&str, &Path)]) -> anyhow::Result<Self> {
        let identities = Identities::make()?;
        identities.issue(Role::Node, "node", "node/identity")?;
        identities.issue(Role::Gateway, "gateway", "gateway/identity")?;
        let repository = identities.home.path().join("models");
        for (name, from) in models {
            copy(from, &repository.join(name)).with_context(|| format!("{} is not there", from.display()))?;
        }
        let home = |name: &str| identities.home.path().join(name);
        let (models, library) = (repository.display().to_string(), library.display().to_string());
        let arguments = ["node", "--no-mdns", "--models", &models, "--onnxruntime", &library];
        let node = Member::start(binary, &home("node"), &arguments)?;
        let seed = node.addresses.members.to_string();
        let arguments = ["gateway", "--no-mdns", "--http", "127.0.0.1:0", "--seed", &seed];
        let gateway = Member::start(binary, &home("gateway"), &arguments)?;
        Ok(Self { gateway, node, identities })
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.gateway.addresses.http.unwrap_or(self.gateway.addresses.members)
    }

    /// Waits until this request is answered.
    pub(crate) fn until_ready(&self, body: &Body) -> anyhow::Result<()> {
        let end = now() + UP_WITHIN;
        while !wrk::run(self.http(), body, 1, Duration::from_secs(1)).is_ok_and(|load| load.errors == 0) {
            if end < now() {
                bail!("{} was not served within {UP_WITHIN:?}", body.name);
            }
        }
        Ok(())
    }
}

/// One request over and over, by so many callers.
pub(crate) struct Load<'a> {
    pub(crate) name: &'static str,
    pub(crate) to: SocketAddr,
    pub(crate) body: &'a Body,
    pub(crate) callers: usize,
    /// Rows of a request.
    pub(crate) rows: u64,
    pub(crate) lasting: Duration,
    /// Processes whose CPU counts.
    pub(crate) pids: Vec<u32>,
}

impl Measured for Load<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn round(&mut self) -> anyhow::Result<Round> {
        let before = cpu::used(&self.pids);
        let load = wrk::run(self.to, self.body, self.callers, self.lasting)?;
        let cpu = cpu::used(&self.pids) - before;
        if load.errors != 0 {
            bail!(
                "{}: {} of {} requests failed: a comparison needs none",
                self.name,
                load.errors,
                load.requests
            );
        }
        Ok(Round::new(load.requests * self.rows, load.took, cpu, load.p50_us, load.p99_us))
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, at) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true => copy(&path, &at)?,
            false => drop(fs::copy(&path, &at)?),
        }
    }
    Ok(())
}
