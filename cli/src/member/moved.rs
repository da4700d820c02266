//! A machine that gets another address, as by DHCP: the others are told, and so are the commands on this machine, and
//! nobody starts anything anew.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use lineside_discovery::Discovery;
use lineside_mesh::Mesh;
use tokio::time::sleep;

use super::{
    address::{AddressFile, InUse, moved, reachable_at},
    own::Own,
    saving::on_thread,
};

/// How often the interfaces are looked at: one call to the system, and others wait for a member that moved.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Follows the machine's addresses.
///
/// An address that was set, and one that a socket is bound to, stay what they are. Where the machine still has the
/// address that is told, that one stays too: a second interface that comes up first in the list is no move.
pub(super) struct Follower {
    /// What is set to be told.
    advertise: Option<SocketAddr>,
    /// What the door's listener is bound to.
    http: Option<SocketAddr>,
    own: Arc<Own>,
    mesh: Mesh,
    discovery: Discovery,
    /// Weak: its end is the member's end, and not this one's.
    home: Weak<InUse>,
    /// What was written there last.
    file: AddressFile,
}

impl Follower {
    /// Of a member that takes part, whose door is bound to `http`, and that has published `file`.
    pub(super) fn of(
        advertise: Option<SocketAddr>,
        http: Option<SocketAddr>,
        (own, mesh, discovery): (&Arc<Own>, &Mesh, &Discovery),
        (home, file): (&Arc<InUse>, &AddressFile),
    ) -> Self {
        let (own, mesh, discovery) = (Arc::clone(own), mesh.clone(), discovery.clone());
        Self { advertise, http, own, mesh, discovery, home: Arc::downgrade(home), file: file.clone() }
    }

    /// Looks until it is aborted.
    pub(super) async fn follow(mut self) -> &'static str {
        let bound = self.mesh.local_addr();
        loop {
            sleep(LOOK_EVERY).await;
            self.tell_others(bound);
            self.tell_commands(bound).await;
        }
    }

    fn tell_others(&self, bound: SocketAddr) {
        let told = self.own.state();
        let address = moved(Some(told.address), self.advertise, bound);
        let http = self.http.and_then(|bound| moved(told.http, None, bound));
        if address.is_none() && http.is_none() {
            return;
        }
        let is = address.unwrap_or(told.address);
        tracing::info!(was = %told.address, %is, "this machine has another address: the others are told");
        let changed = self.own.change(|state| {
            state.address = is;
            state.http = http.or(state.http);
        });
        if let Some(state) = changed {
            self.discovery.own(state);
        }
    }

    /// A token that is made here from now on leads here.
    async fn tell_commands(&mut self, bound: SocketAddr) {
        let reachable = reachable_at(Some(self.own.state().address), bound);
        let Some(home) = self.home.upgrade() else { return };
        if reachable == self.file.reachable {
            return;
        }
        self.file.reachable = reachable;
        let file = self.file.clone();
        let written = on_thread(move || home.publish(&file).map_err(|error| error.to_string())).await;
        if let Err(reason) = written {
            tracing::warn!(%reason, "commands on this machine are not told of its other address; free space");
        }
    }
}
