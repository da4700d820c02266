//! The load: requests that come when they are due, whether or not the ones before have their answers.
//!
//! A latency counts from the moment at which a request was due, so that a stall is felt by all that came due in it. What
//! is under way has a bound, as a caller's connections have; what is due beyond it waits here, and its wait counts.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use lineside_client::Client;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::local::{Body, HttpCaller, Question, Told, ask_http, ask_quic};

/// What each request may take at the gateway.
const DEADLINE: Duration = Duration::from_secs(5);
/// How much longer it is waited for: then it is lost.
const GRACE: Duration = Duration::from_secs(2);
/// How long is waited at the end for what was due and not sent yet.
const LATE_MAX: Duration = Duration::from_secs(10);
/// Requests under way at one time: two nodes have room for them, each with 64 that may wait, while the third is dead.
const UNDER_WAY_MAX: usize = 96;
/// How exactly the timer wakes: what became due in this time counts from now on, and not as late.
const GRAIN: Duration = Duration::from_millis(2);
/// How often it does.
const TICK: Duration = Duration::from_millis(1);
/// Longest latency that a histogram tells apart.
const LATENCY_US_MAX: u64 = 60_000_000;

/// By which door requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// HTTP/1.1 with kept connections and binary tensors
    Http,
    /// QUIC, with the client library
    Quic,
}

/// The door.
pub(super) enum Door {
    /// HTTP at this address.
    Http(SocketAddr),
    /// QUIC.
    Quic(Client),
}

/// What became of the requests of a step.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// They came due.
    pub(super) due: u64,
    /// Right answers.
    pub(super) answers: u64,
    /// Right answers while requests came due.
    pub(super) answers_in_time: u64,
    /// Everything else, by what it was.
    pub(super) errors: BTreeMap<String, u64>,
    /// They were never sent: too many were under way for too long.
    pub(super) unsent: u64,
    /// Latencies of the answers, in microseconds, from the moment at which they were due.
    pub(super) latencies: Histogram<u64>,
    /// How long they came due.
    pub(super) length: Duration,
}

impl Run {
    fn new(length: Duration) -> Self {
        let latencies =
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants and valid");
        Self { due: 0, answers: 0, answers_in_time: 0, errors: BTreeMap::new(), unsent: 0, latencies, length }
    }

    /// Requests without a right answer.
    pub(super) fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Answers per second while requests came due.
    pub(super) fn reached(&self) -> f64 {
        // Counters stay far below 2^53.
        self.answers_in_time as f64 / self.length.as_secs_f64()
    }

    fn ended(&mut self, ended: Result<(), String>, due: Instant, end: Instant) {
        match ended {
            Ok(()) => {
                let now = Instant::now();
                self.answers += 1;
                self.answers_in_time += u64::from(now <= end);
                let micros = u64::try_from(now.saturating_duration_since(due).as_micros());
                self.latencies.saturating_record(micros.unwrap_or(LATENCY_US_MAX).max(1));
            }
            Err(what) => *self.errors.entry(what).or_default() += 1,
        }
    }
}

/// When requests are due. Pure.
#[derive(Clone, Copy, Debug)]
struct Timetable {
    start: Instant,
    rate: u32,
    length: Duration,
}

impl Timetable {
    fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / f64::from(self.rate))
    }

    /// Since when a request that is due is waiting: the timer's grain does not count.
    fn since(&self, number: u64, now: Instant) -> Option<Instant> {
        let due = self.due(number);
        let is_due = due <= now && due < self.end();
        is_due.then(|| if now.duration_since(due) <= GRAIN { now } else { due })
    }

    fn end(&self) -> Instant {
        self.start + self.length
    }
}

