//! nginx with three servers that have ONNX Runtime add, set to send a call on that got no answer.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use lineside_certs::server_name_of;

use super::{Loss, Site, network};
use crate::{
    children::Process,
    gateway::nginx::{Upstream, launch},
    identities::Identities,
    member::models,
};

/// How long nginx leaves a server alone that failed: its default.
const FAIL_TIMEOUT: Duration = Duration::from_secs(10);

/// A call goes on to the next server, also one that may have run, when there is no answer within a second.
const LOCATION: &str = "proxy_next_upstream error timeout non_idempotent;
      proxy_connect_timeout 1s;
      proxy_send_timeout 1s;
      proxy_read_timeout 1s;
      add_header X-Upstream $upstream_addr always;";

pub(crate) struct Theirs {
    nginx: Process,
    servers: Vec<Option<Process>>,
    addresses: Vec<SocketAddr>,
    identity: PathBuf,
    library: PathBuf,
}

impl Theirs {
    pub(crate) fn start(
        identities: &Identities,
        own: &Path,
        nodes: &[PathBuf],
        library: &Path,
    ) -> anyhow::Result<Self> {
        // One identity for all: nginx checks one name.
        let identity = nodes.first().context("there are servers")?.clone();
        let free = |_| Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?);
        let addresses = nodes.iter().map(free).collect::<anyhow::Result<Vec<_>>>()?;
        let servers = addresses.iter().map(|address| server(&identity, library, *address).map(Some));
        let servers = servers.collect::<anyhow::Result<_>>()?;
        let name = Identities::load(&identity)?;
        let name = server_name_of(name.node(), name.cluster());
        let upstream = Upstream { own, name: &name, servers: &addresses, workers: 1, location: LOCATION };
        let nginx = launch(identities.home.path(), &upstream)?;
        Ok(Self { nginx, servers, addresses, identity, library: library.to_owned() })
    }
}

fn server(identity: &Path, library: &Path, address: SocketAddr) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "echo", "--identity"]).arg(identity).arg("--listen").arg(address.to_string());
    command.arg("--library").arg(library).arg("--model").arg(models().join("add/1/model.onnx"));
    Process::announced(command, "echo")
}

impl Site for Theirs {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn door(&self) -> SocketAddr {
        self.nginx.address
    }

    fn lose(&mut self, server: usize, loss: Loss) -> anyhow::Result<()> {
        match loss {
            Loss::Crash => self.servers[server].as_ref().context("it runs")?.kill(),
            Loss::Silence => network::cut(self.addresses[server]),
        }
    }

    fn mend(&mut self, server: usize, loss: Loss) -> anyhow::Result<()> {
        match loss {
            Loss::Crash => {
                self.servers[server] = None;
                self.servers[server] =
                    Some(self::server(&self.identity, &self.library, self.addresses[server])?);
            }
            Loss::Silence => network::mend()?,
        }
        std::thread::sleep(FAIL_TIMEOUT);
        Ok(())
    }
}
