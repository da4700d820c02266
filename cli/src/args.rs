//! The command line: which commands there are, and the flags they share.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    commands,
    config::{Again, Flag, Loaded},
    exit::{Failure, Outcome},
    telemetry,
};

/// ONNX inference on the machines that stand beside the line.
///
/// Start the same binary on every machine of a LAN: the machines find each other, trust each other and share the
/// work. `lineside demo` shows it on this machine alone.
#[derive(Debug, Parser)]
#[command(name = "lineside", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Below every help text of the command itself.
const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 failure, 2 usage, 3 cluster degraded, 4 not reachable, 78 configuration.
Settings: a file (--config), LINESIDE__SECTION__KEY in the environment, flags; see `lineside config show`.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a whole cluster on this machine: models, load, a killed node, nothing lost
    Demo(commands::demo::DemoArgs),
    /// Run models and serve HTTP, in one process
    Up(commands::member::UpArgs),
    /// Run models
    Node(commands::member::NodeArgs),
    /// Serve HTTP and forward calls to nodes
    Gateway(commands::member::GatewayArgs),
    /// Make, list and take back tokens, each of which makes one machine a member
    #[command(subcommand)]
    Token(commands::token::TokenCommand),
    /// Make, list and take back API keys, for programs that come over HTTP without a certificate
    #[command(subcommand)]
    Keys(commands::keys::KeysCommand),
    /// Make, sign, renew, revoke and show identities
    #[command(subcommand)]
    Certs(commands::certs::Certs),
    /// Install and show the ONNX Runtime library
    #[command(subcommand)]
    Runtime(commands::runtime::Runtime),
    /// Check and show the settings
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
    /// List the members of the cluster, dead ones too
    Members(commands::members::MembersArgs),
    /// List, load and unload models, and check what a repository holds
    Models(commands::models::ModelsArgs),
    /// Say in one look whether the cluster is well
    Status(commands::status::StatusArgs),
    /// Call a model
    Infer(commands::infer::InferArgs),
    /// Take a machine out of work: a member finishes what it has, leaves the cluster and ends
    Drain(commands::drain::DrainArgs),
    /// Give a node no new work; it finishes what it has, and stays a member
    Cordon(commands::drain::CordonArgs),
    /// Give a node work again
    Undrain(commands::drain::UndrainArgs),
    /// Break a cluster on this machine again and again, under load, and say what became of every request
    Torture(commands::torture::TortureArgs),
    /// Measure a cluster on this machine
    #[command(subcommand)]
    Bench(commands::bench::BenchCommand),
    /// Measure the round trip to a member
    Ping(commands::ping::PingArgs),
    /// Try a model in a process of its own; nodes do that themselves
    #[command(hide = true)]
    TryModel(commands::trial::TrialArgs),
}

impl Cli {
    /// Does what the command line says.
    pub(crate) fn run(self) -> Outcome {
        if matches!(self.command, Command::Up(_) | Command::Node(_) | Command::Models(_)) {
            telemetry::turn_off();
        }
        match self.command {
            Command::Demo(args) => commands::demo::run(args),
            Command::Up(args) => args.run(),
            Command::Node(args) => args.run(),
            Command::Gateway(args) => args.run(),
            Command::Token(command) => command.run(),
            Command::Keys(command) => command.run(),
            Command::Certs(command) => command.run(),
            Command::Runtime(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Members(args) => args.run(),
            Command::Models(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Infer(args) => args.run(),
            Command::Drain(args) => args.run(),
            Command::Cordon(args) => args.run(),
            Command::Undrain(args) => args.run(),
            Command::Torture(args) => commands::torture::run(args),
            Command::Bench(command) => command.run(),
            Command::Ping(args) => args.run(),
            Command::TryModel(args) => args.run(),
        }
    }
}

/// The flags of every command that reads settings.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SettingsArgs {
    /// The file with the settings [default: $LINESIDE_CONFIG, else /etc/lineside/lineside.toml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The data directory [default: /var/lib/lineside for root, else ~/.local/share/lineside]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
}

impl SettingsArgs {
    /// Loads the settings, with more flags than these.
    pub(crate) fn load(self, more: Vec<Flag>) -> Result<Loaded, Failure> {
        Ok(self.again(more).load()?)
    }

    /// Where the settings are loaded from, with more flags than these: once, or again while a member runs.
    pub(crate) fn again(self, more: Vec<Flag>) -> Again {
        let mut flags = flags([("member.data_dir", "--data-dir", self.data_dir)]);
        flags.extend(more);
        Again { file: self.config, flags }
    }
}

/// The flags that were given.
pub(crate) fn flags<const N: usize>(rows: [(&'static str, &'static str, Option<String>); N]) -> Vec<Flag> {
    let given = rows.into_iter().filter_map(|(key, flag, value)| Some(Flag { key, flag, value: value? }));
    given.collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_says_what_it_does() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
