//! After each event: what foca did becomes outputs, its list is compared with ours, and a view goes out when there is
//! enough to see.

use std::collections::BTreeSet;

use foca::{OwnedNotification, State, Timer};
use lineside_wire::Standing;
use tokio::time::Instant;

use super::{Gossip, Leaving, Output, SEEN_EVERY, VIEW_EVERY};
use crate::view::{Change, Life};

impl Gossip {
    /// Turns what foca did into outputs, and compares its list with ours.
    pub(super) fn settle(&mut self, now: Instant) {
        let identity = self.swim.identity();
        if identity.epoch != self.own.epoch && self.leaving == Leaving::No {
            self.own.epoch = identity.epoch;
            self.outputs.push_back(Output::Renewed { epoch: identity.epoch });
            self.publisher.now();
            self.roster.set_own(&self.own, Standing::Alive, now);
            self.change = Change::Major;
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            if let Timer::ChangeSuspectToDown { member_id, .. } = &timer {
                // Foca sets it where a probe of ours failed, and nowhere else.
                self.counters.probes_failed += 1;
                self.health.probe_failed(member_id.node, now);
            }
            self.timers.set(now + after, timer);
        }
        self.take_health();
        while let Some((to, packet)) = self.runtime.to_send() {
            self.counters.sent += 1;
            self.outputs.push_back(Output::Send { to: to.node, address: to.address, packet });
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::Active => {
                    self.rejoin = None;
                    self.publisher.now(); // There is somebody to hear it.
                }
                OwnedNotification::Rejoin(_) => self.rejoin = Some(now),
                _ => {}
            }
        }
        self.compare(now);
        self.doubles.forget(now);
        let doubles = &self.doubles;
        self.change = self.change.max(self.roster.name_doubles(|node, at| doubles.of(node, at)));
        self.fetch(now);
        self.show(now);
        if self.leaving == Leaving::Done {
            self.outputs.push_back(Output::Left);
        }
    }

    /// Brings the roster up to foca's list.
    fn compare(&mut self, now: Instant) {
        let mut summaries = self.summaries.borrow_mut();
        let own = self.own.node;
        let mut listed = BTreeSet::new();
        for member in self.swim.iter_membership_state().filter(|member| member.id().node != own) {
            let identity = member.id();
            let life = match member.state() {
                State::Alive => Life::Alive,
                State::Suspect => Life::Suspect,
                State::Down => Life::Down,
            };
            listed.insert(identity.node);
            let was_active = self.roster.get(identity.node).is_some_and(|row| row.standing.is_present());
            let change = self.roster.set_life(identity, life, summaries.of(identity.node), now);
            self.change = self.change.max(change);
            if was_active && life == Life::Down {
                self.outputs.push_back(Output::Gone(identity.node));
            }
        }
        self.change = self.change.max(self.roster.retain(|node| listed.contains(&node)));
        if 2 * listed.len() + 16 < summaries.len() {
            summaries.retain(|node| listed.contains(&node));
        }
        self.fetches.retain(|node| listed.contains(&node));
    }

    fn fetch(&mut self, now: Instant) {
        if self.leaving != Leaving::No {
            return;
        }
        let summaries = self.summaries.borrow();
        for member in self.roster.others() {
            let lacks = self.roster.lacks_state(member.node, summaries.of(member.node));
            if lacks && self.fetches.ask(member.node, now) {
                self.outputs.push_back(Output::Fetch { node: member.node, address: member.address });
            }
        }
    }

    /// Gives out a new view when there is enough to see.
    fn show(&mut self, now: Instant) {
        let due = match (self.change, self.seen_changed) {
            (Change::Major, _) => true,
            (Change::Minor, _) => self.view_sent + VIEW_EVERY <= now,
            (Change::None, true) => self.view_sent + SEEN_EVERY <= now,
            (Change::None, false) => false,
        };
        if due {
            (self.change, self.seen_changed, self.view_sent) = (Change::None, false, now);
            self.outputs.push_back(Output::View(self.roster.snapshot()));
        }
    }
}
