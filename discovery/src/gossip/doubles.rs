//! Finds two machines with one node id: a disk that was copied with its identity.
//!
//! To gossip they are two lives of one member. One is known to the others, by the larger epoch or address; the other is
//! passed over, but goes on sending over connections that prove its id. Two kinds of people must hear of it:
//!
//! * *Third members* hear both. A life that ended sends nothing, so one that still speaks a while after another took its
//!   place belongs to a second machine. Whoever hears both also tells the one that is passed over of the one that is
//!   known, with an announcement to that life.
//! * *The two machines themselves.* Whatever speaks of our own id at another address (a member list, a packet that was
//!   meant for the other, an mDNS record, a seed) is a hint: it may be a life of ours from before a restart or a change
//!   of addresses, or an invention. So the address is dialled. Only a peer there whose certificate proves our own id is a
//!   double. The dial shows it to both: each hears the other's greeting.
//!
//! Epochs do not tell a double: a copied disk has a copied count, so the double's may be below ours, equal, or above. They
//! decide which of the two takes part. The others believe in the later life and tell the earlier one that it is dead, which
//! must not answer with an even later one: the two would outbid each other at the speed of the network. So whoever
//! knows of a later double stays out ([`Gossip::yields`]).
//!
//! Two machines that tell one address are not told apart; nobody could reach both either.
//!
//! **What a false claim can do.** A member that says that our id lives elsewhere has that address dialled: at most
//! [`crate::ladder::DOUBTS_MAX`] addresses at a time, one after the other, each less and less often and only for as long as
//! somebody names it. It cannot have us named as a double, here or elsewhere: for that, somebody must hold a certificate
//! of our id and its key. Before a double is proven it can also cost us lives, as any claim about our death can;
//! [`super::screen::Limiter`] bounds those. While there is a double, a claim that it lives later than it does keeps us out.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lineside_wire::{MemberState, NodeId};
use tokio::time::Instant;

use super::{Gossip, Output, screen::EPOCH_JUMP_MAX};
use crate::{
    codec::Packet,
    identity::{Identity, canonical, is_dialable},
};

/// From the first packet of another life to the one that proves it: a member that has forgotten its epoch catches up
/// within a second or two.
const SURE_AFTER: Duration = Duration::from_secs(5);

/// How long a double is remembered after it was last heard. Also between two packets of another life that belong
/// together: whoever is passed over takes the others for dead soon, and then speaks to each every 10 seconds or so.
const TOGETHER: Duration = Duration::from_secs(60);

/// How often the same fight is told of.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How often a life that is passed over is told of the known one.
const REMIND_EVERY: Duration = Duration::from_secs(1);

/// For how long after a change of our own address the old one is still taken for ours: greetings that were sent before it
/// are on their way, and connections that stand keep theirs.
const MOVED_FOR: Duration = Duration::from_secs(60);

/// Own addresses of the last minute. More changes than that are no network.
const MOVED_MAX: usize = 16;

/// Members that were heard with another life than the known one. No longer than the member list.
#[derive(Debug, Default)]
pub(super) struct Doubles {
    heard: BTreeMap<NodeId, Heard>,
    /// Where we were, and until when that counts.
    moved: Vec<(SocketAddr, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// Where the known one is, and the other, at the last packet. The two may change places.
    known: SocketAddr,
    other: SocketAddr,
    /// The latest life of our own double that was heard of.
    epoch: u64,
    first: Instant,
    last: Instant,
    sure: bool,
    told: Option<Instant>,
    reminded: Option<Instant>,
}

impl Doubles {
    /// Notes a packet of another life than the known one. True when a person should hear of it now.
    fn heard(&mut self, node: NodeId, known: SocketAddr, other: SocketAddr, now: Instant) -> bool {
        let heard = self.note(node, known, other, now);
        heard.sure |= heard.first + SURE_AFTER <= now;
        heard.is_to_be_told(now)
    }

    /// Notes that another machine proved to have our own id. True when a person should hear of it now.
    fn proved(&mut self, known: SocketAddr, other: &Identity, now: Instant) -> bool {
        let heard = self.note(other.node, known, other.address, now);
        heard.epoch = heard.epoch.max(other.epoch);
        heard.sure = true;
        heard.is_to_be_told(now)
    }

    fn note(&mut self, node: NodeId, known: SocketAddr, other: SocketAddr, now: Instant) -> &mut Heard {
        self.forget(now);
        let new =
            Heard { known, other, epoch: 0, first: now, last: now, sure: false, told: None, reminded: None };
        let heard = self.heard.entry(node).or_insert(new);
        (heard.known, heard.other, heard.last) = (known, other, now);
        heard
    }

    /// Whether a life that is passed over should be told of the known one now. `true` counts as told.
    fn reminds(&mut self, node: NodeId, now: Instant) -> bool {
        let Some(heard) = self.heard.get_mut(&node) else { return false };
        let due = heard.reminded.is_none_or(|at| at + REMIND_EVERY <= now);
        if due {
            heard.reminded = Some(now);
        }
        due
    }

