//! The cluster as a program calls it.

mod connect;
mod join;
mod keeper;
mod watch;

use std::{sync::Arc, time::Duration};

use lineside_certs::Credentials;
use lineside_mesh::{CloseCode, Destination, Mesh};
use lineside_wire::{ClusterId, ClusterStatus, Empty, Health, MembersResult, ModelInfo, NodeId, method};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::ToSocketAddrs, task::JoinSet, time::Instant};

use crate::{
    AskError, CallError, ClientIdentity, InferCall, InferReply, InferRequest, IntoIdentity, PeerStatistics,
    Pool, Roster, Tries,
};
use connect::Shared;
use keeper::Keeper;

pub use connect::ConnectError;
pub use join::{IntoToken, Join, JoinFailure};

/// Longest wait for the answer to a question, all members that are asked together.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// A connection to a cluster, by way of all its doors. Cheap to clone; all clones are one client.
///
/// Lives on the tokio runtime that it was made in. The member list is asked for every few seconds and after
/// failures, so a client that reached one member once finds the others, and outlives the first.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// Where they are others than the pool's.
    tries: Option<Arc<Tries>>,
}

struct Inner {
    shared: Arc<Shared>,
    identity: ClientIdentity,
    /// Asks for the member list, and keeps the identity valid; ends with the last clone of the client.
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("node", &self.node()).field("cluster", &self.cluster()).finish()
    }
}

