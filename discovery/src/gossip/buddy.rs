//! Tells a member that it is suspected, as soon as it shows that it lives.
//!
//! Only the suspect itself can end a suspicion, by objecting, and it objects to what it hears. Gossip tells everybody of
//! a suspicion a few times and is done in a second or two; a suspect that was cut off just then never hears of it, and
//! would be declared dead although it has long been back. So whoever hears from a suspect says to it what it is
//! suspected of.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use foca::{Header, Message, State};
use lineside_wire::NodeId;
use tokio::time::Instant;

use super::{Gossip, Leaving, Output};
use crate::{codec::Packet, identity::Identity};

/// Between two times that the same suspect is told: any of the packets may get lost.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Which suspects were told, and when. No longer than the member list.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<NodeId, Instant>);

impl Told {
    /// Whether it is time to tell this one.
    fn admit(&mut self, node: NodeId, now: Instant) -> bool {
        self.0.retain(|_, at| now < *at + TELL_EVERY);
        let admitted = !self.0.contains_key(&node);
        if admitted {
            self.0.insert(node, now);
        }
        admitted
    }
}

impl Gossip {
    /// A packet came from `from`: if it is a suspect here, it hears of that.
    pub(super) fn tell_suspect(&mut self, from: &Identity, now: Instant) {
        if self.leaving != Leaving::No {
            return;
        }
        let mut known = self.swim.iter_membership_state();
        let is_suspect =
            |member: &&foca::Member<Identity>| member.id() == from && member.state() == State::Suspect;
        let Some(suspect) = known.find(is_suspect).cloned() else { return };
        if !self.told.admit(from.node, now) {
            return;
        }
        let (src, dst) = (self.swim.identity().clone(), from.clone());
        let header = Header { src, src_incarnation: 0, dst, message: Message::Gossip };
        let packet = Packet { header, members: vec![suspect], tail: &[] };
        match packet.write(self.codec) {
            Ok(bytes) => {
                self.counters.sent += 1;
                let packet = Bytes::from(bytes);
                self.outputs.push_back(Output::Send { to: from.node, address: from.address, packet });
            }
            Err(error) => tracing::debug!(%error, "a suspect could not be told of its suspicion"),
        }
    }
}
