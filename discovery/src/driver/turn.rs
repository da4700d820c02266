//! One turn: an event goes in, and what the cores want is done. Nothing here waits.

use std::{net::SocketAddr, sync::atomic::Ordering};

use lineside_wire::{MemberState, NodeId};
use tokio::time::Instant;

use super::{Brought, Driver, Event, MdnsEvent};
use crate::{
    Counters, GossipCounters, GreetError, MEMBERS_MAX,
    gossip::{Input, Output},
    ladder::{Answer, Dial, Verdict},
};

/// A person should know of a seed that did not answer so many times in a row.
const SEED_FAILURES_TOLD: u32 = 3;

impl Driver {
    pub(super) fn turn(&mut self, event: Event, now: Instant) {
        let input = self.take_in(event, now);
        let sender = if let Input::Packet { from, .. } = &input { Some(*from) } else { None };
        let before = *self.gossip.counters();
        self.gossip.handle(input, now);
        if let Some(from) = sender {
            self.tell_amiss(before, from);
        }
        self.tell_health(before.health_level);
        self.carry_out(now);
        self.dial(now);
        if let Some(write) = self.remembered.begin(false, now) {
            self.errands.write(write);
        }
        self.warn_if_lonely(now);
        self.count(now);
    }

    /// What the event is to gossip.
    fn take_in(&mut self, event: Event, now: Instant) -> Input {
        match event {
            Event::Packet { from, bytes } => {
                self.shared.taken(from);
                Input::Packet { from, bytes }
            }
            Event::Greeted(state) => Input::Met(Box::new(state)),
            Event::Own(state) => {
                self.ladder.own_address(state.address);
                if let Some(mdns) = &mut self.mdns {
                    mdns.announce(state.address);
                }
                Input::Own(Box::new(state))
            }
            Event::Brought(Brought::Greeting { dial, result }) => self.dialled(dial, result, now),
            Event::Brought(Brought::State { node, result }) => {
                if let Err(reason) = &result {
                    tracing::debug!(%node, %reason, "a member did not give its state");
                }
                Input::Fetched { node, state: result.ok().map(Box::new) }
            }
            Event::Brought(Brought::Written(result)) => {
                self.remembered.ended(result);
                Input::Wake
            }
            Event::Mdns(event) => {
                self.heard(event, now);
                Input::Wake
            }
            Event::Leave => {
                self.leaving = true;
                Input::Leave
            }
            Event::Abandoned => {
                self.ended = true;
                Input::Wake
            }
            Event::Wake => Input::Wake,
        }
    }

    fn dialled(
        &mut self,
        dial: Dial,
        result: Result<Option<MemberState>, GreetError>,
        now: Instant,
    ) -> Input {
        let answer = match &result {
            Ok(Some(state)) if self.gossip.is_double(state, now) => Answer::Double,
            Ok(Some(state)) => Answer::Member(state.node),
            Ok(None) => Answer::NoMember,
            Err(GreetError::Stranger(_)) => Answer::Stranger,
            Err(GreetError::Failed(_)) => Answer::Nobody,
        };
        let reason = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let address = dial.address;
        match self.ladder.ended(dial, answer, now) {
            Verdict::Reached => {
                self.counters.dials_good += 1;
                if let Ok(Some(state)) = result {
                    return Input::Met(Box::new(state));
                }
            }
            Verdict::Double => {
                if let Ok(Some(state)) = result {
                    return Input::Met(Box::new(state));
                }
            }
            Verdict::Ourselves => tracing::debug!(%address, "a seed is this member itself"),
            Verdict::WrongIdentity => {
                self.counters.dials_wrong_identity += 1;
                if dial.expect.is_none() {
                    tracing::warn!(%address, reason, "who answers at a seed's address is no member of this cluster");
                } else {
                    tracing::debug!(%address, reason, "somebody else than expected was at an address");
                }
            }
            Verdict::NoMember => {
                self.counters.dials_no_member += 1;
                if dial.expect.is_none() {
                    tracing::warn!(%address, "who answers at a seed's address is no member, but a client");
                }
            }
            Verdict::Failed(times) => {
                self.counters.dials_failed += 1;
                if dial.expect.is_none() && times == SEED_FAILURES_TOLD {
                    tracing::warn!(%address, %reason, "a seed cannot be reached; it is tried on");
                } else {
                    tracing::debug!(%address, %reason, times, "nobody was reached");
                }
            }
        }
        Input::Wake
    }

    fn heard(&mut self, event: MdnsEvent, now: Instant) {
        // Whatever record it was: multicast works.
        self.mdns_heard |= !matches!(event, MdnsEvent::Rebrowsed | MdnsEvent::Failed);
        match event {
            MdnsEvent::Hint { node, addresses } => {
                if self.ladder.hint(node, &addresses, now) {
                    self.counters.hints += 1;
                    self.lonely_at = None;
                } else {
                    self.counters.hints_refused += 1;
                    let times = self.counters.hints_refused;
                    if times.is_power_of_two() {
                        tracing::warn!(
                            times,
                            "mDNS names more members than a cluster has; the further ones were ignored"
                        );
                    }
                }
            }
            MdnsEvent::HintGone(node) => self.ladder.hint_gone(node),
            MdnsEvent::OwnHeard { addresses } => self.ladder.elsewhere(&addresses, now),
            MdnsEvent::Foreign => {
                self.counters.mdns_foreign += 1;
                let times = self.counters.mdns_foreign;
                // A neighbour cluster on the same network is ordinary, and repeats its records all day.
                if times == 1 {
                    tracing::info!(
                        "another cluster, or another version, announces itself by mDNS here; it is left alone"
                    );
                } else if times.is_power_of_two() {
                    tracing::debug!(times, "mDNS records of another cluster or version");
                }
            }
            MdnsEvent::Invalid => {
                self.counters.mdns_invalid += 1;
                let times = self.counters.mdns_invalid;
                if times.is_power_of_two() {
                    tracing::warn!(
                        times,
                        "mDNS records that contradict themselves, or lead off this network, were ignored"
                    );
                }
            }
            MdnsEvent::Rebrowsed => self.counters.mdns_rebrowsed += 1,
            MdnsEvent::Failed => self.mdns_heard = false,
        }
    }

