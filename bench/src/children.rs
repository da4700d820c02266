//! Processes that the benchmark starts, and ends with itself.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::{gateway, rpc, start};

/// A server of one measured system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    Lineside,
    Tonic,
    Udp,
    Echo,
    Bare,
}

/// What a server process is told.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[arg(value_enum)]
    system: System,
    /// The identity it serves with.
    #[arg(long)]
    identity: Option<PathBuf>,
    /// Bytes of an answer.
    #[arg(long, default_value_t = 100)]
    answer: usize,
    /// The ONNX Runtime library, and a model, of the bare process.
    #[arg(long)]
    library: Option<PathBuf>,
    /// See `library`.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Where the echo listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Serves until stdin ends.
pub(crate) fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let identity = || args.identity.as_deref().context("--identity is needed");
    match args.system {
        System::Lineside => rpc::lineside::serve(identity()?, args.answer),
        System::Tonic => rpc::tonic::serve(identity()?, args.answer),
        System::Udp => rpc::udp::serve(args.answer),
        System::Echo => {
            gateway::echo::serve(identity()?, args.library.as_deref(), args.model.as_deref(), args.listen)
        }
        System::Bare => start::bare::serve(args.library.as_deref(), args.model.as_deref()),
    }
}

/// Tells the benchmark where this process listens.
pub(crate) fn announce(address: SocketAddr) {
    println!("{address}");
}

/// Ends this process when the benchmark has gone.
pub(crate) fn end_with_stdin() {
    std::thread::spawn(|| {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        std::process::exit(0);
    });
}

/// A process that is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts a server of the benchmark's own.
    pub(crate) fn serve(system: System, identity: &std::path::Path, answer: usize) -> anyhow::Result<Self> {
        let name = system.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", &name, "--answer", &answer.to_string(), "--identity"]).arg(identity);
        Self::announced(command, &name)
    }

    /// Starts a command whose first line says where it listens.
    pub(crate) fn announced(mut command: Command, name: &str) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the child has no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim().parse() {
            Ok(address) => Ok(Self { child, address }),
            Err(_) => {
                drop(child.kill());
                bail!("the server of {name} did not start")
            }
        }
    }

    /// A process that something else started.
    pub(crate) const fn adopt(child: Child, address: SocketAddr) -> Self {
        Self { child, address }
    }

    /// Kills it, as a power cut would; it is waited for when this is dropped.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).context("it has an id")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Asked first: a killed nginx leaves its workers behind.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
