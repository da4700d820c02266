//! nginx with three servers that have ONNX Runtime add, set to send a call on that got no answer.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use lineside_certs::server_name_of;

use super::{Loss, Site, network};
use crate::{
    children::Process,
    identities::Identities,
    member::{models, now},
};

/// How long nginx leaves a server alone that failed: its default.
const FAIL_TIMEOUT: Duration = Duration::from_secs(10);

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
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let home = identities.home.path().join("nginx");
        fs::create_dir_all(&home)?;
        let name = Identities::load(&identity)?;
        let name = server_name_of(name.node(), name.cluster());
        fs::write(home.join("nginx.conf"), config(&home, own, &name, &addresses, listen))?;
        let child = Command::new("nginx")
            .args(["-c".as_ref(), home.join("nginx.conf").as_os_str(), "-p".as_ref(), home.as_os_str()])
            .stdin(Stdio::null())
            .stderr(fs::File::create(home.join("stderr"))?)
            .spawn()
            .context("cannot start nginx")?;
        let nginx = Process::adopt(child, listen);
        let end = now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(listen).is_err() {
            if end < now() {
                bail!("nginx did not start: {}", fs::read_to_string(home.join("stderr")).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
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

fn config(
    home: &Path,
    own: &Path,
    backend_name: &str,
    backends: &[SocketAddr],
    listen: SocketAddr,
) -> String {
    let (home, own) = (home.display(), own.display());
    let servers: String = backends.iter().map(|backend| format!("    server {backend};\n")).collect();
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  keepalive_requests 1000000;
  upstream nodes {{
    least_conn;
{servers}    keepalive 128;
    keepalive_requests 1000000;
  }}
  server {{
    listen {listen} reuseport;
    location / {{
      proxy_pass https://nodes;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_next_upstream error timeout non_idempotent;
      proxy_connect_timeout 1s;
      proxy_send_timeout 1s;
      proxy_read_timeout 1s;
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_certificate {own}/cert.pem;
      proxy_ssl_certificate_key {own}/key.pem;
      proxy_ssl_trusted_certificate {own}/ca.pem;
      proxy_ssl_verify on;
      proxy_ssl_name {backend_name};
      proxy_ssl_server_name on;
      proxy_ssl_session_reuse off;
      add_header X-Upstream $upstream_addr always;
    }}
  }}
}}
"
    )
}
