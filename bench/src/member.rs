//! Members as processes of the real binary.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::children::Process;

/// Longest wait for a member to come up.
pub(crate) const UP_WITHIN: Duration = Duration::from_secs(20);

/// The `lineside` binary: as named, else beside the benchmark.
pub(crate) fn binary(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let path = match named {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("lineside"),
    };
    if !path.exists() {
        bail!("{} is not there: build it with `cargo build --release -p lineside`", path.display());
    }
    Ok(path)
}

/// The models that come with the sources.
pub(crate) fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/repository")
}

/// What a running member writes into its data directory.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) members: SocketAddr,
    #[serde(default)]
    pub(crate) http: Option<SocketAddr>,
}

/// A member that runs.
pub(crate) struct Member {
    pub(crate) process: Process,
    pub(crate) addresses: Addresses,
}

impl Member {
    /// Where it serves HTTP.
    pub(crate) fn http(&self) -> anyhow::Result<SocketAddr> {
        self.addresses.http.context("this member serves no HTTP")
    }

    /// Starts a member with its identity below `data`, and waits until it says where it is.
    pub(crate) fn start(binary: &Path, data: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let log = data.join("log");
        let mut child = Command::new(binary)
            .args(arguments)
            .args(["--exit-with-parent", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("cannot start lineside")?;
        let end = now() + UP_WITHIN;
        loop {
            if let Ok(text) = fs::read(data.join("run/address"))
                && let Ok(addresses) = serde_json::from_slice::<Addresses>(&text)
            {
                return Ok(Self { process: Process::adopt(child, addresses.members), addresses });
            }
            if child.try_wait()?.is_some() || end < now() {
                drop(child.kill());
                bail!("{} did not come up: {}", arguments[0], fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a blocking driver without a runtime")]
    Instant::now()
}
