//! nginx as one would set it up for this: least_conn, keep-alive, mutual TLS 1.3 to its backend.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use lineside_certs::server_name_of;

use super::Door;
use crate::{
    children::{Process, System},
    identities::Identities,
    member::models,
};

pub(crate) struct Nginx {
    nginx: Process,
    backend: Process,
}

impl Nginx {
    pub(crate) fn start(
        identities: &Identities,
        own: &Path,
        node: &Path,
        workers: usize,
        library: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let backend = backend(node, library)?;
        let name = Identities::load(node)?;
        let name = server_name_of(name.node(), name.cluster());
        let upstream = Upstream {
            own,
            name: &name,
            servers: &[backend.address],
            workers,
            location: "proxy_request_buffering off; proxy_buffers 16 32k;",
        };
        Ok(Self { nginx: launch(identities.home.path(), &upstream)?, backend })
    }
}

/// What nginx stands before, and how.
pub(crate) struct Upstream<'a> {
    /// Where the certificate and key are that it shows to the servers.
    pub(crate) own: &'a Path,
    /// The name in the servers' certificate.
    pub(crate) name: &'a str,
    pub(crate) servers: &'a [SocketAddr],
    pub(crate) workers: usize,
    /// Further directives for the one location.
    pub(crate) location: &'a str,
}

/// Starts nginx, and waits until it takes connections.
pub(crate) fn launch(home: &Path, upstream: &Upstream<'_>) -> anyhow::Result<Process> {
    // Free a moment later; nobody else asks for ports here in between.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let home = home.join(format!("nginx-{}", address.port()));
    fs::create_dir_all(&home)?;
    fs::write(home.join("nginx.conf"), config(&home, address, upstream))?;
    let child = Command::new("nginx")
        .args(["-c".as_ref(), home.join("nginx.conf").as_os_str(), "-p".as_ref(), home.as_os_str()])
        .stdin(Stdio::null())
        .stderr(fs::File::create(home.join("stderr"))?)
        .spawn()
        .context("cannot start nginx")?;
    let nginx = Process::adopt(child, address);
    for _ in 0..100 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Ok(nginx);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("nginx did not start: {}", fs::read_to_string(home.join("stderr")).unwrap_or_default())
}

impl Door for Nginx {
    fn address(&self) -> SocketAddr {
        self.nginx.address
    }

    fn pids(&self) -> Vec<u32> {
        let master = self.nginx.pid();
        let children =
            fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        let workers = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        workers.chain([master, self.backend.pid()]).collect()
    }
}

/// The server behind it: adds on the spot, or with a library by ONNX Runtime.
fn backend(node: &Path, library: Option<&Path>) -> anyhow::Result<Process> {
    let Some(library) = library else { return Process::serve(System::Echo, node, 0) };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "echo", "--identity"]).arg(node);
    command.arg("--library").arg(library).arg("--model").arg(models().join("add/1/model.onnx"));
    Process::announced(command, "echo")
}

fn config(home: &Path, listen: SocketAddr, upstream: &Upstream<'_>) -> String {
    let Upstream { own, name, servers, workers, location } = upstream;
    let (home, own) = (home.display(), own.display());
    let servers: String = servers.iter().map(|server| format!("    server {server};\n")).collect();
    // `least_conn` must come before `keepalive`: the other way round keep-alive is silently lost.
    format!(
        "daemon off;
user root;
worker_processes {workers};
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
  client_max_body_size 64m;
  client_body_buffer_size 1m;
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
      {location}
      proxy_set_header Connection \"\";
      proxy_ssl_protocols TLSv1.3;
      proxy_ssl_certificate {own}/cert.pem;
      proxy_ssl_certificate_key {own}/key.pem;
      proxy_ssl_trusted_certificate {own}/ca.pem;
      proxy_ssl_verify on;
      proxy_ssl_name {name};
      proxy_ssl_server_name on;
      proxy_ssl_session_reuse off;
    }}
  }}
}}
"
    )
}
