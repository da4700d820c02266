//! A machine that gets another address, as by DHCP: the others are told, and nobody starts anything anew.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lineside_discovery::Discovery;
use lineside_mesh::Mesh;
use tokio::time::sleep;

use super::{address, own::Own};

/// How often the interfaces are looked at: one call to the system, and others wait for a member that moved.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Follows the machine's addresses, until it is aborted.
///
/// An address that was set, and one that the socket is bound to, stay what they are. Where the machine still has the
/// address that is told, that one stays too: a second interface that comes up first in the list is no move.
pub(super) async fn follow(
    advertise: Option<SocketAddr>,
    own: Arc<Own>,
    mesh: Mesh,
    discovery: Discovery,
) -> &'static str {
    let bound = mesh.local_addr();
    if advertise.is_some() || !bound.ip().is_unspecified() {
        return std::future::pending().await;
    }
    loop {
        sleep(LOOK_EVERY).await;
        let told = own.state().address;
        // Without any network there is nothing better to tell than what was.
        let Some(now) = address::moved(told, bound) else { continue };
        tracing::info!(was = %told, is = %now, "this machine has another address: the others are told");
        if let Some(state) = own.change(|state| state.address = now) {
            discovery.own(state);
        }
    }
}
