//! What ties mesh and discovery together: greetings and packets one way, dials and packets the other.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use lineside_certs::PeerIdentity;
use lineside_discovery::{Carrier, Discovery, GreetError};
use lineside_mesh::{Destination, DialError, Mesh, Outbound, Presence};
use lineside_wire::{Empty, Greeting, MemberState, NodeId, decode_part, method};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    own::Own,
    skew::{self, Apart, Skews},
};

/// Longest wait for a member's word about itself; a connection that stands answers in well under a millisecond.
const STATE_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Set once discovery runs; greetings that come before are heard again from gossip.
pub(crate) type DiscoveryCell = Arc<OnceLock<Discovery>>;

/// This member to its peers, on whichever connection. The listening mesh and every shard's own have one each.
pub(crate) struct MemberPresence {
    pub(crate) own: Arc<Own>,
    pub(crate) discovery: DiscoveryCell,
    pub(crate) skews: Arc<Skews>,
}

impl Presence for MemberPresence {
    fn greeting(&self) -> Greeting {
        self.own.greeting()
    }

    fn met(&self, peer: &PeerIdentity, greeting: &Greeting, _remote: SocketAddr) {
        if greeting.member.is_some() {
            let apart = self.skews.met(peer.node, greeting.clock_ms, skew::clock_ms());
            apart.inspect(|apart| tell_clock(peer, *apart));
        }
        if let (Some(discovery), Some(member)) = (self.discovery.get(), &greeting.member) {
            discovery.met(member.clone());
        }
    }

    // Calls find out by themselves, and SWIM asks again.
    fn lost(&self, _node: NodeId) {}

    fn gossip(&self, from: NodeId, packet: Bytes) {
        if let Some(discovery) = self.discovery.get() {
            discovery.packet(from, packet);
        }
    }
}

/// Says whose clock is wrong. Certificates are judged by clocks, so that it matters some day.
fn tell_clock(peer: &PeerIdentity, apart: Apart) {
    match apart {
        Apart::Theirs(ahead_ms) => tracing::warn!(
            node = %peer.node, name = peer.name, ahead_s = ahead_ms / 1000,
            "the clock of this member differs from ours: set it, or ours"
        ),
        Apart::Ours(ahead_ms) => tracing::warn!(
            others_ahead_s = ahead_ms / 1000,
            "this machine's clock differs from those of most members: set it"
        ),
    }
}

/// Carries discovery's packets and dials over the listening mesh.
///
/// Discovery calls from its own thread; connections live on the network's runtime, so everything that may open one
/// is begun there.
pub(crate) struct MeshCarrier {
    pub(crate) mesh: Mesh,
    pub(crate) net: Handle,
    pub(crate) tasks: TaskTracker,
}

type Answer<T, E = String> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl MeshCarrier {
    fn on_net<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
        failed: fn(String) -> E,
    ) -> Answer<T, E> {
        let task = self.tasks.spawn_on(work, &self.net);
        Box::pin(
            async move { task.await.unwrap_or_else(|_| Err(failed("this member is stopping".to_owned()))) },
        )
    }
}

impl Carrier for MeshCarrier {
    fn send(&self, to: NodeId, address: SocketAddr, packet: Bytes) {
        let _on_net = self.net.enter();
        self.mesh.send_gossip(Destination { node: to, address }, packet);
    }

    fn greet(&self, address: SocketAddr, expect: Option<NodeId>) -> Answer<Option<MemberState>, GreetError> {
        let mesh = self.mesh.clone();
        let greeting = async move {
            let met = mesh.greet(address, expect).await.map_err(|error| what_it_means(&error))?;
            Ok(met.greeting.member)
        };
        self.on_net(greeting, GreetError::Failed)
    }

    fn fetch(&self, node: NodeId, address: SocketAddr) -> Answer<MemberState> {
        let mesh = self.mesh.clone();
        let state = async move {
            let call = Outbound::new(method::MEMBER_STATE, Empty {});
            let answer = timeout(STATE_WITHIN, mesh.call(Destination { node, address }, call)).await;
            let reply = answer
                .map_err(|_| format!("no answer within {STATE_WITHIN:?}"))?
                .map_err(|error| error.to_string())?;
            decode_part(&reply.result).map_err(|fault| fault.message)
        };
        self.on_net(state, std::convert::identity)
    }
}

/// Whether an address is worth another dial soon.
fn what_it_means(error: &DialError) -> GreetError {
    let text = error.to_string();
    match error {
        DialError::WrongNode { .. }
        | DialError::Refused { .. }
        | DialError::NoIdentity { .. }
        | DialError::OtherCluster { .. } => GreetError::Stranger(text),
        DialError::Timeout { .. }
        | DialError::NoGreeting { .. }
        | DialError::Unreachable { .. }
        | DialError::Resting { .. }
        | DialError::Closed => GreetError::Failed(text),
    }
}
