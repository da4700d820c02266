//! The load generator, as a process of its own.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, bail};

use super::body::Body;

/// What `wrk` saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) took: Duration,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// Fails when a tool is not there.
pub(crate) fn check(tool: &str) -> anyhow::Result<()> {
    Command::new(tool).arg("-v").output().map(drop).with_context(|| format!("cannot run {tool}"))
}

/// Sends the request over and over on `connections` connections.
pub(crate) fn run(
    to: SocketAddr,
    body: &Body,
    connections: usize,
    lasting: Duration,
) -> anyhow::Result<Load> {
    let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    let bytes = tempfile::NamedTempFile::new()?;
    std::fs::write(bytes.path(), &body.bytes)?;
    let path = bytes.path().display();
    let headers: String = body
        .headers()
        .into_iter()
        .map(|(name, value)| format!("wrk.headers[\"{name}\"] = \"{value}\"\n"))
        .collect();
    let lua = format!(
        r#"wrk.method = "POST"
local file = io.open("{path}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"#
    );
    std::fs::write(script.path(), lua)?;
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{}s", lasting.as_secs().max(1)), "-s"])
        .arg(script.path())
        .arg(format!("http://{to}{}", body.path))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("RESULT ")) else {
        bail!("wrk said: {text} {}", String::from_utf8_lossy(&output.stderr));
    };
    let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [requests, took_us, errors, p50_us, p99_us] = numbers[..] else { bail!("wrk said: {line}") };
    Ok(Load { requests, errors, took: Duration::from_micros(took_us), p50_us, p99_us })
}
