//! Everybody comes back, whatever was lost.

use std::time::Duration;

use super::SEEDS;
use crate::{
    Standing,
    sim::{Floor, node},
};

#[test]
fn all_that_start_again_at_once_find_together_by_memory_alone() {
    for (seed, loss) in SEEDS.flat_map(|seed| [(seed, 0.0), (seed, 0.1)]) {
        let mut floor = Floor::formed(6, seed, loss);
        // Views are shown a little later than they are true.
        floor.pass(Duration::from_secs(2));
        (1..=6).for_each(|n| floor.kill(n));
        floor.pass(Duration::from_secs(3));
        (1..=6).for_each(|n| floor.start_by_memory(n));
        let took = floor.until(20, "everybody sees everybody", |floor| floor.all_see(6));
        assert!(took < Duration::from_secs(15), "seed {seed}, loss {loss}: {took:?}");
        for machine in floor.running() {
            assert_eq!(machine.view.members.len(), 6, "seed {seed}: a row was doubled");
        }
    }
}

#[test]
fn all_that_start_again_one_after_the_other_find_together_by_memory_alone() {
    for seed in SEEDS {
        let mut floor = Floor::formed(5, seed, 0.0);
        floor.pass(Duration::from_secs(2));
        (1..=5).for_each(|n| floor.kill(n));
        for n in 1..=5 {
            floor.pass(Duration::from_secs(7));
            floor.start_by_memory(n);
        }
        floor.until(20, "everybody sees everybody", |floor| floor.all_see(5));
    }
}

#[test]
fn two_that_start_again_while_the_others_live_are_back_in_a_moment() {
    for seed in SEEDS {
        let mut floor = Floor::formed(5, seed, 0.05);
        floor.pass(Duration::from_secs(2));
        [2, 3].into_iter().for_each(|n| floor.kill(n));
        floor.pass(Duration::from_millis(200));
        [2, 3].into_iter().for_each(|n| floor.start_by_memory(n));
        let took = floor.until(20, "everybody sees everybody", |floor| {
            let new = |n| move |m: &crate::sim::Machine| m.view.member(node(n)).is_some_and(|m| m.epoch == 2);
            floor.all_see(5) && [2, 3].into_iter().all(|n| floor.running().all(new(n)))
        });
        assert!(took < Duration::from_secs(6), "seed {seed}: {took:?}");
    }
}

/// Whoever is on the far side is called every ten seconds although it counts as down: nobody dials anew here.
#[test]
fn halves_that_took_each_other_for_dead_find_together_within_a_round_of_calls_to_the_dead() {
    for seed in SEEDS {
        let mut floor = Floor::formed(6, seed, 0.0);
        floor.cut_off([4, 5, 6]);
        floor.until(60, "each half sees the other dead", |floor| {
            let dead = |of: u8, by: u8| floor.standing(of, by) == Some(Standing::Down);
            (1..=3).all(|a| (4..=6).all(|b| dead(a, b) && dead(b, a)))
        });
        floor.pass(Duration::from_secs(60));
        floor.cut_off([]);
        let took = floor.until(30, "everybody sees everybody", |floor| floor.all_see(6));
        assert!(took < Duration::from_secs(15), "seed {seed}: {took:?}");
    }
}
