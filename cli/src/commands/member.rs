//! `lineside up | node | gateway`: flags become settings, settings start a member.

use std::sync::Arc;

use clap::Args;
use lineside_certs::Token;

use crate::{
    args::{SettingsArgs, flags},
    config::Flag,
    exit::{Exit, Failure, OrFail as _, Outcome},
    log,
    member::{self, Roles, RunOptions, Supervisor},
};

/// Flags of every member.
#[derive(Clone, Debug, Args)]
struct MemberArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The member's name for people [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Where to listen for members, UDP [default: 0.0.0.0:7443]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The address that the others are told [default: found out]
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// A member to ask first; may be given several times
    #[arg(long, value_name = "ADDR")]
    seed: Vec<String>,
    /// Do not look for members by mDNS
    #[arg(long)]
    no_mdns: bool,
    /// Become a member of a running cluster, with a token from `lineside token create` there; once it is one, this is
    /// not looked at
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// Fail when there is no identity, in the place of making a new cluster
    #[arg(long)]
    no_init: bool,
    /// End when stdin does: for programs that start members and must not leave them behind
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

/// Flags of a member that runs models.
#[derive(Clone, Debug, Args)]
struct EngineArgs {
    /// The model repository [default: models in the data directory]
    #[arg(long, value_name = "DIR")]
    models: Option<String>,
    /// The ONNX Runtime library [default: searched for, see `lineside runtime show`]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<String>,
}

/// Flags of a member that serves HTTP.
#[derive(Clone, Debug, Args)]
struct DoorArgs {
    /// Where to serve HTTP, TCP [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Threads that serve HTTP [default: one per core; 1 for `up`]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
}

/// `lineside up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    member: MemberArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    door: DoorArgs,
}

/// `lineside node`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    member: MemberArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// `lineside gateway`.
#[derive(Clone, Debug, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    member: MemberArgs,
    #[command(flatten)]
    door: DoorArgs,
}

impl UpArgs {
    /// Runs a node and a gateway in one process.
    pub(crate) fn run(self) -> Outcome {
        let more = [self.engine.flags(), self.door.flags()].concat();
        self.member.run(Roles { node: true, gateway: true }, more)
    }
}

impl NodeArgs {
    /// Runs a node.
    pub(crate) fn run(self) -> Outcome {
        let more = self.engine.flags();
        self.member.run(Roles { node: true, gateway: false }, more)
    }
}

impl GatewayArgs {
    /// Runs a gateway.
    pub(crate) fn run(self) -> Outcome {
        let more = self.door.flags();
        self.member.run(Roles { node: false, gateway: true }, more)
    }
}

impl EngineArgs {
    fn flags(&self) -> Vec<Flag> {
        flags([
            ("node.models", "--models", self.models.clone()),
            ("node.onnxruntime", "--onnxruntime", self.onnxruntime.clone()),
        ])
    }
}

impl DoorArgs {
    fn flags(&self) -> Vec<Flag> {
        flags([
            ("gateway.http", "--http", self.http.clone()),
            ("gateway.shards", "--shards", self.shards.clone()),
        ])
    }
}

impl MemberArgs {
    fn run(self, roles: Roles, more: Vec<Flag>) -> Outcome {
        let join = self.join.as_deref().map(token).transpose()?;
        let mut given = flags([
            ("member.name", "--name", self.name),
            ("member.listen", "--listen", self.listen),
            ("member.advertise", "--advertise", self.advertise),
            ("member.seeds", "--seed", Some(self.seed.join(",")).filter(|seeds| !seeds.is_empty())),
            ("member.mdns", "--no-mdns", self.no_mdns.then(|| "false".to_owned())),
        ]);
        given.extend(more);
        let again = self.settings.again(given);
        let loaded = again.load()?;
        loaded.check_paths()?;
        log::start(&loaded.config.log);
        let options = RunOptions {
            exit_with_parent: self.exit_with_parent,
            no_init: self.no_init,
            join,
            again,
            supervisor: Arc::new(Supervisor::from_environment()),
            ..RunOptions::default()
        };
        member::run(&loaded.config, roles, &options)
    }
}

/// Reads a token. What it was given is not repeated: it may be all of a good one but a letter.
fn token(text: &str) -> Result<Token, Failure> {
    // What helps is part of each reason.
    text.trim().parse().or_fail(Exit::Usage, "the token of --join cannot be used", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_token_is_usage_and_is_not_repeated() {
        let refused = token("ls1.c2VjcmV0").expect_err("half of one");
        assert_eq!(refused.exit, Exit::Usage);
        assert!(
            refused.text().contains("token create") && !refused.text().contains("c2VjcmV0"),
            "{}",
            refused.text()
        );
    }
}
