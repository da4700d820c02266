//! Whole clusters in virtual time: the cores that run in production, and everything that can go wrong, drawn from a seed.
//!
//! Real are gossip, ladder and view (`lineside_discovery::simulation`), roster, balancer, budget, failover and the pool
//! with its stalls and hedges. A model are the network, the connections and the nodes. One seed is one cluster, its load
//! and its troubles; the same seed gives the same run to the last packet. See "The simulation" in docs/reliability.md.
//!
//! ```text
//! LINESIDE_SIM_SEED=7 cargo test -p lineside-tests --test simulation one_seed -- --nocapture     everything it does
//! LINESIDE_SIM_SEEDS=0..50000 cargo test -p lineside-tests --test simulation many_seeds         as many as you like
//! ```

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod ledger;
mod node;
mod plan;
mod planted;
mod port;
mod sky;
mod wires;
mod world;

use std::{
    env,
    io::Write as _,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use ledger::Broken;
use plan::Plan;
use world::{Summary, World};

/// Runs a plan in a paused clock of its own.
fn run(plan: Plan, traced: bool) -> (Result<Summary, Broken>, Vec<String>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { World::new(plan, traced).run().await })
}

/// Runs a seed, and tells all that can be told when a rule is broken.
fn check(seed: u64) -> Result<Summary, String> {
    let plan = Plan::of(seed);
    run(plan.clone(), false).0.map_err(|Broken(what)| {
        let trace = run(plan.clone(), true).1;
        format!(
            "seed {seed}: {what}\n{plan:#?}\nthe last of {} events:\n{}\nall of them: \
             LINESIDE_SIM_SEED={seed} cargo test -p lineside-tests --test simulation one_seed -- --nocapture",
            trace.len(),
            world::tail(&trace, 60)
        )
    })
}

/// What continuous integration runs.
const SEEDS: Range<u64> = 0..2_000;

fn seeds() -> Range<u64> {
    let Ok(text) = env::var("LINESIDE_SIM_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("LINESIDE_SIM_SEEDS is like 0..50000");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn whatever_goes_wrong_no_rule_is_broken_in_many_seeds() {
    let seeds = seeds();
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let worker = || {
        let mut total = (0, Summary::default());
        while !failed.load(Relaxed) {
            let seed = next.fetch_add(1, Relaxed);
            if seeds.end <= seed {
                break;
            }
            match check(seed) {
                Ok(summary) => total = (total.0 + 1, total.1.with(&summary)),
                Err(report) => {
                    failed.store(true, Relaxed);
                    return Err(report);
                }
            }
        }
        Ok(total)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = (0, Summary::default());
    for result in results {
        let (count, summary) = result.unwrap_or_else(|report| panic!("{report}"));
        all = (all.0 + count, all.1.with(&summary));
    }
    writeln!(std::io::stderr(), "{} seeds: {:?}", all.0, all.1).unwrap();
    let Summary { calls, answers, .. } = all.1;
    // Of few seeds one may be nothing but trouble.
    assert!(
        calls < 10_000 || calls * 8 / 10 < answers,
        "only {answers} of {calls} calls were answered: the troubles are too many to test"
    );
}

#[test]
fn one_seed_is_told_in_full() {
    let Ok(seed) = env::var("LINESIDE_SIM_SEED") else { return };
    let plan = Plan::of(seed.parse().expect("LINESIDE_SIM_SEED is a number"));
    let (result, trace) = run(plan.clone(), true);
    writeln!(std::io::stderr(), "{plan:#?}\n{}", world::tail(&trace, usize::MAX)).unwrap();
    writeln!(std::io::stderr(), "{result:?}").unwrap();
    assert!(result.is_ok(), "a rule is broken: {result:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_last_event() {
    for seed in 0..6 {
        let (first, second) = (run(Plan::of(seed), true).1, run(Plan::of(seed), true).1);
        let differs = first.iter().zip(&second).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len());
    }
}
