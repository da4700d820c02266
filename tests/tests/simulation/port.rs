//! The transport of a simulated gateway: calls are posted to the world, which carries them through its network.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use lineside_client::Transport;
use lineside_mesh::{CallFailure, Destination, Outbound, Reply, Signs};
use lineside_wire::{CallContext, NodeId};
use serde::Serialize;
use tokio::sync::{Notify, oneshot};

/// What a pool wants of the world.
pub(crate) enum Post {
    /// A try begins.
    Call { gateway: u8, call: u64, to: NodeId, context: CallContext, reply: oneshot::Sender<Answer> },
    /// Its future was dropped before the answer.
    Cancel { call: u64 },
}

/// How a try ends.
pub(crate) type Answer = Result<Reply, CallFailure>;

/// What the pools have posted, and what they may see of their connections.
#[derive(Default)]
pub(crate) struct Mailbox {
    posts: Mutex<Vec<Post>>,
    calls: AtomicU64,
    received: Mutex<BTreeMap<(u8, NodeId), u64>>,
    pub(crate) posted: Notify,
}

impl Mailbox {
    fn post(&self, post: Post) {
        locked(&self.posts).push(post);
        self.posted.notify_one();
    }

    pub(crate) fn take(&self) -> Vec<Post> {
        std::mem::take(&mut *locked(&self.posts))
    }

    /// Counts a packet from a node.
    pub(crate) fn count(&self, gateway: u8, node: NodeId) {
        *locked(&self.received).entry((gateway, node)).or_default() += 1;
    }

    /// There is no connection any more.
    pub(crate) fn forget(&self, gateway: u8, node: NodeId) {
        locked(&self.received).remove(&(gateway, node));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One gateway's way to the nodes.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) gateway: u8,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// Takes a call back, unless it has ended.
struct Open<'a> {
    mailbox: &'a Mailbox,
    call: u64,
    ended: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.mailbox.post(Post::Cancel { call: self.call });
        }
    }
}

impl Transport for Port {
    async fn call<P: Serialize + Send>(&self, to: Destination, call: Outbound<P>) -> Answer {
        let (reply, answer) = oneshot::channel();
        let id = self.mailbox.calls.fetch_add(1, Relaxed);
        let (gateway, context) = (self.gateway, call.context);
        self.mailbox.post(Post::Call { gateway, call: id, to: to.node, context, reply });
        let mut open = Open { mailbox: &self.mailbox, call: id, ended: false };
        let answer = answer.await;
        open.ended = true;
        match answer {
            Ok(answer) => answer,
            Err(_) => {
                Err(CallFailure::Lost { node: to.node, sent: true, reason: "the world ended".to_owned() })
            }
        }
    }

    fn signs(&self, to: Destination) -> Option<Signs> {
        let packets = locked(&self.mailbox.received).get(&(self.gateway, to.node)).copied()?;
        // The model does not acknowledge: whatever comes counts as such.
        Some(Signs { packets, acknowledged: packets })
    }

    fn quiet_max(&self) -> Duration {
        super::wires::KEEP_ALIVE
    }
}
