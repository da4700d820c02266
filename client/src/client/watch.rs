//! The member list as it changes, told by whichever member is there to tell it.

use std::time::Duration;

use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use lineside_mesh::{CallFailure, Destination, Item, Outbound};
use lineside_wire::{Empty, MembersResult, NodeId, decode_part, method};
use tokio::time::{Instant, sleep, timeout};

use super::{Client, connect::MEMBERS_WITHIN};
use crate::{AskError, Lease, Outcome, Wanted};

/// Rest between two rounds in which nobody could be watched.
const REST: Duration = Duration::from_millis(500);

impl Client {
    /// The members as a door sees them, at once and at each change.
    ///
    /// When the member that tells them is lost, another one goes on, beginning with its own full list. While nobody
    /// tells, each round of trying gives one error and the stream goes on: whoever does not want to wait drops it. It
    /// never ends by itself.
    ///
    /// Nothing is read ahead, so a list that comes late is the list of then; the member skips changes that it could
    /// not send. Dropping the stream cancels the watch there. It has to be pinned, for example with [`Box::pin`].
    pub fn watch_members(&self) -> impl Stream<Item = Result<MembersResult, AskError>> + Send + use<> {
        let watch = Watch { client: self.clone(), watched: None, tried: Vec::new(), rest: false };
        stream::unfold(watch, |mut watch| async move { Some((watch.next().await, watch)) })
    }
}

struct Watch {
    client: Client,
    watched: Option<Watched>,
    /// Members that were lost or refused since the last round began.
    tried: Vec<NodeId>,
    /// Whether the last round found nobody.
    rest: bool,
}

/// The member that tells.
struct Watched {
    node: NodeId,
    /// Until its first list: a watch that only waits must not count as a call in flight.
    lease: Option<Lease>,
    lists: BoxStream<'static, Result<Item, CallFailure>>,
}

impl Watch {
    async fn next(&mut self) -> Result<MembersResult, AskError> {
        if std::mem::take(&mut self.rest) {
            sleep(REST).await;
        }
        let mut error = AskError::NoMember;
        loop {
            let Some(mut watched) = self.watched.take().or_else(|| self.begin()) else {
                self.tried.clear();
                self.rest = true;
                self.client.inner.shared.stale.notify_one();
                return Err(error);
            };
            match watched.list(&self.client).await {
                Ok(list) => {
                    self.tried.clear();
                    self.watched = Some(watched);
                    self.client.inner.shared.adopt(list.clone());
                    return Ok(list);
                }
                Err(failed) => {
                    self.tried.push(watched.node);
                    error = failed;
                }
            }
        }
    }

    /// Begins to watch a member that was not tried yet; nothing is sent before its list is asked for.
    fn begin(&self) -> Option<Watched> {
        let pool = &self.client.inner.shared.pool;
        let now = Instant::now().into_std();
        let lease = pool.balancer().lease(Wanted::Anything, &self.tried, now).ok()?;
        let node = lease.node();
        let to = Destination { node, address: lease.address() };
        let lists = pool.transport().call_streaming(to, Outbound::new(method::CLUSTER_WATCH, Empty {}));
        Some(Watched { node, lease: Some(lease), lists: lists.boxed() })
    }
}

impl Watched {
    /// The next list. The first must come soon; later ones come when something changes.
    async fn list(&mut self, client: &Client) -> Result<MembersResult, AskError> {
        let Some(lease) = self.lease.take() else {
            return read(self.node, self.lists.next().await);
        };
        let first = timeout(MEMBERS_WITHIN, self.lists.next()).await;
        let list = match first {
            Ok(item) => read(self.node, item),
            Err(_) => Err(AskError::Late { within: MEMBERS_WITHIN }),
        };
        let outcome = Outcome::of_question(&list);
        client.pool().balancer().report(lease, outcome, Instant::now().into_std());
        list
    }
}

fn read(node: NodeId, item: Option<Result<Item, CallFailure>>) -> Result<MembersResult, AskError> {
    let broken = |reason: String| AskError::Broken { node, reason: format!("{node}: {reason}") };
    match item {
        Some(Ok(item)) => decode_part(&item.item).map_err(|fault| broken(fault.to_string())),
        Some(Err(failure)) => Err(failure.into()),
        None => Err(broken("it no longer tells the members".to_owned())),
    }
}
