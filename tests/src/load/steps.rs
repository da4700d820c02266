//! A caller of sequences: each step adds its number, so that what a step comes to tells which steps were run.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lineside_faults::ledger::{Ended, Ledger};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::caller::refused;
use crate::{Http, HttpAnswer};

/// Steps of a sequence.
const STEPS: u32 = 20;

/// Between two steps, also where the answer was that nothing was run and that it may come again.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls of sequences in a ledger.
const KIND: &str = "step";

/// What a caller does after an answer.
enum Next {
    /// The step is done.
    Step,
    /// Nothing was run: the same step once more.
    Again,
    /// Nobody can say what was run, or the state is gone: another sequence.
    Begin,
}

/// Goes through sequences until it is told to stop.
pub(super) async fn run(door: SocketAddr, place: u32, ledger: Ledger, stop: Arc<AtomicBool>) {
    let (mut http, mut id) = (Http::new(door), u64::from(place) << 32);
    let stops = || stop.load(Ordering::Relaxed);
    while !stops() {
        id += 1;
        let mut step = 1;
        while step <= STEPS && !stops() {
            let ticket = ledger.begin(KIND, Instant::now());
            let (ended, next) = match ask(&mut http, id, step).await {
                Ok(answer) => judge(&answer, step),
                Err(error) => (Ended::Lost { what: format!("HTTP: {error}") }, Next::Begin),
            };
            ticket.end(ended, Instant::now());
            match next {
                Next::Step => step += 1,
                Next::Again => {}
                Next::Begin => break,
            }
            sleep(PAUSE).await;
        }
    }
}

async fn ask(http: &mut Http, id: u64, step: u32) -> std::io::Result<HttpAnswer> {
    let parameters = json!({"sequence_id": id, "sequence_start": step == 1, "sequence_end": step == STEPS});
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1], "data": [step]});
    let body = json!({"inputs": [input], "parameters": parameters}).to_string();
    http.post("/v2/models/accumulate/infer", &[], body.as_bytes()).await
}

fn judge(answer: &HttpAnswer, step: u32) -> (Ended, Next) {
    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != 200 {
        let may_come_again = told["executed"] == "no" && told["retryable"] == true;
        return (refused(answer), if may_come_again { Next::Again } else { Next::Begin });
    }
    let expected = f64::from(step * (step + 1) / 2);
    let total = told["outputs"][0]["data"][0].as_f64();
    let what = format!("step {step} came to {total:?} instead of {expected}");
    match total {
        Some(total) if total == expected => {
            let node = answer.header("x-lineside-node").unwrap_or("nobody").to_owned();
            (Ended::Answered { node }, Next::Step)
        }
        // More than all steps together: one was added twice.
        Some(total) if expected < total => (Ended::Twice { what }, Next::Begin),
        Some(_) | None => (Ended::Wrong { what }, Next::Begin),
    }
}
