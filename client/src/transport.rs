//! What the pool needs of the network.

use lineside_mesh::{CallFailure, Destination, Mesh, Outbound, Reply};
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
}

impl Transport for Mesh {
    fn call<P: Serialize + Send>(
        &self,
        to: Destination,
        call: Outbound<P>,
    ) -> impl Future<Output = Result<Reply, CallFailure>> + Send {
        Self::call(self, to, call)
    }
}
