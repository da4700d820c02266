//! What the pool needs of the network.

use std::time::Duration;

use lineside_mesh::{CallFailure, Destination, Mesh, Outbound, Reply, Signs};
use serde::Serialize;

/// Carries one call to one peer. [`Mesh`] in production, a fake in tests.
pub trait Transport: Send + Sync + 'static {
    /// Makes one call. There is no deadline here; dropping the future cancels the call at the peer.
    ///
    /// # Errors
    /// The failure says what became of the work.
    fn call<P: Serialize + Send>(
        &self,
        to: Destination,
        call: Outbound<P>,
    ) -> impl Future<Output = Result<Reply, CallFailure>> + Send;

    /// What has come from a peer so far. `None` while there is no connection; a call that began meanwhile has not been
    /// sent. Asked for each call, so it must be cheap.
    fn signs(&self, to: Destination) -> Option<Signs>;

    /// For how long a live peer may send nothing when it has nothing to say.
    fn quiet_max(&self) -> Duration;
}

impl Transport for Mesh {
    fn call<P: Serialize + Send>(
        &self,
        to: Destination,
        call: Outbound<P>,
    ) -> impl Future<Output = Result<Reply, CallFailure>> + Send {
        Self::call(self, to, call)
    }

    fn signs(&self, to: Destination) -> Option<Signs> {
        Self::signs(self, to.node)
    }

    fn quiet_max(&self) -> Duration {
        Self::quiet_max(self)
    }
}
