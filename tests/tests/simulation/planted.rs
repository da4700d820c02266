//! The rules can be broken: each defect that is planted is found.

use std::{collections::BTreeSet, time::Duration};

use lineside_wire::Executed;
use tokio::time::Instant;

use super::{
    ledger::{Circumstances, ENOUGH, Ended, Record, Run, Try, TryEnd},
    node::Manner,
    plan::{Defect, FORMING, Machine, Plan, Spell, Trouble},
    run,
};

/// Three equal nodes and one gateway, with load, and these troubles.
fn plan(spells: &[(u64, u64, Trouble)], defect: Option<Defect>) -> Plan {
    let spell = |(begins, ends, trouble): &(u64, u64, Trouble)| Spell {
        begins: FORMING + Duration::from_millis(*begins),
        ends: FORMING + Duration::from_millis(*ends),
        trouble: trouble.clone(),
    };
    Plan {
        seed: 4,
        nodes: vec![Machine { slots: 2, run: Duration::from_millis(20) }; 3],
        gateways: 1,
        fast: true,
        hedge: false,
        rate: 60.0,
        sequences: 2,
        spells: spells.iter().map(spell).collect(),
        calm_at: FORMING + Duration::from_secs(8),
        defect,
    }
}

/// Whether the rules hold without the defect, and which one is broken by it.
#[track_caller]
fn found(spells: &[(u64, u64, Trouble)], defect: Defect, rule: &str) {
    let (sound, trace) = run(plan(spells, None), true);
    assert!(sound.is_ok(), "without a defect: {sound:?}\n{}", super::world::tail(&trace, 80));
    let broken = run(plan(spells, Some(defect)), false).0;
    let what = broken.expect_err("the defect was not found").0;
    assert!(what.contains(rule), "found as: {what}");
}

fn weather(lost: f64, doubled: f64) -> Trouble {
    Trouble::Weather(super::sky::Faults { lost, doubled, late: 0.0 })
}

#[test]
fn a_transport_that_runs_a_call_twice_is_found() {
    found(&[(0, 6_000, weather(0.1, 0.5))], Defect::RunsTwice, "ran ");
}

#[test]
fn an_answer_without_a_run_is_found() {
    found(&[], Defect::AnswersWithoutRun, "never ran it");
}

#[test]
fn a_wrong_answer_is_found() {
    found(&[], Defect::AnswersWrong, "was answered");
}

#[test]
fn a_node_that_denies_what_it_ran_is_found() {
    found(&[], Defect::DeniesRuns, "was told that nothing ran");
}

#[test]
fn a_gateway_that_keeps_the_dead_and_tries_once_is_found() {
    found(&[(1_000, 6_000, Trouble::Crash(2))], Defect::KeepsTheDead, "could have answered");
}

#[test]
fn a_call_that_is_never_told_of_its_end_is_found() {
    let all = (1_u8..=3).map(|n| (1_000, 4_000, Trouble::Crash(n))).collect::<Vec<_>>();
    found(&all, Defect::LosesCalls, "did not end");
}

#[test]
fn a_budget_that_allows_everything_is_found() {
    let broken = [1_u8, 2, 3].map(|n| (500, 7_000, Trouble::Manner(n, Manner::Broken)));
    found(&broken, Defect::NoBudget, "repeats for");
}

#[test]
fn a_bar_that_never_ends_is_found() {
    let broken = Trouble::Manner(2, Manner::Broken);
    found(&[(1_000, 6_000, broken)], Defect::BarsForEver, "bars 2");
}

/// A call with time enough that failed after these tries, while node 1 was good.
fn failed(tries: &[(u8, TryEnd)]) -> Record {
    let issued = Instant::now();
    let a_try = |(node, end): &(u8, TryEnd)| Try { node: *node, at: issued, end: Some(*end) };
    Record {
        gateway: 9,
        value: 1,
        session: None,
        expected: 1,
        issued,
        deadline: issued + 2 * ENOUGH,
        good: vec![1],
        must: false,
        tries: tries.iter().map(a_try).collect(),
        runs: Vec::new(),
        paid: 0,
        end: Some((issued, Ended::Error { text: "lost".to_owned(), executed: Executed::Maybe })),
    }
}

/// Which rule a call breaks; nothing was spent, and nobody else is known to be bad.
fn broken(record: &Record, crowded: bool) -> Option<String> {
    let at = Circumstances { good: vec![1], spent: false, crowded, bad_since: Default::default() };
    record.check(&at).err().map(|broken| broken.0)
}

#[test]
fn each_excuse_for_a_failure_is_one_of_the_limits_and_nothing_else_is() {
    let one = failed(&[(2, TryEnd::Maybe)]);
    assert!(broken(&one, false).unwrap().contains("could have answered"));
    assert_eq!(broken(&one, true), None, "no repeats in a cluster without room");
    assert_eq!(broken(&failed(&[(2, TryEnd::Maybe), (3, TryEnd::Maybe)]), false), None, "two may have run");
    let refused = [(2, TryEnd::Nothing), (3, TryEnd::Nothing)];
    assert!(broken(&failed(&refused), true).is_some(), "what ran nothing is tried again for nothing");
    let whole = Record { must: true, ..one.clone() };
    assert!(broken(&whole, true).unwrap().contains("all is whole"));
    let hasty = Record { deadline: one.issued + ENOUGH / 2, ..one };
    assert_eq!(broken(&hasty, false), None, "it had no time");
}

#[test]
fn a_call_that_ends_late_or_is_tried_too_often_or_runs_twice_breaks_a_rule() {
    let one = failed(&[(2, TryEnd::Maybe)]);
    let late = one.latest_end() + Duration::from_millis(1);
    let late = Record { end: one.end.clone().map(|(_, ended)| (late, ended)), ..one.clone() };
    assert!(broken(&late, true).unwrap().contains("after its deadline"));
    let often = failed(&[(2, TryEnd::Nothing); 4]);
    assert!(broken(&often, true).unwrap().contains("tried 4 times"));
    let run = Run { node: 2, life: 1, at: one.issued };
    let of_session = Record { session: Some(("belt".to_owned(), false)), ..one };
    let runs = |count: usize, of: &Record| Record { runs: vec![run; count], ..of.clone() }.check_runs();
    assert!(runs(1, &of_session).is_ok() && runs(2, &of_session).is_err());
    assert!(Record { end: None, ..of_session }.check_runs().is_err(), "it never ended");
}

#[test]
fn a_story_of_everything_at_once_holds() {
    let half = BTreeSet::from([1, 4]);
    let spells = [
        (0, 7_500, weather(0.02, 0.1)),
        (500, 2_500, Trouble::Parted(half)),
        (1_000, 4_000, Trouble::Pause(2)),
        (3_000, 6_000, Trouble::Manner(3, Manner::Hangs)),
        (5_000, 7_000, Trouble::Drain(1)),
    ];
    let (result, trace) = run(plan(&spells, None), true);
    assert!(result.is_ok(), "{result:?}\n{}", super::world::tail(&trace, 80));
}
