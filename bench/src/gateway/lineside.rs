//! A gateway and one node, as processes of the real binary.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::bail;

use super::Door;
use crate::{
    identities::Identities,
    member::{Member, UP_WITHIN, models, now},
};

/// A gateway with one node.
pub(crate) struct Cluster {
    gateway: Member,
    node: Member,
}

impl Cluster {
    pub(crate) fn start(
        binary: &Path,
        identities: &Identities,
        shards: usize,
        library: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let (models, shards) = (models().display().to_string(), shards.to_string());
        let library = library.map(|library| library.display().to_string());
        let mut arguments = vec!["node", "--no-mdns", "--models", &models];
        if let Some(library) = &library {
            arguments.extend(["--onnxruntime", library]);
        }
        let node = Member::start(binary, &identities.home.path().join("node"), &arguments)?;
        let seed = node.addresses.members.to_string();
        let arguments =
            ["gateway", "--no-mdns", "--http", "127.0.0.1:0", "--shards", &shards, "--seed", &seed];
        let gateway = Member::start(binary, &identities.home.path().join("gateway"), &arguments)?;
        let cluster = Self { gateway, node };
        let end = now() + UP_WITHIN;
        let body = super::body::Body::small();
        while !super::wrk::run(cluster.address(), &body, 1, Duration::from_secs(1))
            .is_ok_and(|load| load.errors == 0)
        {
            if end < now() {
                bail!("the cluster did not answer within {UP_WITHIN:?}");
            }
        }
        Ok(cluster)
    }
}

impl Door for Cluster {
    fn address(&self) -> SocketAddr {
        self.gateway.addresses.http.unwrap_or(self.gateway.addresses.members)
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.gateway.process.pid(), self.node.process.pid()]
    }
}