impl Client {
    /// Connects to a cluster by the first of these addresses that answers, and learns from there of all others.
    ///
    /// `identity` is an identity, its directory, or its two files `(certificate, key)`; `addresses` are like
    /// `"10.0.0.7:7443"`. A program that has a token and no identity yet begins with [`Client::join`].
    ///
    /// A client whose role is client renews its certificate before half of its time is over, and writes it where it came
    /// from; see [`Client::credentials`].
    ///
    /// # Errors
    /// The identity cannot be used, or nobody at these addresses belongs to its cluster.
    pub async fn connect<A: ToSocketAddrs>(
        identity: impl IntoIdentity,
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, ConnectError> {
        let identity = identity.into_identity()?;
        let credentials = identity.credentials();
        credentials.identity().check_validity(credentials.clock().now())?;
        let addresses = connect::resolve(addresses).await?;
        let shared = Shared::connect(credentials, addresses).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).keep_fresh());
        tasks.spawn(Keeper::new(Arc::clone(&shared), &identity).run());
        Ok(Self { inner: Arc::new(Inner { shared, identity, _tasks: tasks }), tries: None })
    }

    /// The same client with other rules for repeating: how often a call is tried, when a door that gives no sign of life has
    /// stalled, which models are hedged. It shares connections and the budget of repeats with the one that it came from,
    /// and with all clones.
    ///
    /// ```no_run
    /// # async fn run(client: lineside_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use lineside_client::Tries;
    ///
    /// // The slowest calls of this model are asked a second time at another door; the first answer counts.
    /// let hedge = vec!["weld-seam".parse()?];
    /// // Over a radio link a live door may be silent for longer than on a wire.
    /// let stall_after = Some(Duration::from_secs(1));
    /// let client = client.with_tries(Tries { stall_after, hedge, ..Tries::default() });
    /// # drop(client);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_tries(self, tries: Tries) -> Self {
        Self { tries: Some(Arc::new(tries)), ..self }
    }

    /// Begins an inference.
    pub fn infer(&self, model: &str) -> InferRequest {
        InferRequest::new(self.clone(), model)
    }

    /// Runs an inference that is ready to be sent.
    ///
    /// # Errors
    /// No member could answer in time; the error says why, and whether the model may have run.
    pub async fn infer_raw(&self, call: InferCall) -> Result<InferReply, CallError> {
        let pool = self.pool();
        let result = match &self.tries {
            Some(tries) => pool.infer_by(tries, call).await,
            None => pool.infer(call).await,
        };
        match &result {
            Err(CallError::NoNode { .. } | CallError::Lost { .. }) => self.inner.shared.stale.notify_one(),
            Err(
                CallError::UnknownModel { .. }
                | CallError::UnknownVersion { .. }
                | CallError::AllBusy { .. }
                | CallError::Late { .. }
                | CallError::Refused { .. },
            )
            | Ok(_) => {}
        }
        result
    }

    /// The members as a door sees them, dead ones too.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn members(&self) -> Result<MembersResult, AskError> {
        self.ask(method::CLUSTER_MEMBERS, &Empty {}).await
    }

    /// The models of the cluster, by name and version.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn models(&self) -> Result<Vec<ModelInfo>, AskError> {
        // Not by `models.list`: when a node answers in the place of the doors, it knows its own models only.
        Ok(Roster::new(self.members().await?).models().to_vec())
    }

    /// The cluster in numbers.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn status(&self) -> Result<ClusterStatus, AskError> {
        self.ask(method::CLUSTER_STATUS, &Empty {}).await
    }

    /// Whether the cluster takes work, as a door sees it.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn health(&self) -> Result<Health, AskError> {
        self.ask(method::HEALTH, &Empty {}).await
    }

    /// The time to a member and back, its greeting included when there is no connection yet.
    ///
    /// # Errors
    /// It is not in the member list, or does not answer.
    pub async fn ping(&self, node: NodeId) -> Result<Duration, AskError> {
        let start = Instant::now();
        let Empty {} = self.ask_member(node, method::PING, &Empty {}).await?;
        Ok(start.elapsed())
    }

    /// Tells one member something, for example a line for its [`log`](lineside_certs::roles::LOG), and does not wait
    /// for anything: a notification has no id and no answer, not even when it is refused. It is on its way when this
    /// returns, once or not at all. Where it matters that it arrived, use [`Self::tell`].
    ///
    /// # Errors
    /// Nobody could be reached within five seconds, or it is longer than 16 KiB; nothing was sent.
    pub async fn notify<P: Serialize + Sync>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<(), AskError> {
        self.inner.shared.pool.notify(method, params, ASK_WITHIN).await
    }

    /// Tells a member something and returns when it has taken it; keeps nothing of the answer. After a loss another
    /// member is told, so two may have heard it.
    ///
    /// # Errors
    /// Nobody took it, or the member refused it.
    pub async fn tell<P: Serialize + Sync>(&self, method: &'static str, params: &P) -> Result<(), AskError> {
        let _answer: serde::de::IgnoredAny = self.ask(method, params).await?;
        Ok(())
    }

    /// Asks any door (when none answers, any node) a question that changes nothing; another one when it is lost.
    ///
    /// # Errors
    /// Nobody answered within five seconds, or somebody refused.
    pub async fn ask<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<R, AskError> {
        self.inner.shared.pool.ask(method, params, ASK_WITHIN).await
    }

    /// Asks one member, whatever the others are doing.
    ///
    /// # Errors
    /// It is not in the member list, does not answer within five seconds, or refuses.
    pub async fn ask_member<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        node: NodeId,
        method: &'static str,
        params: &P,
    ) -> Result<R, AskError> {
        let roster = self.roster();
        let row = roster.rows().iter().find(|row| row.node == node);
        let address = row.ok_or(AskError::UnknownMember(node))?.address;
        let until = Instant::now() + ASK_WITHIN;
        self.inner.shared.pool.ask_at(Destination { node, address }, method, params, until).await
    }

    /// The member list as last heard, without asking.
    #[must_use]
    pub fn roster(&self) -> Arc<Roster> {
        self.inner.shared.roster.load_full()
    }

    /// What this client knows of the peers it calls: the doors, and the nodes, which it calls when no door is left.
    #[must_use]
    pub fn statistics(&self) -> std::collections::BTreeMap<NodeId, PeerStatistics> {
        self.pool().balancer().statistics(Instant::now().into_std())
    }

    /// The pool underneath.
    #[must_use]
    pub fn pool(&self) -> &Pool<Mesh> {
        &self.inner.shared.pool
    }

    /// The identity as it is now, and as it will be after each renewal: when it ends, whom it trusts.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        self.inner.identity.credentials()
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.credentials().identity().cluster()
    }

    /// The id in this client's certificate.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.credentials().identity().node()
    }

    /// Says goodbye: ends every connection and waits, at most a second, until the peers know. Calls in flight, of
    /// other clones too, are lost. A client that is only dropped says goodbye without waiting.
    pub async fn close(self) {
        self.inner.shared.pool.transport().shutdown().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for node in self.shared.connected() {
            self.shared.pool.transport().close_peer(node, CloseCode::Bye);
        }
    }
}
