//! What goes wrong, and how it ends.

use std::time::Duration;

use super::{
    super::{
        ledger::Ended,
        node::Manner,
        plan::Trouble,
        sky::Faults,
        wires::{Load, Packet},
    },
    Happening, World,
};

/// A liar repeats itself.
const SLANDER_EVERY: Duration = Duration::from_millis(300);
/// A process that was asked to end has this long for what it has to do.
const DRAIN_MAX: Duration = Duration::from_secs(3);

impl World {
    pub(super) fn begins(&mut self, place: usize) {
        let trouble = self.plan.spells[place].trouble.clone();
        self.note(|| format!("BEGINS {trouble:?}"));
        match trouble {
            Trouble::Weather(faults) => {
                self.sky.borrow_mut().faults = faults;
                self.weather_well_since = None;
            }
            Trouble::Parted(far) => {
                let members = 1..=self.plan.members();
                let pairs = members.clone().flat_map(|a| members.clone().map(move |b| (a, b)));
                let cut = pairs.filter(|(a, b)| far.contains(a) != far.contains(b));
                self.sky.borrow_mut().closed.extend(cut);
            }
            Trouble::OneWay { from, to } => drop(self.sky.borrow_mut().closed.insert((from, to))),
            Trouble::Pause(n) => {
                self.unwell(n);
                self.floor.pause(n);
                if let Some(node) = self.nodes.get_mut(&n) {
                    node.paused = true;
                }
            }
            Trouble::Crash(n) | Trouble::Amnesia(n) => self.crash(n),
            Trouble::Manner(n, manner) => {
                self.unwell(n);
                if let Some(node) = self.nodes.get_mut(&n) {
                    node.manner = manner;
                }
            }
            Trouble::Drain(n) => {
                self.unwell(n);
                if let Some(node) = self.nodes.get_mut(&n) {
                    node.draining = true;
                }
                self.floor.change(n, |own| own.draining = true);
            }
            Trouble::Slander { .. } => self.slander(place),
            Trouble::Rush(times) => self.rush = times,
        }
    }

    pub(super) fn ends(&mut self, place: usize) {
        let trouble = self.plan.spells[place].trouble.clone();
        self.note(|| format!("ENDS {trouble:?}"));
        match trouble {
            Trouble::Weather(_) => {
                self.sky.borrow_mut().faults = Faults::default();
                self.weather_well_since = Some(self.now);
            }
            Trouble::Parted(_) | Trouble::OneWay { .. } => self.reopen(place),
            Trouble::Pause(n) => {
                self.floor.resume(n);
                if let Some(node) = self.nodes.get_mut(&n) {
                    node.paused = false;
                    self.release(n);
                }
                self.well(n);
            }
            Trouble::Crash(n) => self.restart(n, false),
            Trouble::Amnesia(n) => self.restart(n, true),
            Trouble::Manner(n, _) => self.mended(n),
            Trouble::Drain(n) => {
                if !self.down.contains(&n) {
                    self.stop(n);
                }
                self.restart(n, false);
            }
            Trouble::Slander { .. } => {}
            Trouble::Rush(_) => self.rush = 1,
        }
    }

    /// Opens the ways that a trouble closed, unless another still closes them.
    fn reopen(&mut self, place: usize) {
        let now = self.now - self.start;
        let others: Vec<Trouble> = self
            .plan
            .spells
            .iter()
            .enumerate()
            .filter(|(other, spell)| *other != place && spell.begins <= now && now < spell.ends)
            .map(|(_, spell)| spell.trouble.clone())
            .collect();
        let closes = |trouble: &Trouble, (a, b): (u8, u8)| match trouble {
            Trouble::Parted(far) => far.contains(&a) != far.contains(&b),
            Trouble::OneWay { from, to } => (*from, *to) == (a, b),
            _ => false,
        };
        let mut sky = self.sky.borrow_mut();
        let (still, opened) = std::mem::take(&mut sky.closed)
            .into_iter()
            .partition(|way| others.iter().any(|trouble| closes(trouble, *way)));
        sky.closed = still;
        let opened: std::collections::BTreeSet<(u8, u8)> = opened;
        self.opened.extend(opened.into_iter().map(|way| (way, self.now)));
    }

    fn unwell(&mut self, n: u8) {
        if let Some(node) = self.nodes.get_mut(&n) {
            node.well_since = None;
        }
    }

    fn well(&mut self, n: u8) {
        if let Some(node) = self.nodes.get_mut(&n) {
            node.well_since = Some(self.now);
        }
    }

