//! What is true of the cluster, as nobody in it can know, and whether everybody has come to believe it.

use std::{collections::BTreeMap, time::Duration};

use lineside_client::Wanted;
use lineside_discovery::Member;
use lineside_wire::{NodeId, Standing};
use tokio::time::Instant;

use super::{
    super::{
        ledger::{Broken, Circumstances, Ended, Record},
        node::{Manner, Node},
        plan::Trouble,
    },
    HEALED_WITHIN, Happening, LOOK_EVERY, PROVING, Phase, World, node,
};

/// After a trouble those who met with it take so long until a call goes there as if nothing had been: connections time
/// out, views are passed on.
const SETTLED: Duration = Duration::from_secs(3);
/// A node that said "busy" is full for so long: the longest time that a balancer believes it, and a little.
const FULL_FOR: Duration = Duration::from_millis(1_500);

impl World {
    /// The nodes that could answer a call at this gateway if it began now, whatever happens to the others: nothing is wrong
    /// with them or with the way to them, gossip says so, and the gateway has no reason of its own against them. With
    /// `since` only those of which all this was true from then on.
    pub(super) fn good(&self, gateway: u8, since: Option<Instant>) -> Vec<u8> {
        let Some(own) = self.gateways.get(&gateway) else { return Vec::new() };
        let settled = since.unwrap_or(self.now - SETTLED);
        let well = |at: Option<Instant>| at.is_some_and(|at| at <= settled);
        if !well(self.weather_well_since) {
            return Vec::new();
        }
        let statistics = own.pool.balancer().statistics(self.now.into_std());
        let sky = self.sky.borrow();
        let is_good = |(n, process): &(&u8, &Node)| {
            let ways = [(gateway, **n), (**n, gateway)];
            let open = |way: &(u8, u8)| {
                !sky.closed.contains(way) && self.opened.get(way).is_none_or(|at| *at <= settled)
            };
            let last = |list: &BTreeMap<u8, Instant>| list.get(*n).copied();
            let works = well(process.well_since)
                && process.full_at.is_none_or(|at| at + FULL_FOR <= settled.max(self.now - FULL_FOR));
            let shown = last(&own.closed).is_none_or(|at| at < settled);
            let trusted =
                last(&own.failed).is_none_or(|at| last(&own.answered).is_some_and(|good| at < good));
            let barred = statistics.get(&node(**n)).is_none_or(|peer| peer.barred_for.is_some());
            works && ways.iter().all(open) && shown && trusted && (since.is_some() || !barred)
        };
        self.nodes.iter().filter(is_good).map(|(n, _)| *n).collect()
    }

    /// Judges a call that has ended.
    pub(super) fn judge(&mut self, place: usize) {
        let record = &self.records[place];
        let at = self.circumstances(place, record);
        let Err(Broken(what)) = record.check(&at) else { return };
        let bad =
            at.bad_since.iter().map(|(n, since)| (*n, since.map(|at| at - self.start))).collect::<Vec<_>>();
        let what =
            format!("request {place} {what}; bad nodes and since when: {bad:?}; {}", self.told(record));
        self.breaks(Broken(what));
    }

    fn circumstances(&self, place: usize, record: &Record) -> Circumstances {
        let still = self.good(record.gateway, Some(record.issued - SETTLED));
        let good: Vec<u8> = record.good.iter().copied().filter(|n| still.contains(n)).collect();
        let refused = self.gateways.get(&record.gateway).map(|gateway| gateway.pool.counts().refused);
        let spent = refused.is_none_or(|refused| self.refused_before[place] < refused);
        let full = |node: &&Node| node.full_at.is_some_and(|at| self.now < at + FULL_FOR);
        let crowded = self.nodes.len() < 2 * self.nodes.values().filter(full).count();
        let bad = self.nodes.keys().filter(|n| !good.contains(n));
        let bad_since = bad.map(|n| (*n, self.bad_since(record.gateway, *n, record.issued))).collect();
        Circumstances { good, spent, crowded, bad_since }
    }

    /// Since when a node gives no sign of life; `None`: it does, only its work is not what it should be.
    fn bad_since(&self, gateway: u8, n: u8, issued: Instant) -> Option<Instant> {
        let (now, from) = (self.now - self.start, issued - self.start);
        let silent = |trouble: &Trouble| match trouble {
            Trouble::Pause(m) | Trouble::Crash(m) | Trouble::Amnesia(m) => *m == n,
            Trouble::Parted(far) => far.contains(&n) != far.contains(&gateway),
            Trouble::OneWay { from, to } => [(gateway, n), (n, gateway)].contains(&(*from, *to)),
            _ => false,
        };
        let spells =
            self.plan.spells.iter().filter(|spell| spell.begins <= now && from <= spell.ends + SETTLED);
        let slow = |trouble: &Trouble| match trouble {
            Trouble::Manner(m, manner) => *m == n && matches!(manner, Manner::Hangs | Manner::Slow(_)),
            Trouble::Drain(m) => *m == n,
            Trouble::Weather(_) => true,
            // What the node has sent is not acknowledged, so it sends it again: signs of life, though it hears nothing.
            Trouble::OneWay { from, to } => (*from, *to) == (gateway, n),
            _ => false,
        };
        if spells.clone().any(|spell| slow(&spell.trouble)) {
            return None;
        }
        let begun = spells.filter(|spell| silent(&spell.trouble)).map(|spell| self.start + spell.begins);
        Some(begun.max().unwrap_or(self.start))
    }

