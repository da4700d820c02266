//! Breaks and mends what the schedule says, and sees that enough is whole before more is broken.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lineside_client::Client;
use lineside_faults::relay::{Relay, Weather};
use lineside_wire::{Empty, Role, method};
use rustix::process::Signal;
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    load::Shared,
    schedule::{Fault, Kind, NODES, Schedule, Step},
};
use crate::{
    exit::{Exit, Failure, OrFail as _},
    local::{Floor, LOOK_EVERY, members_at, serving_of},
    output::Progress,
};

/// How long members that should be whole may take to be so: a node that comes back loads its models on a machine whose
/// cores are busy.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How long a member may take to end after SIGTERM: what it finishes has at most the members' `drain_within`.
const LEAVE_WITHIN: Duration = Duration::from_secs(40);
/// How often the step on the terminal changes.
const STEP_EVERY: Duration = Duration::from_millis(250);
/// A delay that is worth a line.
const TOLD_FROM: Duration = Duration::from_secs(2);

/// Who breaks.
pub(super) struct Breaker<'a> {
    /// The members.
    pub(super) floor: &'a mut Floor,
    /// The network before each.
    pub(super) relays: &'a BTreeMap<&'static str, Relay>,
    /// Gives an operator's orders.
    pub(super) admin: &'a Client,
    /// What suffers.
    pub(super) load: Arc<Shared>,
    /// Members that are broken now.
    pub(super) broken: BTreeSet<&'static str>,
}

