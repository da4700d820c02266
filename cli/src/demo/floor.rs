//! How the members of the demo find each other: by multicast where that works, else by a seed.

use std::{net::SocketAddr, time::Duration};

use lineside_client::Client;
use serde::Serialize;
use tokio::time::timeout;

use super::home::{GATEWAY, NODES};
use crate::{
    exit::Failure,
    local::{Floor, Start},
    output::Progress,
};

/// How long the members may look for each other by mDNS. Where multicast works they take about a second, or five
/// when an interface is new: mDNS looks for those every 5 s.
const MDNS_WITHIN: Duration = Duration::from_secs(6);
/// How long they may take with seeds, which are asked at once.
const SEEDS_WITHIN: Duration = Duration::from_secs(15);
/// How long a question to one member may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// How the members found each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Discovery {
    /// By multicast, without any setting.
    Mdns,
    /// By the address of the first one.
    Seeds,
}

impl Discovery {
    /// For people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Mdns => "mDNS",
            Self::Seeds => "seeds",
        }
    }
}

/// Starts all members and waits until they are one cluster and every node serves every model. `http` is where the
/// gateway listens; port 0 takes a free one.
///
/// # Errors
/// A member did not come up, or the cluster did not form.
pub(super) async fn start(
    floor: &mut Floor,
    http: SocketAddr,
    progress: &mut Progress,
) -> Result<Discovery, Failure> {
    for name in NODES.into_iter().chain([GATEWAY]) {
        floor.launch(Start { http, ..Start::new(name) })?;
    }
    progress.step("starting three nodes and a gateway");
    floor.all_up().await?;
    progress.step("waiting until they have found each other by mDNS");
    let mut discovery = Discovery::Mdns;
    if !floor.forms_within(MDNS_WITHIN).await? {
        discovery = Discovery::Seeds;
        join_by_seed(floor, http, progress).await?;
        progress.step("waiting until they have found each other by the seed");
        if !floor.forms_within(SEEDS_WITHIN).await? {
            return Err(floor.not_formed("the members do not find each other, by mDNS or by a seed").await);
        }
    }
    progress.step("waiting until every node has loaded every model");
    floor.wait_for_models().await?;
    Ok(discovery)
}

/// Starts those that do not see all others again, with the first one's address.
async fn join_by_seed(floor: &mut Floor, http: SocketAddr, progress: &mut Progress) -> Result<(), Failure> {
    let Some(seed) = floor.addresses(NODES[0]) else { return Ok(()) };
    progress.stage(format_args!(
        "not one cluster after {MDNS_WITHIN:?} of mDNS (multicast does not work here): starting again with --seed {}",
        seed.members
    ));
    let mut alone = Vec::new();
    for name in NODES.into_iter().skip(1).chain([GATEWAY]) {
        match floor.addresses(name) {
            Some(at) if seen_from(floor, at.members).await == NODES.len() => {}
            Some(_) | None => alone.push(name),
        }
    }
    floor.stop(&alone).await;
    for name in alone {
        floor.launch(Start { http, seeds: vec![seed.members], ..Start::new(name) })?;
    }
    floor.all_up().await
}

/// How many living nodes a member knows, itself included.
async fn seen_from(floor: &Floor, address: SocketAddr) -> usize {
    let connecting = Client::connect(floor.home().client(), [address]);
    let Ok(Ok(client)) = timeout(ASK_WITHIN, connecting).await else { return 0 };
    let list = timeout(ASK_WITHIN, client.members()).await;
    client.close().await;
    list.map_or(0, |list| list.as_ref().map_or(0, |list| floor.alive(list)))
}
