//! `cluster.watch`: the members at once and at each change, as notifications.

use std::time::Duration;

use lineside_wire::{Fault, MembersResult, method};
use serde::Serialize;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Out, session::Session};
use crate::{
    Cluster,
    body::Reserved,
    jsonrpc::{self, ErrorObject},
    rpc::{
        self,
        table::{self, Wire},
    },
};

/// Shortest time between two lists: a restarting cluster changes many times a second, and nobody reads so fast.
const LIST_EVERY: Duration = Duration::from_millis(100);

/// The notification with which news come.
const SUBSCRIPTION: &str = "$/subscription";

/// One subscription, whose news have not begun.
pub(super) struct Watch {
    pub(super) number: u64,
    /// The order to end.
    pub(super) ends: CancellationToken,
    pub(super) changes: watch::Receiver<()>,
}

#[derive(Serialize)]
struct News {
    subscription: String,
    /// From 0, without gaps: states that nobody had time to read are not numbered.
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<MembersResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject>,
}

impl<C: Cluster> Session<C> {
    /// Tells the members until the client or the door ends it.
    pub(super) async fn watch(&self, watch: Watch) {
        let Watch { number, ends, mut changes } = watch;
        let told = async {
            let mut seq = 0;
            loop {
                // The list is made when there is a place for it: a slow client gets what is so now, not what was so.
                let Ok(place) = self.outbox.reserve().await else { return };
                changes.mark_unchanged();
                match self.news(number, seq) {
                    Ok((json, room, goes_on)) => {
                        place.send(Out::Text(json, Some(room)));
                        seq += 1;
                        if !goes_on {
                            return;
                        }
                    }
                    // No room for it now: the next one is as good.
                    Err(_) => changes.mark_changed(),
                }
                sleep(LIST_EVERY).await;
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = ends.cancelled() => {}
            () = told => {}
        }
        self.watches().close(number);
    }

    /// The next news, and whether there can be more after it. The caller may have lost its right meanwhile.
    fn news(&self, number: u64, seq: u64) -> Result<(Vec<u8>, Reserved, bool), Fault> {
        let door = &self.asking.door;
        let allowed = self.caller().and_then(|caller| {
            let row = table::find(method::CLUSTER_WATCH, Wire::Socket)?;
            rpc::may(&door.shared, &caller, row, None)
        });
        let goes_on = allowed.is_ok();
        let (result, error) = match allowed {
            Ok(()) => (Some(door.cluster.members()), None),
            Err(fault) => (None, Some(ErrorObject::from(fault))),
        };
        let news = News { subscription: number.to_string(), seq, result, error };
        let json = jsonrpc::notification(SUBSCRIPTION, &news);
        let room = door.shared.bodies.reserve(json.len())?;
        Ok((json, room, goes_on))
    }
}