/// Sends requests at a rate, and waits for their ends.
pub(super) async fn run(door: &Door, rate: u32, length: Duration) -> Run {
    let table = Timetable { start: Instant::now(), rate, length };
    let template = Question::sum([0.0; 2], [0.0; 2]).binary();
    let (mut run, mut waiting, mut under_way) = (Run::new(length), VecDeque::new(), FuturesUnordered::new());
    let mut idle: Vec<HttpCaller> = Vec::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        while let Some(since) = table.since(run.due, now) {
            waiting.push_back((run.due, since));
            run.due += 1;
        }
        while under_way.len() < UNDER_WAY_MAX
            && let Some((number, since)) = waiting.pop_front()
        {
            let caller = match door {
                Door::Http(address) => Some(idle.pop().unwrap_or_else(|| HttpCaller::new(*address))),
                Door::Quic(_) => None,
            };
            let template = &template;
            under_way.push(async move {
                let (ended, caller) = ask(door, caller, number, template).await;
                (ended, caller, since)
            });
        }
        if table.end() <= now && waiting.is_empty() && under_way.is_empty() {
            break;
        }
        if table.end() + LATE_MAX <= now {
            run.unsent += waiting.drain(..).len() as u64;
        }
        tokio::select! {
            _ = ticks.tick() => {}
            Some((ended, caller, since)) = under_way.next() => {
                run.ended(ended, since, table.end());
                idle.extend(caller);
            }
        }
    }
    run
}

/// One request, with numbers of its own. A caller comes back when its connection is good for another.
async fn ask(
    door: &Door,
    caller: Option<HttpCaller>,
    number: u64,
    template: &Body,
) -> (Result<(), String>, Option<HttpCaller>) {
    // Below 2^22, so that sums are exact.
    let low = (number & 0x3f_ffff) as u32 as f32;
    let (a, b) = ([low, 1.0], [2.0, low]);
    let question = Question::sum(a, b);
    let (mut caller, within) = (caller, DEADLINE + GRACE);
    let asked = match (door, &mut caller) {
        (Door::Quic(client), _) => timeout(within, ask_quic(client, &question, DEADLINE)).await,
        (Door::Http(_), Some(caller)) => {
            let body = with_numbers(template, [a, b]);
            timeout(within, ask_http(caller, &question, &body, DEADLINE)).await
        }
        (Door::Http(_), None) => return (Err("no connection".to_owned()), None),
    };
    match asked {
        Ok(Ok(Told::Answer { values, .. })) if values == [a[0] + b[0], a[1] + b[1]] => (Ok(()), caller),
        Ok(Ok(Told::Answer { .. })) => (Err("WRONG".to_owned()), caller),
        Ok(Ok(Told::Fault { code, .. })) => (Err(code), caller),
        Ok(Err(error)) => (Err(format!("LOST: {error:#}")), None),
        Err(_) => (Err("LOST: no answer in time".to_owned()), None),
    }
}

/// A binary body like another one, with these numbers in its tensors: its JSON need not be written anew.
fn with_numbers(template: &Body, inputs: [[f32; 2]; 2]) -> Body {
    let head = template.json_length.unwrap_or_default();
    let mut bytes = Vec::with_capacity(template.bytes.len());
    bytes.extend_from_slice(&template.bytes[..head]);
    bytes.extend(inputs.iter().flatten().flat_map(|value| value.to_le_bytes()));
    Body { bytes: bytes.into(), json_length: template.json_length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_their_rate_and_count_from_then() {
        let start = Instant::now();
        let table = Timetable { start, rate: 1_000, length: Duration::from_secs(1) };
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(table.since(0, start), Some(start));
        assert_eq!(table.since(5, at(4)), None);
        // The timer wakes a little late; whatever is later is late.
        assert_eq!(table.since(5, at(6)), Some(at(6)));
        assert_eq!(table.since(5, at(300)), Some(at(5)));
        assert_eq!(table.since(1_000, at(2_000)), None);
    }

    #[test]
    fn a_body_with_other_numbers_is_the_one_that_would_have_been_written() {
        let template = Question::sum([0.0; 2], [0.0; 2]).binary();
        let (a, b) = ([5.0, 1.0], [2.0, 7.0]);
        assert_eq!(with_numbers(&template, [a, b]), Question::sum(a, b).binary());
    }
}
