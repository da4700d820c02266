//! Takes turns: the tests of one binary run all at once, clusters must not.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Clusters at one time. Each has up to five processes, and failure detection wants its share of the cores.
const CLUSTERS_MAX: u32 = 2;

static TURNS: Semaphore = Semaphore::const_new(CLUSTERS_MAX as usize);

/// Given back when dropped.
pub(crate) type Turn = SemaphorePermit<'static>;

/// Waits for a place.
pub(crate) async fn take() -> Turn {
    TURNS.acquire().await.expect("the semaphore is never closed")
}

/// Waits until no other cluster runs: for stories whose numbers depend on the cores.
pub(crate) async fn take_all() -> Turn {
    TURNS.acquire_many(CLUSTERS_MAX).await.expect("the semaphore is never closed")
}