    /// Tells of packets that an attack or a wrong setting would bring, at every power of two: a flood of packets must not
    /// become a flood of lines.
    fn tell_amiss(&self, before: GossipCounters, from: NodeId) {
        let now = self.gossip.counters();
        if let Some(times) = to_tell(before.src_mismatch, now.src_mismatch) {
            tracing::warn!(
                %from, times,
                "gossip packets in another member's name were dropped: the member that sent them is damaged or taken over"
            );
        }
        if let Some(times) = to_tell(before.foreign_cluster, now.foreign_cluster) {
            tracing::warn!(%from, times, "gossip packets of another cluster were dropped; see `lineside certs show` there");
        }
        if let Some(times) = to_tell(before.over_limit, now.over_limit) {
            tracing::warn!(
                %from, times, max = MEMBERS_MAX,
                "the cluster is full: gossip of further members was dropped (dead ones count for a day)"
            );
        }
    }

    /// Tells when this member begins to take itself for slow, and when it no longer does.
    fn tell_health(&self, before: u8) {
        match (before, self.gossip.counters().health_level) {
            (0, level) if level != 0 => tracing::warn!(
                level,
                "this member is late itself, or cut off: it gives silent members more time before it declares them dead"
            ),
            (level, 0) if level != 0 => tracing::info!("this member is no longer late"),
            _ => {}
        }
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::Renewed { epoch } => self.renewed(epoch),
                Output::Send { to, address, packet } => self.carrier.send(to, address, packet),
                Output::Fetch { node, address } => self.errands.ask(&*self.carrier, node, address),
                Output::View(view) => {
                    self.remembered.saw(&view);
                    self.view.send_replace(view);
                }
                Output::Gone(node) => {
                    tracing::info!(%node, "a member is gone");
                    if let Some(mdns) = &self.mdns {
                        mdns.verify(node);
                    }
                }
                Output::Elsewhere(address) => self.ladder.elsewhere(&[address], now),
                Output::Contested => tracing::error!(
                    "the cluster knows another life of this member again and again: two machines may have the same \
                     node id, for example after a disk was copied"
                ),
                Output::Double { node, known, other } => self.tell_double(node, known, other),
                Output::Left => self.ended = true,
            }
        }
        let alone = self.gossip.is_alone();
        if !alone {
            self.lonely_at = None;
        }
        if self.ladder.alone(alone) {
            // Nobody is left: those who were there last are the first to ask.
            let last = self.remembered.addresses().iter().map(|(node, address)| (*node, *address));
            self.ladder.remember(last, now);
        }
    }

    fn tell_double(&self, node: NodeId, known: SocketAddr, other: SocketAddr) {
        if node == self.own {
            tracing::error!(
                %node, address = %other, own_address = %known,
                "another machine has this machine's identity: one of the two disks is a copy. On the copy, stop \
                 Lineside, remove the folder `identity` from the data directory, and join it anew with a token \
                 (`lineside token create`)"
            );
        } else {
            tracing::error!(
                %node, %known, %other,
                "two machines have the same identity: one of the two disks is a copy. On the copy, stop Lineside, \
                 remove the folder `identity` from the data directory, and join it anew with a token"
            );
        }
    }

    fn renewed(&mut self, epoch: u64) {
        tracing::info!(
            epoch,
            "this member begins another life: the others took it for dead, or know a later one"
        );
        if let Err(error) = self.epoch.renewed(epoch) {
            tracing::error!(%error, epoch, "the count of lives cannot be written; the next start may count too low");
        }
        self.shared.epoch.store(epoch, Ordering::Relaxed);
    }

    fn dial(&mut self, now: Instant) {
        if self.leaving || self.ended {
            return;
        }
        while let Some(dial) = self.ladder.next_dial(|node| self.gossip.is_active(node), now) {
            self.errands.dial(&*self.carrier, dial, self.own);
        }
    }

    fn warn_if_lonely(&mut self, now: Instant) {
        if self.lonely_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        tracing::warn!(
            own_record_heard = self.mdns_heard,
            seeds = self.seeds,
            "no other member was found by mDNS. If there are some: Wi-Fi with client isolation, VLANs and Docker's \
             bridge networks keep multicast away; set member.seeds to the address of one other member"
        );
    }

    fn count(&mut self, now: Instant) {
        let gossip = *self.gossip.counters();
        let mdns = self.mdns_state();
        let counters = Counters { gossip, mdns, last_turn: Some(now), ..self.counters };
        *self.shared.counters() = counters;
        self.shared.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// The count to tell of, when it has just become a power of two.
fn to_tell(before: u64, now: u64) -> Option<u64> {
    (before != now && now.is_power_of_two()).then_some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_as_often_as_its_count_has_bits() {
        let told: Vec<u64> = (0..1000).filter_map(|before| to_tell(before, before + 1)).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(to_tell(4, 4), None);
    }
}