    fn told(&self, record: &Record) -> String {
        let at = |at: Instant| (at - self.start).as_secs_f64();
        let tries: Vec<String> =
            record.tries.iter().map(|a| format!("node {} at {:.3}: {:?}", a.node, at(a.at), a.end)).collect();
        format!(
            "issued at {:.3} at gateway {}, deadline {:.3}, tries {tries:?}, runs {:?}",
            at(record.issued),
            record.gateway,
            at(record.deadline),
            record.runs.iter().map(|run| (run.node, run.life)).collect::<Vec<_>>()
        )
    }

    /// Looks around: what should have ended, loads, who leaves, and whether all is whole again.
    pub(super) fn look(&mut self) {
        let now = self.now;
        let late =
            self.open.iter().find(|place| self.records[**place].latest_end() + LOOK_EVERY < now).copied();
        if let Some(place) = late {
            let what = format!("request {place} did not end; {}", self.told(&self.records[place]));
            self.breaks(Broken(what));
        }
        self.drop_silent();
        let loads: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.up && !node.paused)
            .map(|(n, node)| (*n, node.load()))
            .collect();
        for (n, load) in loads {
            if self.floor.own(n).load != load {
                self.floor.change(n, |own| own.load = load);
            }
        }
        self.look_at_drains();
        self.go_on();
        self.set(now + LOOK_EVERY, Happening::Look);
    }

    /// From trouble to the end.
    fn go_on(&mut self) {
        let (now, calm_at) = (self.now, self.start + self.plan.calm_at);
        match self.phase {
            Phase::Troubled if calm_at <= now => {
                self.note(|| "CALM: no trouble any more".to_owned());
                self.phase = Phase::Healing;
            }
            Phase::Healing => match self.not_whole() {
                None => {
                    self.healed = now - calm_at;
                    self.note(|| "WHOLE".to_owned());
                    self.nodes.values_mut().for_each(|node| node.runs = 0);
                    self.phase = Phase::Proving(now);
                }
                Some(what) if calm_at + HEALED_WITHIN < now => {
                    self.breaks(Broken(format!(
                        "not whole within {HEALED_WITHIN:?} after the last trouble: {what}"
                    )));
                }
                Some(_) => {}
            },
            Phase::Proving(since) if since + PROVING <= now => {
                if let Some(what) = self.not_whole() {
                    self.breaks(Broken(format!("was whole, and is not any more: {what}")));
                }
                if let Some(what) = self.nobody_calls() {
                    self.breaks(Broken(what));
                }
                self.phase = Phase::Ending;
            }
            Phase::Troubled | Phase::Proving(_) | Phase::Ending => {}
        }
    }

    /// What is still amiss after the last trouble.
    fn not_whole(&self) -> Option<String> {
        let before = |place: &&usize| self.records[**place].issued < self.start + self.plan.calm_at;
        if let Some(place) = self.open.iter().find(before) {
            return Some(format!("request {place} is still under way"));
        }
        for seer in 1..=self.plan.members() {
            let view = self.floor.view(seer);
            for of in 1..=self.plan.members() {
                let is_right = |member: &Member| {
                    let own = self.floor.own(of);
                    let usable = member.standing == Standing::Alive && member.is_usable();
                    usable && (member.epoch == own.epoch) && member.address == own.address
                };
                match view.member(node(of)) {
                    None => return Some(format!("{seer} does not know {of}")),
                    Some(member) if !is_right(member) => {
                        return Some(format!(
                            "{seer} sees {of} as {:?}, epoch {} of {}, usable {}",
                            member.standing,
                            member.epoch,
                            self.floor.own(of).epoch,
                            member.is_usable()
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        for (n, gateway) in &self.gateways {
            let statistics = gateway.pool.balancer().statistics(self.now.into_std());
            let barred = statistics.iter().find(|(_, peer)| peer.barred_for.is_some());
            if let Some((peer, statistics)) = barred {
                return Some(format!(
                    "{n} bars {} for {:?}, and has barred it so often: {:?}",
                    super::number(*peer),
                    statistics.barred_for,
                    statistics.ejections
                ));
            }
        }
        None
    }

    /// Which node no gateway would call, were it the only one that is left.
    fn nobody_calls(&self) -> Option<String> {
        let wanted = "add".parse().expect("a model name");
        for (n, gateway) in &self.gateways {
            for place in self.nodes.keys() {
                let others: Vec<NodeId> =
                    self.nodes.keys().filter(|other| *other != place).map(|n| node(*n)).collect();
                let lease =
                    gateway.pool.balancer().lease(Wanted::Model(&wanted, None), &others, self.now.into_std());
                if lease.is_err() {
                    return Some(format!("gateway {n} would not call node {place}: {lease:?}"));
                }
            }
        }
        None
    }
}

impl Record {
    pub(super) const fn is_answered(&self) -> bool {
        matches!(&self.end, Some((_, Ended::Answer { .. })))
    }
}
