//! What may reach foca: packets are judged here first.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use foca::{Incarnation, Member, Message, State};
use lineside_wire::NodeId;
use tokio::time::Instant;

use super::{Gossip, Output, leaving::Leaving};
use crate::{
    MEMBERS_MAX, PACKET_BYTES_MAX,
    codec::{CodecError, Packet},
    identity::Identity,
};

/// Lives that others may force on us per [`REBIRTH_WINDOW`]. More comes of two processes with one node id, and
/// would have them fight at the speed of the network.
const REBIRTHS_MAX: usize = 8;
const REBIRTH_WINDOW: Duration = Duration::from_secs(10);

/// How far past our own epoch a life of ours may be that others remember. A count of starts and lives that was lost is
/// far below; one forged packet must not use up all epochs that there are, for good.
pub(super) const EPOCH_JUMP_MAX: u64 = 1 << 32;

/// Admits [`REBIRTHS_MAX`] per [`REBIRTH_WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Limiter(VecDeque<Instant>);

impl Limiter {
    fn admit(&mut self, now: Instant) -> bool {
        self.0.retain(|at| now < *at + REBIRTH_WINDOW);
        let admitted = self.0.len() < REBIRTHS_MAX;
        if admitted {
            self.0.push_back(now);
        }
        admitted
    }
}

impl Gossip {
    /// A packet from the network: judged first.
    pub(super) fn packet(&mut self, from: NodeId, bytes: &[u8], now: Instant) {
        if matches!(self.leaving, Leaving::Gone { .. }) {
            return; // Whoever answers now would have us come back to life.
        }
        self.counters.received += 1;
        let packet = match Packet::parse(self.codec, bytes) {
            Ok(packet) if bytes.len() <= PACKET_BYTES_MAX => packet,
            Err(CodecError::ForeignCluster) => return self.counters.foreign_cluster += 1,
            Ok(_) | Err(_) => return self.counters.malformed += 1,
        };
        let (src, dst) = (&packet.header.src, &packet.header.dst);
        if src.node != from || src.node == self.own.node {
            return self.counters.src_mismatch += 1;
        }
        if dst.node != self.own.node {
            return self.counters.misdirected += 1;
        }
        self.note_elsewhere(&packet, now);
        if self.is_of_double(dst) {
            // Meant for the other machine with our id. To go past its life would be answered in kind, without end.
            return self.counters.misdirected += 1;
        }
        let (source, later) = (src.clone(), dst.epoch);
        if self.own.epoch.saturating_add(EPOCH_JUMP_MAX) < later {
            return self.counters.malformed += 1;
        }
        self.note_double(&source, now);
        let buried = self.buries_us(&packet);
        if buried && self.yields() {
            return self.counters.rebirths_refused += 1;
        }
        if buried && !self.burials.admit(now) {
            return self.contested();
        }
        if self.own.epoch < later {
            // The cluster remembers a later life of ours than the file with our epoch does.
            if !self.catch_ups.admit(now) {
                return self.contested();
            }
            self.be_reborn(self.own.address, later.saturating_add(1), now);
        }
        let Some(screened) = self.screen(packet) else { return };
        let bytes = screened.as_deref().unwrap_or(bytes);
        if let Err(error) = self.swim.handle_data(bytes, &mut self.runtime) {
            self.counters.malformed += 1;
            tracing::debug!(%from, %error, "a gossip packet was refused");
        }
        self.tell_suspect(&source, now);
        if buried {
            // Who took us for dead must hear of the new life from us: foca tells only those it takes for living,
            // and after a parting each side takes the other for dead.
            self.targets.met(source, now);
        }
        self.roster.saw(from, now);
        self.seen_changed = true;
    }

    /// Takes out what would make the member list too long, and lives of a known double of ours: foca would declare them
    /// dead, and so would the double ours. `None`: nothing is left; `Some(None)`: as it was.
    fn screen(&mut self, mut packet: Packet<'_>) -> Option<Option<Vec<u8>>> {
        let others_max = MEMBERS_MAX - 1;
        let told = packet.members.len();
        packet.members.retain(|member| !self.is_of_double(member.id()));
        let doubled = packet.members.len() < told;
        if self.swim.iter_membership_state().len() + packet.members.len() < others_max {
            return if doubled { packet.write(self.codec).ok().map(Some) } else { Some(None) };
        }
        let mut known: BTreeSet<NodeId> =
            self.swim.iter_membership_state().map(|member| member.id().node).collect();
        let own = self.own.node;
        let mut admit =
            |node| node == own || known.contains(&node) || known.len() < others_max && known.insert(node);
        if !admit(packet.header.src.node) {
            self.counters.over_limit += 1;
            return None;
        }
        let before = packet.members.len();
        packet.members.retain(|member| admit(member.id().node));
        if packet.members.len() == before && !doubled {
            return Some(None);
        }
        self.counters.over_limit += u64::from(packet.members.len() < before);
        packet.write(self.codec).ok().map(Some)
    }

    /// Whether foca would answer this packet with a new life of ours.
    fn buries_us(&self, packet: &Packet<'_>) -> bool {
        let own = self.swim.identity();
        let told = packet.header.message == Message::TurnUndead && packet.header.dst == *own;
        // No refutation is above the highest incarnation: only a new life helps against that suspicion.
        let buries = |member: &Member<Identity>| match member.state() {
            State::Down => true,
            State::Suspect => member.incarnation() == Incarnation::MAX,
            State::Alive => false,
        };
        told || packet.members.iter().any(|member| member.id() == own && buries(member))
    }

    fn contested(&mut self) {
        self.counters.rebirths_refused += 1;
        if self.counters.rebirths_refused.is_power_of_two() {
            self.outputs.push_back(Output::Contested);
        }
    }
}
