//! What the door asks of the cluster behind it.

use lineside_client::{CallError, InferCall, InferReply};
use lineside_wire::{ClusterStatus, MembersResult, ModelInfo};

/// The cluster as the door sees it: a pool of nodes in production, a fake in tests.
///
/// Everything but [`Cluster::infer`] reads a snapshot and returns at once.
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

    /// How this process' own certificate and trust are, for the metrics; `None` where nobody keeps them.
    fn trust(&self) -> Option<TrustReport> {
        None
    }
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