    /// Notes a life of our double that others speak of.
    fn lives_on(&mut self, id: &Identity) {
        if let Some(heard) = self.heard.get_mut(&id.node).filter(|heard| heard.other == id.address) {
            heard.epoch = heard.epoch.max(id.epoch);
        }
    }

    /// Whether our double's life is the one that the others believe in.
    fn outlives(&self, own: &Identity) -> bool {
        self.heard.get(&own.node).filter(|heard| heard.sure).is_some_and(|heard| {
            use foca::Identity as _;
            let double = Identity { address: heard.other, epoch: heard.epoch, ..own.clone() };
            double.win_addr_conflict(own)
        })
    }

    /// Where the double of a member is that is known at this address.
    pub(super) fn of(&self, node: NodeId, known: SocketAddr) -> Option<SocketAddr> {
        let (heard, known) = (self.heard.get(&node).filter(|heard| heard.sure)?, canonical(known));
        [heard.other, heard.known].into_iter().find(|address| *address != known)
    }

    /// Forgets those that were not heard for long.
    pub(super) fn forget(&mut self, now: Instant) {
        self.heard.retain(|_, heard| now < heard.last + TOGETHER);
        self.moved.retain(|(_, until)| now < *until);
    }

    /// When the next is to be forgotten.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.heard.values().map(|heard| heard.last + TOGETHER).min()
    }

    /// Notes that our own address changed.
    pub(super) fn moved(&mut self, own: NodeId, from: SocketAddr, to: SocketAddr, now: Instant) {
        self.forget(now);
        if let Some(heard) = self.heard.get_mut(&own) {
            heard.known = canonical(to);
            if heard.other == heard.known {
                self.heard.remove(&own); // It went, and its address came to us.
            }
        }
        if MOVED_MAX <= self.moved.len() {
            self.moved.remove(0);
        }
        self.moved.push((canonical(from), now + MOVED_FOR));
    }

    fn was_ours(&self, address: SocketAddr, now: Instant) -> bool {
        self.moved.iter().any(|(moved, until)| *moved == address && now < *until)
    }
}

impl Heard {
    fn is_to_be_told(&mut self, now: Instant) -> bool {
        let due = self.sure && self.told.is_none_or(|told| told + TELL_EVERY <= now);
        if due {
            self.told = Some(now);
        }
        due
    }
}

impl Gossip {
    /// Whether a state that a peer proved to be of its node comes from another machine with our id. Our own comes back
    /// when a seed is this machine under another name, with the address that we tell.
    pub(crate) fn is_double(&self, state: &MemberState, now: Instant) -> bool {
        state.node == self.own.node && self.is_elsewhere(state.address, now)
    }

    fn is_elsewhere(&self, address: SocketAddr, now: Instant) -> bool {
        let address = canonical(address);
        address != canonical(self.own.address) && !self.doubles.was_ours(address, now)
    }

    /// A peer proved to have our own id.
    pub(super) fn met_own_id(&mut self, state: &MemberState, now: Instant) {
        if !self.is_double(state, now) {
            return;
        }
        self.counters.doubles_met += 1;
        let (node, known) = (self.own.node, canonical(self.own.address));
        let double = Identity::new(self.swim.identity().cluster, node, state.address, state.epoch);
        let other = double.address;
        if self.doubles.proved(known, &double, now) {
            self.outputs.push_back(Output::Double { node, known, other });
        }
        // Whether it is still there is asked again before it is forgotten.
        self.outputs.push_back(Output::Elsewhere(other));
    }

    /// Whether to stay dead when we are told that we are, because the others believe in our double's life. A later life of
    /// ours would have the double take one that is later still. When the double has gone, it is forgotten a minute
    /// later, and we take our place again.
    pub(super) fn yields(&self) -> bool {
        self.doubles.outlives(self.swim.identity())
    }

    /// Has the addresses dialled at which a packet says that our id lives. Those of dead lives are nobody's.
    pub(super) fn note_elsewhere(&mut self, packet: &Packet<'_>, now: Instant) {
        let living = packet.members.iter().filter(|member| member.state() != foca::State::Down);
        let named = std::iter::once(&packet.header.dst).chain(living.map(foca::Member::id));
        for id in named.filter(|id| id.node == self.own.node) {
            if self.is_elsewhere(id.address, now) {
                self.outputs.push_back(Output::Elsewhere(id.address));
                if id.epoch <= self.own.epoch.saturating_add(EPOCH_JUMP_MAX) {
                    self.doubles.lives_on(id);
                }
            }
        }
    }

    /// Whether this is a life of the machine that is known to have our id too.
    pub(super) fn is_of_double(&self, id: &Identity) -> bool {
        let double = || self.doubles.of(self.own.node, canonical(self.own.address));
        id.node == self.own.node && id.address != canonical(self.own.address) && double() == Some(id.address)
    }

