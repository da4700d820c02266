//! Sequences, whose state a node keeps: each answer tells how often what was sent has run.
//!
//! A walker adds numbers to a sum that lies on a node. What was surely not run is sent again; where nobody knows, it
//! begins another sequence, as the documentation tells callers to, and some seconds later asks the old one for its sum:
//! it may have the number or not, but never twice.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use lineside_faults::ledger::Ended;
use lineside_wire::Executed;
use tokio::time::{Instant, sleep};

use super::{DEADLINE, GRACE, Request, Shared, Way};
use crate::{
    local::{Input, Question, Sequence, Told, Values},
    torture::tally::Promise,
};

/// Rest between two numbers.
const PAUSE: Duration = Duration::from_millis(150);
/// Numbers of a sequence; then another one is begun.
const LENGTH: u32 = 100;
/// How long the doubt is let be: what may still be under way has arrived, or never does. Above the longest stop of a
/// process and below the time after which a node forgets a sequence.
const LOOK_UP_AFTER: Duration = Duration::from_secs(15);
/// Sequences in doubt that are remembered.
const DOUBTS_MAX: usize = 64;
/// How long a gateway may be stopped before it begins with a request, whose deadline starts only then.
const STOPPED_MAX: Duration = Duration::from_secs(10);

/// A caller with a sequence.
pub(super) struct Walker {
    shared: Arc<Shared>,
    way: Way,
    gateway: usize,
    name: String,
    sequences: u64,
    place: Place,
    doubts: VecDeque<Doubt>,
}

/// Where a sequence is.
#[derive(Clone, Debug, Default, PartialEq)]
struct Place {
    id: String,
    /// Numbers that are in the sum.
    count: u32,
    sum: f32,
}

/// A number of which nobody knows whether it is in the sum.
#[derive(Clone, Debug, PartialEq)]
struct Doubt {
    place: Place,
    number: f32,
    due: Instant,
}

/// What a total says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// The number ran once.
    Once,
    /// It did not run.
    Never,
    /// It ran more than once.
    MoreThanOnce,
    /// No number of runs gives this.
    Nonsense,
}

fn says(total: f32, sum: f32, number: f32) -> Says {
    let times = (total - sum) / number;
    if times == 1.0 {
        Says::Once
    } else if times == 0.0 {
        Says::Never
    } else if 1.0 < times && times.fract() == 0.0 {
        Says::MoreThanOnce
    } else {
        Says::Nonsense
    }
}

impl Walker {
    /// A walker with a name that no other one has.
    pub(super) fn new(shared: Arc<Shared>, index: usize, seed: u64) -> Self {
        let way = [Way::HttpJson, Way::Quic, Way::HttpBinary][index % 3];
        let name = format!("{seed:x}-{index}");
        let mut walker = Self {
            shared,
            way,
            gateway: index % 2,
            name,
            sequences: 0,
            place: Place::default(),
            doubts: VecDeque::new(),
        };
        walker.begin_anew();
        walker
    }

    fn begin_anew(&mut self) {
        self.sequences += 1;
        self.place = Place { id: format!("{}-{}", self.name, self.sequences), ..Place::default() };
    }

    /// Adds numbers until there is enough, and clears up every doubt.
    pub(super) async fn walk(mut self) {
        let mut number = 0_u32;
        while !self.shared.enough.is_cancelled() {
            sleep(PAUSE).await;
            if self.doubts.front().is_some_and(|doubt| doubt.due <= Instant::now()) {
                self.look_up().await;
            }
            number += 1;
            // From 1 to 9, so that a sum tells which are in it, and stays exact.
            self.add((number % 9 + 1) as f32).await;
        }
        while !self.doubts.is_empty() {
            self.look_up().await;
        }
    }

    fn question(place: &Place, number: f32) -> Question {
        let sequence =
            Sequence { id: place.id.clone(), start: place.count == 0, end: LENGTH <= place.count + 1 };
        Question {
            model: "accumulate",
            inputs: vec![Input { name: "x", values: Values::Fp32(vec![number]) }],
            output: "total",
            sequence: Some(sequence),
        }
    }

    /// Longer than a stopped gateway and the cluster together may take: a state must not be asked for by two ways.
    fn within(left: Duration) -> Duration {
        STOPPED_MAX + left + GRACE
    }

