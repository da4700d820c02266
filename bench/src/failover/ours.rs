//! A Lineside gateway and three nodes, as processes of the real binary.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{Load, Loss, SERVERS, Site, network};
use crate::{
    gateway::body::Body,
    identities::Identities,
    member::{Member, UP_WITHIN, models, now},
};

pub(crate) struct Ours {
    gateway: Member,
    nodes: Vec<Option<Member>>,
    places: Vec<PathBuf>,
    binary: PathBuf,
    library: PathBuf,
}

impl Ours {
    pub(crate) fn start(binary: &Path, identities: &Identities, library: &Path) -> anyhow::Result<Self> {
        let home = identities.home.path();
        let places: Vec<_> = (0..SERVERS).map(|n| home.join(format!("node-{n}"))).collect();
        let mut nodes = Vec::new();
        for place in &places {
            let seed = nodes.first().map(|first: &Member| first.addresses.members);
            nodes.push(node(binary, place, library, seed)?);
        }
        let seed = nodes[0].addresses.members.to_string();
        let arguments = ["gateway", "--no-mdns", "--http", "127.0.0.1:0", "--shards", "1", "--seed", &seed];
        let gateway = Member::start(binary, &home.join("gateway"), &arguments)?;
        let nodes = nodes.into_iter().map(Some).collect();
        let site = Self { gateway, nodes, places, binary: binary.to_owned(), library: library.to_owned() };
        site.all_answer()?;
        Ok(site)
    }

    /// Waits until every node answers calls of the door.
    fn all_answer(&self) -> anyhow::Result<()> {
        let end = now() + 3 * UP_WITHIN;
        loop {
            let load = Load::start(self.door(), &Body::small(), 8, Duration::from_millis(5));
            std::thread::sleep(Duration::from_secs(1));
            let calls = load.end();
            let by: BTreeSet<_> =
                calls.iter().filter(|call| call.status == Some(200)).map(|call| &call.by).collect();
            // Each with a fair part: a node that has just come back gets little at first.
            let fair = |who: &&&String| {
                calls.len() / (2 * SERVERS) < calls.iter().filter(|call| call.by == ***who).count()
            };
            if by.iter().filter(fair).count() == SERVERS {
                return Ok(());
            }
            if end < now() {
                bail!("{} of {SERVERS} nodes answer: {by:?}", by.len());
            }
        }
    }
}

fn node(binary: &Path, place: &Path, library: &Path, seed: Option<SocketAddr>) -> anyhow::Result<Member> {
    let (models, library) = (models().display().to_string(), library.display().to_string());
    let mut arguments = vec!["node", "--no-mdns", "--models", &models, "--onnxruntime", &library];
    let seed = seed.map(|seed| seed.to_string());
    if let Some(seed) = &seed {
        arguments.extend(["--seed", seed]);
    }
    Member::start(binary, place, &arguments)
}

impl Site for Ours {
    fn name(&self) -> &'static str {
        "lineside"
    }

    fn door(&self) -> SocketAddr {
        self.gateway.addresses.http.unwrap_or(self.gateway.addresses.members)
    }

    fn lose(&mut self, server: usize, loss: Loss) -> anyhow::Result<()> {
        let node = self.nodes[server].as_ref().context("it runs")?;
        match loss {
            Loss::Crash => node.process.kill(),
            Loss::Silence => network::cut(node.addresses.members),
        }
    }

    fn mend(&mut self, server: usize, loss: Loss) -> anyhow::Result<()> {
        match loss {
            Loss::Crash => {
                self.nodes[server] = None;
                // What the process before it wrote is not where the next one is.
                drop(std::fs::remove_file(self.places[server].join("run/address")));
                let others = self.nodes.iter().flatten().next().map(|node| node.addresses.members);
                self.nodes[server] = Some(node(&self.binary, &self.places[server], &self.library, others)?);
            }
            Loss::Silence => network::mend()?,
        }
        self.all_answer()
    }
}
