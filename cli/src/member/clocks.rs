//! Looks again at clocks that were far off: a connection stands for days, and has one greeting.

use std::{sync::Arc, time::Duration};

use lineside_discovery::Discovery;
use lineside_mesh::{Destination, Mesh, Outbound};
use lineside_wire::{Greeting, decode_part, method};
use tokio::time::{sleep, timeout};

use super::{
    own::Own,
    skew::{Skews, clock_ms},
};

/// How often: a person who sets a clock right looks whether it was noticed. Costs a small call to each such member.
const AGAIN_EVERY: Duration = Duration::from_secs(10);

/// Longest wait for an answer; what it takes is far below what counts.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Runs until it is aborted.
pub(super) async fn look_again(
    skews: Arc<Skews>,
    own: Arc<Own>,
    discovery: Discovery,
    mesh: Mesh,
) -> &'static str {
    loop {
        sleep(AGAIN_EVERY).await;
        let view = Arc::clone(&discovery.view().borrow());
        for node in skews.apart() {
            let Some(member) = view.active().find(|member| member.node == node) else { continue };
            let to = Destination { node, address: member.address };
            let hello = mesh.call(to, Outbound::new(method::HELLO, own.greeting()));
            // Whoever does not answer is asked again the next time, or greets us when it comes back.
            let Ok(Ok(reply)) = timeout(ANSWER_WITHIN, hello).await else { continue };
            if let Ok(theirs) = decode_part::<Greeting>(&reply.result) {
                // Whatever there is to tell was told when it was met.
                let _told = skews.met(node, theirs.clock_ms, clock_ms());
            }
        }
    }
}
