//! What discovery asks of the network: three ways to reach a peer.

use std::{net::SocketAddr, pin::Pin};

use bytes::Bytes;
use lineside_wire::{MemberState, NodeId};

/// Work that another thread may do.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a dial brought no greeting, for a person, and what it says about the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreetError {
    /// Somebody answers there, but not a member that we take or that takes us: the address is left alone for a while.
    #[error("{0}")]
    Stranger(String),
    /// Nobody answered, or the connection broke.
    #[error("{0}")]
    Failed(String),
}

/// Reaches peers. All methods are called on the gossip thread and must return at once; what takes time is in the
/// futures, which are polled on that thread too: work that needs another runtime is handed over to it.
pub trait Carrier: Send + Sync + 'static {
    /// Sends one gossip packet: lossy, without waiting.
    fn send(&self, to: NodeId, address: SocketAddr, packet: Bytes);

    /// Connects with whoever is at an address and exchanges greetings; gives what the peer says of itself, which
    /// must be of the node that its certificate names. `None`: the peer is no member.
    ///
    /// With `expect`, only that member is wanted. A carrier may refuse another one as a stranger, or give the
    /// other's state: it is then counted as a wrong identity and its address is left alone for a while.
    fn greet(
        &self,
        address: SocketAddr,
        expect: Option<NodeId>,
    ) -> BoxFuture<'static, Result<Option<MemberState>, GreetError>>;

    /// Asks a member for its state.
    fn fetch(&self, node: NodeId, address: SocketAddr) -> BoxFuture<'static, Result<MemberState, String>>;
}