    /// One number from the beginning of its request to the end.
    async fn add(&mut self, number: f32) {
        let shared = Arc::clone(&self.shared);
        let mut request = Request::begin(&shared, "sequence", Promise::Stateful);
        let ended = loop {
            let left = request.left();
            let question = Self::question(&self.place, number);
            let asked = shared.ask(self.way, self.gateway, &question, left, Self::within(left)).await;
            let ended = match asked {
                Ok(Told::Answer { values, node }) => {
                    break self.answered(number, &values, &shared.name(&node));
                }
                Ok(Told::Fault { code, executed: Executed::No, retryable: true }) => {
                    Ended::Refused { code, retryable: true }
                }
                Ok(Told::Fault { code, executed, retryable }) => {
                    self.refused(number, &code, executed);
                    break Ended::Refused { code, retryable };
                }
                Err(error) => {
                    self.doubt(number);
                    Ended::Lost { what: format!("sequence by {}: {error:#}", self.way.as_str()) }
                }
            };
            self.gateway = (self.gateway + 1) % shared.doors.len();
            if !request.again().await {
                break ended;
            }
        };
        request.end(ended);
    }

    fn answered(&mut self, number: f32, values: &[f32], node: &str) -> Ended {
        let total = values.first().copied().unwrap_or(f32::NAN);
        let Place { id, count, sum } = self.place.clone();
        let what = format!("{id} had {sum}, and has {total} after {number} more, as {node} says");
        let ended = match says(total, sum, number) {
            Says::Once => Ended::Answered { node: node.to_owned() },
            Says::MoreThanOnce => Ended::Twice { what },
            Says::Never | Says::Nonsense => Ended::Wrong { what },
        };
        if matches!(ended, Ended::Answered { .. }) && count + 1 < LENGTH {
            (self.place.count, self.place.sum) = (count + 1, total);
        } else {
            self.begin_anew();
        }
        ended
    }

    fn refused(&mut self, number: f32, code: &str, executed: Executed) {
        if code == "SEQUENCE_LOST" {
            self.begin_anew();
        } else if executed != Executed::No {
            self.doubt(number);
        }
    }

    /// Leaves the sequence as it is, to look at it later, and begins another.
    fn doubt(&mut self, number: f32) {
        // Of the first number of a sequence nothing could be told: it may begin again and again.
        if 0 < self.place.count && self.doubts.len() < DOUBTS_MAX {
            let due = Instant::now() + LOOK_UP_AFTER;
            self.doubts.push_back(Doubt { place: self.place.clone(), number, due });
        }
        self.begin_anew();
    }

    /// Asks the oldest sequence in doubt for its sum, by adding nothing to it.
    async fn look_up(&mut self) {
        let Some(Doubt { place, number, .. }) = self.doubts.pop_front() else { return };
        let shared = Arc::clone(&self.shared);
        let mut request = Request::begin(&shared, "look-up", Promise::Stateful);
        let mut gateway = self.gateway;
        let ended = loop {
            let question = Self::question(&place, 0.0);
            let left = request.left();
            let ended = match shared.ask(self.way, gateway, &question, left, left + GRACE).await {
                Ok(Told::Answer { values, node }) => {
                    shared.tally().looked_up += 1;
                    let total = values.first().copied().unwrap_or(f32::NAN);
                    let what = format!("{} had {}, and has {total} after {number} once", place.id, place.sum);
                    break match says(total, place.sum, number) {
                        Says::Once | Says::Never => Ended::Answered { node: shared.name(&node) },
                        Says::MoreThanOnce => Ended::Twice { what },
                        Says::Nonsense => Ended::Wrong { what },
                    };
                }
                Ok(Told::Fault { code, retryable, .. }) => {
                    let refused = Ended::Refused { code, retryable };
                    if !retryable {
                        break refused;
                    }
                    refused
                }
                Err(error) => Ended::Lost { what: format!("look-up by {}: {error:#}", self.way.as_str()) },
            };
            gateway = (gateway + 1) % shared.doors.len();
            if !request.again().await {
                break ended;
            }
        };
        request.end(ended);
    }
}

const _: () =
    assert!(STOPPED_MAX.as_secs() < LOOK_UP_AFTER.as_secs() && DEADLINE.as_secs() < LOOK_UP_AFTER.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_says_how_often_a_number_ran() {
        assert_eq!(says(12.0, 5.0, 7.0), Says::Once);
        assert_eq!(says(5.0, 5.0, 7.0), Says::Never);
        assert_eq!(says(19.0, 5.0, 7.0), Says::MoreThanOnce);
        for nonsense in [11.0, 4.0, f32::NAN] {
            assert_eq!(says(nonsense, 5.0, 7.0), Says::Nonsense);
        }
    }
}