impl Breaker<'_> {
    /// Goes through a schedule. When something has to be waited for, all that follows is later by as much.
    ///
    /// # Errors
    /// A member ended by itself, or does not come back.
    pub(super) async fn run(&mut self, schedule: &Schedule, progress: &mut Progress) -> Result<(), Failure> {
        let mut start = Instant::now();
        for (at, step) in schedule.steps() {
            self.watch(start + at, progress).await;
            match step {
                Step::Break(index) => {
                    let asked = Instant::now();
                    self.wait_for_the_whole(progress).await?;
                    let waited = asked.elapsed();
                    start += waited;
                    if TOLD_FROM <= waited {
                        progress.stage(format_args!(
                            "waited {:.1} s for enough to be whole",
                            waited.as_secs_f64()
                        ));
                    }
                    let fault = &schedule.faults[index];
                    progress.stage(format_args!(
                        "{fault} for {:.1} s; {} answers, {} under way",
                        fault.lasts.as_secs_f64(),
                        self.load.answers(),
                        self.load.ledger().open()
                    ));
                    self.breaks(fault).await?;
                }
                Step::Mend(index) => self.mend(&schedule.faults[index], progress).await?,
            }
        }
        self.watch(start + schedule.length, progress).await;
        self.wait_for_the_whole(progress).await
    }

    /// Waits until a moment, and says how far the load is.
    async fn watch(&self, until: Instant, progress: &mut Progress) {
        while Instant::now() < until {
            let ledger = self.load.ledger();
            progress.step(format_args!("{} answers, {} under way", self.load.answers(), ledger.open()));
            sleep_until(until.min(Instant::now() + STEP_EVERY)).await;
        }
    }

    async fn breaks(&mut self, fault: &Fault) -> Result<(), Failure> {
        // Before it is done: what is sent meanwhile is sent into it.
        let now = Instant::now();
        self.load.tally().breaks(fault.kind, now);
        self.load.ledger().fault(fault.to_string(), now);
        self.broken.extend(fault.member);
        let member = fault.member.unwrap_or_default();
        match fault.kind {
            Kind::Kill => self.floor.kill(member).await,
            Kind::Pause => self.signal(member, Signal::STOP),
            Kind::Restart => self.signal(member, Signal::TERM),
            Kind::Cordon => self.order(member, method::MEMBER_CORDON).await?,
            Kind::Lossy | Kind::Slow | Kind::Deaf | Kind::Mute | Kind::Cut => {
                let (towards, back) = weather(fault);
                self.relays[member].weather(towards, back);
            }
            Kind::Burst => self.load.burst(true),
            Kind::HangUps => self.load.hang_up(true),
        }
        Ok(())
    }

    async fn mend(&mut self, fault: &Fault, progress: &mut Progress) -> Result<(), Failure> {
        let member = fault.member.unwrap_or_default();
        match fault.kind {
            Kind::Kill => self.floor.relaunch(member)?,
            Kind::Pause => self.signal(member, Signal::CONT),
            Kind::Restart => {
                self.left(member, progress).await;
                self.floor.relaunch(member)?;
            }
            Kind::Cordon => self.order(member, method::MEMBER_UNDRAIN).await?,
            Kind::Lossy | Kind::Slow | Kind::Deaf | Kind::Mute | Kind::Cut => {
                self.relays[member].weather(Weather::FAIR, Weather::FAIR);
            }
            Kind::Burst => self.load.burst(false),
            Kind::HangUps => self.load.hang_up(false),
        }
        if let Some(member) = fault.member {
            self.broken.remove(member);
        }
        // With a slow or lossy link nobody was away.
        let node = fault.member.filter(|name| NODES.contains(name));
        let was_away = node.filter(|_| !matches!(fault.kind, Kind::Lossy | Kind::Slow));
        self.load.tally().mended(was_away, Instant::now());
        Ok(())
    }

    fn signal(&self, member: &str, signal: Signal) {
        if let Some(process) = self.floor.member(member) {
            process.signal(signal);
        }
    }

    async fn order(&self, member: &str, order: &'static str) -> Result<(), Failure> {
        let Some(addresses) = self.floor.addresses(member) else { return Ok(()) };
        let told = self.admin.ask_member::<_, IgnoredAny>(addresses.node, order, &Empty {}).await;
        told.map(drop).or_fail(Exit::Failure, format!("{member} does not follow {order}"), "")
    }

    /// Waits for the end of a member that was told to end. One that does not, or not in order, is a fault of its own.
    async fn left(&mut self, member: &'static str, progress: &mut Progress) {
        let is_gone = self.floor.gone(member, Instant::now() + LEAVE_WITHIN).await;
        let status = self.floor.ended(member);
        if !is_gone {
            self.floor.kill(member).await;
        }
        if !status.is_some_and(|status| status.success()) {
            let how = status.map_or_else(
                || format!("{member} has not ended {LEAVE_WITHIN:?} after SIGTERM"),
                |status| format!("{member} ended after SIGTERM with {status}"),
            );
            progress.stage(&how);
            let mut tally = self.load.tally();
            tally.rough_ends += 1;
            tally.complain(how);
        }
    }

    /// Waits until every member that is not broken now works: gateways are ready, nodes serve every model.
    async fn wait_for_the_whole(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let until = Instant::now() + WHOLE_WITHIN;
        loop {
            self.floor.check_all_but(&self.broken)?;
            let Some(missing) = self.missing().await else { return Ok(()) };
            if until <= Instant::now() {
                let what = format!("{missing} does not come back within {WHOLE_WITHIN:?}");
                return Err(self.floor.not_formed(&what).await);
            }
            progress.step(format_args!("waiting for {missing}"));
            sleep(LOOK_EVERY).await;
        }
    }

    /// A member that should be whole and is not, as each whole gateway sees it.
    async fn missing(&self) -> Option<&'static str> {
        let is_whole = |name: &&'static str| !self.broken.contains(*name);
        let models = self.floor.home().plan().models.len();
        for gateway in self.floor.names(Role::Gateway).filter(is_whole) {
            if !self.floor.is_ready(gateway).await {
                return Some(gateway);
            }
            let http = self.floor.doors(gateway).ok()?.1;
            let Some(list) = members_at(http).await else { return Some(gateway) };
            let serve = serving_of(&list, models);
            if let Some(node) =
                self.floor.names(Role::Node).filter(is_whole).find(|node| !serve.contains(node))
            {
                return Some(node);
            }
        }
        None
    }
}

/// What a fault of the network does to packets towards the member, and back from it.
fn weather(fault: &Fault) -> (Weather, Weather) {
    let both = |weather| (weather, weather);
    match fault.kind {
        Kind::Lossy => both(Weather {
            loss: f64::from(fault.strength) / 100.0,
            duplicates: 0.05,
            jitter: Duration::from_millis(5),
            ..Weather::FAIR
        }),
        Kind::Slow => both(Weather {
            delay: Duration::from_millis(fault.strength.into()),
            jitter: Duration::from_millis((fault.strength / 4).into()),
            ..Weather::FAIR
        }),
        Kind::Deaf => (Weather::CUT, Weather::FAIR),
        Kind::Mute => (Weather::FAIR, Weather::CUT),
        Kind::Cut => both(Weather::CUT),
        Kind::Kill | Kind::Pause | Kind::Restart | Kind::Cordon | Kind::Burst | Kind::HangUps => {
            both(Weather::FAIR)
        }
    }
}
