//! Finds two processes with one node id: a disk that was copied with its identity.
//!
//! One of the two lives is known, by the larger epoch or address; the other is passed over, and its process hears
//! nothing of it. But it goes on sending over a connection that proves its id. A life that ended sends nothing, so one
//! that still speaks a while after another took its place belongs to a second process.

use std::{collections::BTreeMap, time::Duration};

use lineside_wire::NodeId;
use tokio::time::Instant;

/// From the first packet of another life to the one that proves it: a member that has forgotten its epoch catches up
/// within a second or two.
const SURE_AFTER: Duration = Duration::from_secs(5);

/// Between two packets of another life that belong together: whoever is passed over takes the others for dead soon,
/// and then speaks to each every 10 seconds or so.
const TOGETHER: Duration = Duration::from_secs(60);

/// How often the same fight is told of.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Members that were heard with another life than the known one. No longer than the member list.
#[derive(Debug, Default)]
pub(super) struct Doubles(BTreeMap<NodeId, Heard>);

#[derive(Clone, Copy, Debug)]
struct Heard {
    first: Instant,
    last: Instant,
    told: Option<Instant>,
}

impl Doubles {
    /// Notes a packet of another life than the known one. True when a person should hear of it now.
    pub(super) fn heard(&mut self, node: NodeId, now: Instant) -> bool {
        self.0.retain(|_, heard| now < heard.last + TOGETHER);
        let heard = self.0.entry(node).or_insert(Heard { first: now, last: now, told: None });
        heard.last = now;
        let sure = heard.first + SURE_AFTER <= now;
        let due = heard.told.is_none_or(|told| told + TELL_EVERY <= now);
        if sure && due {
            heard.told = Some(now);
        }
        sure && due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELD: NodeId = NodeId::from_bytes([2; 16]);

    fn told(at_seconds: &[u64]) -> Vec<u64> {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        let is_told = |second: &&u64| doubles.heard(WELD, start + Duration::from_secs(**second));
        at_seconds.iter().filter(is_told).copied().collect()
    }

    #[test]
    fn who_speaks_on_after_another_took_its_place_is_told_of_now_and_then() {
        assert_eq!(told(&[0, 1, 4, 5, 6, 15, 64, 65]), [5, 65]);
    }

    #[test]
    fn a_member_that_catches_up_is_no_double() {
        assert_eq!(told(&[0, 1, 2, 100, 101]), [0; 0]);
    }
}
