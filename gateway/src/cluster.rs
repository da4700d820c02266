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
}
