//! Requests to models that keep nothing: they may be sent again and again.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use lineside_faults::ledger::Ended;
use tokio::time::{sleep, timeout};

use super::{DEADLINE, GRACE, Request, Shared, Way};
use crate::{
    local::{HttpCaller, Input, Question, Told, Values, ask_http},
    torture::tally::Promise,
};

/// How long a caller over HTTP waits for one gateway before it asks the other one.
const TRY_WITHIN: Duration = Duration::from_secs(3);

/// Rounds of the slow model that take some 40 ms of one core.
const ROUNDS: i64 = 1_000;
/// One request in so many is slow.
const SLOW_ONE_IN: u64 = 50;

/// How often a caller hangs up, while some do.
const HANG_UP_EVERY: Duration = Duration::from_millis(50);
/// When it does: while its request waits or runs.
const HANG_UP_AFTER: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(15),
    Duration::from_millis(40),
];

/// The numbers of a request and their sums, all of which FP32 holds exactly.
fn numbers(number: u64) -> ([f32; 2], [f32; 2], [f32; 2]) {
    // Below 2^22, so that sums stay below 2^24.
    let (low, high) = ((number & 0x3f_ffff) as u32 as f32, ((number >> 3) & 0xffff) as u32 as f32);
    ([low, high], [high, 0.5], [low + high, high + 0.5])
}

fn slow(a: [f32; 2], b: [f32; 2]) -> Question {
    let mut question = Question { model: "slow-add", ..Question::sum(a, b) };
    question.inputs.push(Input { name: "rounds", values: Values::Int64(vec![ROUNDS]) });
    question
}

/// A sum from its beginning to its end.
pub(super) async fn ask(shared: Arc<Shared>, number: u64) {
    let (a, b, sum) = numbers(number);
    let is_slow = number.is_multiple_of(SLOW_ONE_IN);
    let question = if is_slow { slow(a, b) } else { Question::sum(a, b) };
    let way = Way::ALL[(number % Way::ALL.len() as u64) as usize];
    let kind = if is_slow { "slow" } else { way.as_str() };
    let mut request = Request::begin(&shared, kind, Promise::Pure);
    let mut gateway = (number / Way::ALL.len() as u64 % 2) as usize;
    let ended = loop {
        let left = request.left();
        // The library changes the door by itself.
        let within = if way != Way::Quic && TRY_WITHIN < left { TRY_WITHIN } else { left + GRACE };
        let asked = shared.ask(way, gateway, &question, left, within).await;
        gateway = (gateway + 1) % shared.doors.len();
        let ended = match asked {
            Ok(Told::Answer { values, node }) if values == sum => {
                break Ended::Answered { node: shared.name(&node) };
            }
            Ok(Told::Answer { values, node }) => {
                let what = format!("{a:?} + {b:?} is not {values:?}, as {} says", shared.name(&node));
                break Ended::Wrong { what };
            }
            Ok(Told::Fault { code, retryable, .. }) => {
                let refused = Ended::Refused { code, retryable };
                if !retryable {
                    break refused;
                }
                refused
            }
            Err(error) => Ended::Lost { what: format!("{}: {error:#}", way.as_str()) },
        };
        if !request.again().await {
            break ended;
        }
    };
    request.end(ended);
}

/// Callers that go away in the middle of what they asked for, while some do.
pub(super) async fn hang_up(shared: Arc<Shared>) {
    let mut number = 0_usize;
    while !shared.enough.is_cancelled() {
        sleep(HANG_UP_EVERY).await;
        if !shared.hanging_up.load(Relaxed) {
            continue;
        }
        number += 1;
        let mut caller = HttpCaller::new(shared.doors[number % shared.doors.len()]);
        let question = slow([1.0, 2.0], [3.0, 4.0]);
        let after = HANG_UP_AFTER[number / 2 % HANG_UP_AFTER.len()];
        // Whatever came of it: the connection goes with the caller.
        drop(timeout(after, ask_http(&mut caller, &question, &question.json(), DEADLINE)).await);
        shared.tally().hung_up += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_numbers_of_its_own_and_exact_sums() {
        let mut seen = std::collections::BTreeSet::new();
        for number in (0..20_000).chain(4_000_000..4_010_000) {
            let (a, b, sum) = numbers(number);
            assert_eq!(sum, [a[0] + b[0], a[1] + b[1]]);
            assert_eq!(f64::from(sum[0]), f64::from(a[0]) + f64::from(b[0]));
            assert!(seen.insert(a.map(f32::to_bits)));
        }
    }
}
