//! Callers: single calls, and sequences whose calls come one after the other.

use std::{sync::Arc, time::Duration};

use lineside_client::{Budget, InferCall, Pool};
use lineside_wire::{CallContext, Executed, InferParams, PayloadBuilder};
use rand::RngExt;

use super::{
    super::{
        ledger::{Ended, Record},
        plan::Defect,
    },
    Finished, Happening, Phase, World, number,
};

/// Between the calls of a sequence.
const SEQUENCE_PAUSE: Duration = Duration::from_millis(120);
/// Calls of a sequence.
const SEQUENCE_MAX: u32 = 12;

impl World {
    /// A single call, and when the next comes.
    pub(super) fn issue_one(&mut self) {
        if self.phase == Phase::Ending {
            return;
        }
        let short = self.rng.random_bool(0.2);
        let within = if short { self.rng.random_range(30..400) } else { self.rng.random_range(1_500..3_000) };
        let value = self.rng.random_range(0..1_000_000);
        if let Some(gateway) = self.any_gateway() {
            self.issue(gateway, value, 2 * value, None, Duration::from_millis(within));
        }
        let chance: f64 = self.rng.random_range(0.000_1..1.0);
        let pause = -chance.ln() / (self.plan.rate * f64::from(self.rush));
        self.set(self.now + Duration::from_secs_f64(pause.min(2.0)), Happening::Issue);
    }

    fn any_gateway(&mut self) -> Option<u8> {
        let up: Vec<u8> = self.gateways.keys().copied().collect();
        (!up.is_empty()).then(|| up[self.rng.random_range(0..up.len())])
    }

    fn issue(
        &mut self,
        gateway: u8,
        value: i64,
        expected: i64,
        session: Option<(String, bool)>,
        within: Duration,
    ) -> usize {
        let (place, deadline) = (self.records.len(), self.now + within);
        let good = self.good(gateway, None);
        let must = matches!(self.phase, Phase::Proving(_))
            && session.is_none()
            && super::super::ledger::ENOUGH <= within;
        self.note(|| format!("request {place} at {gateway}, within {within:?}, good: {good:?}, {session:?}"));
        let call = InferCall {
            params: InferParams {
                model: "add".parse().expect("a model name"),
                version: None,
                inputs: Vec::new(),
                outputs: Vec::new(),
                parameters: Default::default(),
                task: None,
                classification: Default::default(),
            },
            payload: PayloadBuilder::new(),
            deadline,
            context: CallContext {
                idempotency_key: Some(place.to_string()),
                session: session.as_ref().map(|(name, _)| name.clone()),
                ..CallContext::default()
            },
        };
        self.records.push(Record {
            gateway,
            value,
            session,
            expected,
            issued: self.now,
            deadline,
            good,
            must,
            tries: Vec::new(),
            runs: Vec::new(),
            paid: 0,
            end: None,
        });
        self.open.insert(place);
        let loses = self.plan.defect == Some(Defect::LosesCalls);
        let Some(gateway) = self.gateways.get_mut(&gateway) else { return place };
        gateway.calls.push(self.now);
        self.refused_before.push(gateway.pool.counts().refused);
        let pool = match self.plan.defect {
            Some(Defect::NoBudget) => {
                let (own, budget) = (&gateway.pool, Arc::new(Budget::new(self.now.into_std())));
                Arc::new(Pool::new(own.transport().clone(), Arc::clone(own.balancer()), budget))
            }
            _ => Arc::clone(&gateway.pool),
        };
        let task = async move {
            let result = pool.infer(call).await;
            if loses && result.is_err() {
                std::future::pending::<()>().await;
            }
            (place, result, tokio::time::Instant::now())
        };
        self.handles.insert(place, self.tasks.spawn(task));
        place
    }

    /// The next call of a sequence; after a failure that may have changed its state it begins anew.
    pub(super) fn next_of_sequence(&mut self, of: usize) {
        if self.phase == Phase::Ending {
            return;
        }
        let Some(gateway) = self.any_gateway() else {
            return self.set(self.now + SEQUENCE_PAUSE, Happening::NextOfSequence(of));
        };
        let value = self.rng.random_range(1..1_000);
        let sequence = &mut self.sequences[of];
        let begins = !std::mem::replace(&mut sequence.begun, true);
        if begins {
            sequence.lives += 1;
            sequence.sum = 0;
        }
        let name = format!("{}/{}", sequence.name, sequence.lives);
        let expected = sequence.sum + value;
        let place = self.issue(gateway, value, expected, Some((name, begins)), Duration::from_secs(2));
        self.of_sequence.insert(place, of);
    }

    /// What follows for the sequence of a request that failed.
    pub(super) fn sequence_broke(&mut self, place: usize) {
        let Some(of) = self.of_sequence.remove(&place) else { return };
        self.sequences[of].begun = false;
        self.set(self.now + SEQUENCE_PAUSE, Happening::NextOfSequence(of));
    }

    fn sequence_goes_on(&mut self, place: usize, sum: i64) {
        let Some(of) = self.of_sequence.remove(&place) else { return };
        let sequence = &mut self.sequences[of];
        sequence.sum = sum;
        if i64::from(SEQUENCE_MAX) * 900 < sum {
            sequence.begun = false;
        }
        self.set(self.now + SEQUENCE_PAUSE, Happening::NextOfSequence(of));
    }

    /// A pool has brought a call to its end.
    pub(super) fn finished(&mut self, (place, result, at): Finished) {
        self.handles.remove(&place);
        if !self.open.remove(&place) {
            return;
        }
        // What it cancelled counts before it is judged.
        for post in self.mailbox.take() {
            self.posted(post);
        }
        let ended = match result {
            Ok(reply) => {
                let bytes = reply.payload.as_ref().try_into().unwrap_or_default();
                Ended::Answer { sum: i64::from_le_bytes(bytes), node: number(reply.report.node) }
            }
            Err(error) => Ended::Error { text: error.to_string(), executed: error.fault().executed },
        };
        self.note(|| format!("request {place} ended: {ended:?}"));
        self.records[place].end = Some((at, ended.clone()));
        self.judge(place);
        match ended {
            Ended::Answer { sum, .. } => self.sequence_goes_on(place, sum),
            Ended::Error { executed: Executed::No, .. } if !self.is_lost(place) => {
                // Nothing ran: the state is as it was, and so is the sum.
                let Some(of) = self.of_sequence.remove(&place) else { return };
                let began = self.records[place].session.as_ref().is_some_and(|(_, begins)| *begins);
                self.sequences[of].begun = !began;
                self.set(self.now + SEQUENCE_PAUSE, Happening::NextOfSequence(of));
            }
            Ended::Error { .. } | Ended::GatewayDied => self.sequence_broke(place),
        }
    }

    /// Whether a call of a sequence was told that its state is gone.
    fn is_lost(&self, place: usize) -> bool {
        matches!(&self.records[place].end, Some((_, Ended::Error { text, .. })) if text.contains("no state"))
    }
}
