//! `cluster.watch`: the member list at once and at each change, until the caller goes.

use std::{sync::Arc, time::Duration};

use lineside_mesh::{Incoming, NotSent, Served};
use lineside_wire::{Fault, FaultCode, PayloadBuilder};
use tokio::time::sleep;

use super::known::Known;

/// Shortest time between two lists: a restarting cluster changes many times a second, and nobody reads so fast.
const LIST_EVERY: Duration = Duration::from_millis(200);

/// Serves one watcher. Its future is dropped by the mesh when the caller cancels or goes.
pub(crate) fn serve(mut call: Incoming, known: Arc<Known>) -> Served {
    Served::Later(Box::pin(async move {
        let mut changed = known.changed();
        loop {
            changed.mark_unchanged();
            match call.reply.item(&known.members(), PayloadBuilder::new()).await {
                Ok(()) => {}
                Err(NotSent::Gone) => return,
                Err(NotSent::TooLong(fault)) => return call.reply.fail(&fault, None),
            }
            sleep(LIST_EVERY).await;
            if changed.changed().await.is_err() {
                return call.reply.fail(&Fault::new(FaultCode::Draining, "this member is leaving"), None);
            }
        }
    }))
}