    /// Notes it when a member that lives is heard with another life than the known one, but no later one.
    pub(super) fn note_double(&mut self, src: &Identity, now: Instant) {
        let Some(row) = self.roster.get(src.node).filter(|row| row.standing.is_present()) else { return };
        let (known, other) = (row.address, src.address);
        if row.epoch < src.epoch || known == other {
            return;
        }
        let later = Identity { address: known, epoch: row.epoch, ..src.clone() };
        if self.doubles.heard(src.node, known, other, now) {
            self.outputs.push_back(Output::Double { node: src.node, known, other });
        }
        if self.doubles.reminds(src.node, now) {
            self.tell_of_the_known(later, src);
        }
    }

    /// Sends one life of a member an announcement to another: it learns that the other is believed, and where.
    fn tell_of_the_known(&mut self, known: Identity, told: &Identity) {
        let src = self.swim.identity().clone();
        let header = foca::Header { src, src_incarnation: 0, dst: known, message: foca::Message::Announce };
        if !is_dialable(told.address) {
            return;
        }
        if let Ok(packet) = (Packet { header, members: Vec::new(), tail: &[] }).write(self.codec) {
            self.counters.sent += 1;
            let (to, address) = (told.node, told.address);
            self.outputs.push_back(Output::Send { to, address, packet: packet.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELD: NodeId = NodeId::from_bytes([2; 16]);

    fn id(n: u8, epoch: u64) -> Identity {
        Identity::new(crate::identity::ClusterTag(1), WELD, at(n), epoch)
    }

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 7443))
    }

    fn told(at_seconds: &[u64]) -> Vec<u64> {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        let is_told =
            |second: &&u64| doubles.heard(WELD, at(2), at(9), start + Duration::from_secs(**second));
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

    #[test]
    fn what_is_proven_is_told_at_once_and_then_once_a_minute() {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        let mut seconds = 0..130_u64;
        let told: Vec<u64> = seconds
            .by_ref()
            .filter(|second| doubles.proved(at(2), &id(9, 1), start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(told, [0, 60, 120]);
    }

    #[test]
    fn a_double_has_the_other_address_whichever_is_known_and_is_forgotten_after_a_minute() {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        doubles.heard(WELD, at(2), at(9), start);
        assert_eq!(doubles.of(WELD, at(2)), None);
        doubles.heard(WELD, at(2), at(9), start + SURE_AFTER);
        assert_eq!(doubles.of(WELD, at(2)), Some(at(9)));
        assert_eq!(doubles.of(WELD, at(9)), Some(at(2)));
        let end = start + SURE_AFTER + TOGETHER;
        assert_eq!(doubles.next_wake(), Some(end));
        doubles.forget(end - Duration::from_secs(1));
        assert!(doubles.of(WELD, at(2)).is_some());
        doubles.forget(end);
        assert_eq!(doubles.of(WELD, at(2)), None);
    }

    #[test]
    fn of_two_doubles_one_yields_to_the_later_life() {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        assert!(!doubles.outlives(&id(2, 1)));
        doubles.proved(at(2), &id(9, 5), start);
        assert!(doubles.outlives(&id(2, 4)) && doubles.outlives(&id(2, 5)) && !doubles.outlives(&id(2, 6)));
        // Others tell of a later life of its, and of one that is not its.
        doubles.lives_on(&id(7, 9));
        assert!(!doubles.outlives(&id(2, 6)));
        doubles.lives_on(&id(9, 6));
        assert!(doubles.outlives(&id(2, 6)));
        // Its greeting over a connection that stands is an old one.
        doubles.proved(at(2), &id(9, 5), start);
        assert!(doubles.outlives(&id(2, 6)));
    }

    #[test]
    fn an_address_that_was_ours_a_moment_ago_is_no_other_machines() {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        doubles.moved(WELD, at(2), at(5), start);
        assert!(doubles.was_ours(at(2), start) && !doubles.was_ours(at(3), start));
        assert!(!doubles.was_ours(at(2), start + MOVED_FOR));
        for _ in 0..100 {
            doubles.moved(WELD, at(4), at(5), start);
        }
        assert_eq!(doubles.moved.len(), MOVED_MAX);
    }

    #[test]
    fn a_double_is_the_other_one_after_we_moved_and_none_when_we_took_its_address() {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        doubles.proved(at(2), &id(9, 1), start);
        doubles.moved(WELD, at(2), at(3), start);
        assert_eq!(doubles.of(WELD, at(3)), Some(at(9)));
        doubles.moved(WELD, at(3), at(9), start);
        assert_eq!(doubles.of(WELD, at(9)), None);
    }

    #[test]
    fn who_is_passed_over_is_told_of_the_known_one_now_and_then() {
        let (mut doubles, start) = (Doubles::default(), Instant::now());
        assert!(!doubles.reminds(WELD, start));
        doubles.heard(WELD, at(2), at(9), start);
        assert!(doubles.reminds(WELD, start) && !doubles.reminds(WELD, start));
        assert!(doubles.reminds(WELD, start + REMIND_EVERY));
    }
}
