//! A network of this process and its children alone, in which ports can fall silent: as when a cable is pulled.

use std::{net::SocketAddr, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, bail};

/// Set for the process inside.
const INSIDE: &str = "LINESIDE_BENCH_NETWORK";

/// Goes on in a network namespace with nothing but loopback; comes back only there.
pub(crate) fn enter() -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"])?;
        run("nft", &["add", "table", "inet", "cut"])?;
        return run("nft", &["add", "chain", "inet", "cut", "in", "{ type filter hook input priority 0; }"]);
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    let error = command.env(INSIDE, "1").exec();
    bail!("cannot make a network namespace ({error}): needs root and the package util-linux")
}

/// Nothing gets to or from this port any more, whatever asks.
pub(crate) fn cut(address: SocketAddr) -> anyhow::Result<()> {
    let port = address.port().to_string();
    for protocol in ["udp", "tcp"] {
        for end in ["dport", "sport"] {
            run("nft", &["add", "rule", "inet", "cut", "in", protocol, end, &port, "drop"])?;
        }
    }
    Ok(())
}

/// Everything gets through again.
pub(crate) fn mend() -> anyhow::Result<()> {
    run("nft", &["flush", "chain", "inet", "cut", "in"])
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} is needed: install the packages iproute2 and nftables"))?;
    match output.status.success() {
        true => Ok(()),
        false => bail!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}
