//! What the demo's cluster is made of.

use super::samples;
use crate::local::{Member, Plan};

/// The machines that run models.
pub(super) const NODES: [&str; 3] = ["press", "weld", "paint"];
/// The door.
pub(super) const GATEWAY: &str = "gateway";

/// All of it. One session and one shard each: four processes share the cores that one would have.
pub(super) const PLAN: Plan = Plan {
    cluster: "demo",
    members: &[
        Member::node(NODES[0]),
        Member::node(NODES[1]),
        Member::node(NODES[2]),
        Member::gateway(GATEWAY),
    ],
    models: &samples::MODELS,
    settings: "\
[node]
sessions = 1

[gateway]
shards = 1
rate_per_second = 0

[log]
format = \"human\"
level = \"info\"
",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Home;

    #[test]
    fn the_settings_of_the_members_are_valid() {
        let home = Home::make(PLAN).unwrap();
        let sources = crate::config::Sources { file: Some(home.settings()), ..Default::default() };
        let loaded = crate::config::load(&sources).expect("the settings are valid");
        assert_eq!(loaded.config.node.sessions.map(std::num::NonZeroU32::get), Some(1));
        assert_eq!(home.names().len(), NODES.len());
    }
}