    /// A node serves as it should again: what hung there comes to its end.
    fn mended(&mut self, n: u8) {
        let Some(node) = self.nodes.get_mut(&n) else { return };
        let (hung, life) = (node.manner == Manner::Hangs, node.life);
        node.manner = Manner::Works;
        let calls: Vec<u64> = node.running.keys().copied().filter(|_| hung).collect();
        for call in calls {
            self.set(self.now, Happening::RunEnds { node: n, life, call });
        }
        self.well(n);
    }

    fn crash(&mut self, n: u8) {
        self.down.insert(n);
        self.floor.kill(n);
        if let Some(node) = self.nodes.get_mut(&n) {
            (node.up, node.well_since) = (false, None);
            node.forget();
        } else {
            self.end_gateway(n);
        }
    }

    fn end_gateway(&mut self, n: u8) {
        self.gateways.remove(&n);
        let ended: Vec<usize> =
            self.open.iter().copied().filter(|place| self.records[*place].gateway == n).collect();
        for place in ended {
            if let Some(handle) = self.handles.remove(&place) {
                handle.abort();
            }
            self.records[place].end = Some((self.now, Ended::GatewayDied));
            self.open.remove(&place);
            self.sequence_broke(place);
        }
        let gone = |gateway: &u8| *gateway == n;
        let conns: Vec<u64> =
            self.wires.conns.iter().filter(|((g, _), _)| gone(g)).map(|(_, conn)| conn.id).collect();
        self.wires.conns.retain(|(g, _), _| !gone(g));
        self.wires.rests.retain(|(g, _), _| !gone(g));
        self.wires.messages.retain(|_, message| !conns.contains(&message.conn));
        for place in self.nodes.keys() {
            self.mailbox.forget(n, super::node(*place));
        }
        self.calls.retain(|_, call| !gone(&call.gateway));
    }

    fn restart(&mut self, n: u8, forgetful: bool) {
        self.down.remove(&n);
        let now = self.now;
        self.floor.advance(now);
        if forgetful {
            let others: Vec<u8> = (1..=self.plan.members()).filter(|other| *other != n).collect();
            self.floor.start_with(n, self.first_state(n), &others);
        } else {
            self.floor.start_by_memory(n);
        }
        if let Some(node) = self.nodes.get_mut(&n) {
            node.restart();
            let load = node.load();
            self.well(n);
            self.floor.change(n, |own| own.load = load);
        } else {
            self.start_gateway(n);
        }
    }

    /// The end of a process in good order: its connections are closed with a word.
    fn stop(&mut self, n: u8) {
        let conns: Vec<(u64, u8)> = self
            .nodes
            .get(&n)
            .map(|node| node.conns.iter().map(|(id, (g, _))| (*id, *g)).collect())
            .unwrap_or_default();
        for (conn, gateway) in conns {
            let times = self.sky.borrow_mut().fly(n, gateway);
            for time in times {
                let packet = Packet { conn, from: n, to: gateway, load: Load::Reset };
                self.set(self.now + time, Happening::Arrives(packet));
            }
        }
        self.crash(n);
    }

    /// Leaves when the work is done, and ends when everybody was told.
    pub(super) fn look_at_drains(&mut self) {
        let since = |place: usize| self.start + self.plan.spells[place].begins;
        let draining: Vec<(u8, bool, bool)> = self
            .plan
            .spells
            .iter()
            .enumerate()
            .filter_map(|(place, spell)| match spell.trouble {
                Trouble::Drain(n) if self.nodes[&n].draining && !self.down.contains(&n) => {
                    let node = &self.nodes[&n];
                    let done = node.running.is_empty() && node.queue.is_empty();
                    let late = since(place) + DRAIN_MAX <= self.now;
                    Some((n, done || late, self.floor.has_left(n)))
                }
                _ => None,
            })
            .collect();
        for (n, may_leave, has_left) in draining {
            if has_left {
                self.note(|| format!("node {n} has left"));
                self.stop(n);
            } else if may_leave {
                self.floor.leave(n);
            }
        }
    }

    pub(super) fn slander(&mut self, place: usize) {
        let Some(spell) = self.plan.spells.get(place).cloned() else { return };
        let Trouble::Slander { by, about } = spell.trouble else { return };
        if self.start + spell.ends <= self.now {
            return;
        }
        let is_away = |n: u8| self.down.contains(&n) || self.nodes.get(&n).is_some_and(|node| node.paused);
        if !is_away(by) && !is_away(about) {
            for to in (1..=self.plan.members()).filter(|to| *to != by && !is_away(*to)) {
                self.floor.slander(by, to, about);
            }
        }
        self.set(self.now + SLANDER_EVERY, Happening::Slander(place));
    }
}
