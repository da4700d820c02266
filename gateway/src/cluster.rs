//! What the door asks of the cluster behind it.

use std::sync::Arc;

use lineside_client::{CallError, InferCall, InferReply, Panic, TryCounts};
use lineside_wire::{
    ChangeParams, ChangeResult, ClusterStatus, Fault, FaultCode, MembersResult, ModelInfo, StatisticsParams,
    StatisticsResult,
};
use tokio::{sync::watch, time::Instant};

use crate::Check;

/// The cluster as the door sees it: a pool of nodes in production, a fake in tests.
///
/// What returns no future reads a snapshot, and returns at once. The futures end at the deadline they are given.
pub trait Cluster: Send + Sync + 'static {
    /// Runs one inference, on as many nodes as it takes within the call's deadline.
    ///
    /// Dropping the future cancels the call: that is how a client that hung up frees its node.
    fn infer(&self, call: InferCall) -> impl Future<Output = Result<InferReply, CallError>> + Send;

    /// The models of all nodes, by name and version; one is `READY` when at least one node serves it.
    fn models(&self) -> Vec<ModelInfo>;

    /// The members as this door sees them, dead ones too.
    fn members(&self) -> MembersResult;

    /// The cluster in numbers.
    fn status(&self) -> ClusterStatus;

    /// Whether new work can be taken.
    ///
    /// # Errors
    /// The reason why not, for a person, for example "no node is alive".
    fn ready(&self) -> Result<(), String>;

    /// What [`Cluster::ready`] is made of, by name: it is an error as long as one of these is.
    fn checks(&self) -> Vec<Check> {
        vec![Check::new("cluster", self.ready())]
    }

    /// What this process' calls to nodes have come to, for the metrics; `None` where nobody counts.
    fn tries(&self) -> Option<TryCounts> {
        None
    }

    /// Whether so many nodes rest that they are called all the same, for the metrics; `None` where nobody chooses nodes.
    fn panic(&self) -> Option<Panic> {
        None
    }

    /// How this process follows its cluster, for the metrics; `None` where it does not.
    fn membership(&self) -> Option<MembershipReport> {
        None
    }

    /// How this process' own certificate and trust are, for the metrics; `None` where nobody keeps them.
    fn trust(&self) -> Option<TrustReport> {
        None
    }

    /// Loads or unloads a model on every node that has it in its repository, or on those that are named, and says what
    /// became of it on each. A node that did not do it is no error here.
    ///
    /// Dropping the future gives up the wait; nodes that were told go on.
    ///
    /// # Errors
    /// It reaches no node, or cannot.
    fn change(
        &self,
        change: Change,
        params: ChangeParams,
        deadline: Instant,
    ) -> impl Future<Output = Result<ChangeResult, Fault>> + Send {
        let _ = (change, params, deadline);
        async { Err(Fault::new(FaultCode::MethodNotFound, "this door cannot change models")) }
    }

    /// What the models have done, summed over the nodes that answer until the deadline. Dropping the future takes the
    /// question back.
    ///
    /// # Errors
    /// No node answers, or it cannot.
    fn statistics(
        &self,
        params: StatisticsParams,
        deadline: Instant,
    ) -> impl Future<Output = Result<StatisticsResult, Fault>> + Send {
        let _ = (params, deadline);
        async { Err(Fault::new(FaultCode::MethodNotFound, "this door has no statistics")) }
    }

    /// Rings at each change of [`Cluster::members`] and [`Cluster::models`]; `None` where nobody watches.
    fn changes(&self) -> Option<watch::Receiver<()>> {
        None
    }

    /// The log of this process, where it can be changed while it runs.
    fn log(&self) -> Option<Arc<dyn LogControl>> {
        None
    }
}

/// A change of what nodes serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `models.load`.
    Load,
    /// `models.unload`.
    Unload,
}

/// The log of the process that the door is in.
pub trait LogControl: Send + Sync {
    /// The directives in force, as in the setting `log.level`.
    fn level(&self) -> String;

    /// Puts others in force, until the process ends.
    ///
    /// # Errors
    /// They are no directives; the text says why.
    fn set_level(&self, directives: &str) -> Result<(), String>;
}

/// How the process that the door is in follows its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipReport {
    /// Since the gossip thread last took a turn.
    pub turn_age: std::time::Duration,
    /// How many times as long as usual suspects have to object; 1 while this member is well itself.
    pub suspicion_multiplier: u8,
    /// How often gossip and own calls contradicted each other, by kind.
    pub disagreements: Vec<(&'static str, u64)>,
    /// Records, packets and peers that were not taken, by reason.
    pub rejected: Vec<(&'static str, u64)>,
}

/// The certificate and the trust list of the process that the door is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustReport {
    /// Time until the certificate ends; nothing when it has.
    pub certificate_left: std::time::Duration,
    /// Renewals since the start that gave a new certificate.
    pub renewals: u64,
    /// Tries since the start that gave none.
    pub renewals_failed: u64,
    /// Number of the trust list that is in force.
    pub trust_number: u64,
}
