//! A member that is slow itself accuses nobody.

use std::time::Duration;

use super::SEEDS;
use crate::{
    Pace, Standing,
    sim::{Floor, node},
};

fn formed(count: u8, seed: u64, pace: Pace) -> Floor {
    let mut floor = Floor::new(seed, 0.0);
    floor.pace = pace;
    for n in 1..=count {
        floor.start(n, 1);
        floor.greet(n, 1);
    }
    floor.until(30, "the cluster forms", |floor| floor.all_see(count));
    floor
}

fn level(floor: &Floor, n: u8) -> u8 {
    floor.machines[&n].gossip.counters().health_level
}

#[test]
fn a_machine_that_was_paused_in_the_middle_of_a_suspicion_lets_the_suspect_object() {
    let mut told = 0;
    for (pace, seed) in SEEDS.flat_map(|seed| [(Pace::LAN, seed), (Pace::FAST, seed)]) {
        let mut floor = formed(3, seed, pace);
        floor.cut_off([2]);
        floor.until(20, "machine 1 misses machine 2 itself", |floor| {
            0 < floor.machines[&1].gossip.counters().probes_failed
        });
        floor.cut_off([]);
        if floor.standing(2, 1) != Some(Standing::Suspect) {
            continue; // Another was first, and it is down already.
        }
        told += 1;
        floor.pause(1);
        floor.pass(Duration::from_secs(10));
        floor.resume(1);
        floor.pass(Duration::from_secs(30));
        let buried = &floor.machines[&1].buried;
        assert!(buried.is_empty(), "seed {seed}, {pace:?}: the machine that slept accused {buried:?}");
        assert!(floor.all_see(3), "seed {seed}, {pace:?}: it is not back");
    }
    assert!(4 < told, "only {told} seeds told the story");
}

#[test]
fn a_paused_machine_raises_no_false_alarm_about_others() {
    for (pace, seed) in (0..3).flat_map(|seed| [(Pace::LAN, seed), (Pace::FAST, seed)]) {
        let mut floor = formed(8, seed, pace);
        for pause in [300, 3_000, 10_000] {
            floor.pass(Duration::from_millis(700 + seed * 130));
            floor.pause(4);
            floor.pass(Duration::from_millis(pause));
            floor.resume(4);
            floor.until(30, "it is taken back", |floor| floor.all_see(8));
        }
        for (n, machine) in &floor.machines {
            let others: Vec<_> = machine.buried.iter().filter(|buried| **buried != node(4)).collect();
            assert!(others.is_empty(), "seed {seed}, {pace:?}: machine {n} buried {others:?}");
        }
    }
}

#[test]
fn a_machine_that_stumbles_all_the_time_accuses_nobody_and_is_well_again_after() {
    for seed in SEEDS {
        let mut floor = formed(5, seed, Pace::LAN);
        for _ in 0..40 {
            floor.pause(3);
            floor.pass(Duration::from_millis(600));
            floor.resume(3);
            floor.pass(Duration::from_millis(100));
        }
        assert!(2 <= level(&floor, 3), "seed {seed}: it does not see how slow it is");
        assert!(
            (1..=5).filter(|n| *n != 3).all(|n| level(&floor, n) == 0),
            "seed {seed}: the others are well"
        );
        floor.pass(Duration::from_secs(10));
        assert_eq!(level(&floor, 3), 0, "seed {seed}");
        assert!(
            floor.running().all(|m| m.buried.is_empty() && m.lives == 0),
            "seed {seed}: somebody was buried"
        );
        assert!(floor.all_see(5));
    }
}

#[test]
fn who_is_cut_off_suspects_itself_and_gives_the_others_more_time() {
    for seed in SEEDS {
        let mut floor = formed(6, seed, Pace::LAN);
        floor.cut_off([1]);
        floor.until(20, "machine 1 notices that it is alone", |floor| 2 <= level(floor, 1));
        let by_others = |floor: &Floor| (2..=6).all(|n| floor.standing(1, n) == Some(Standing::Down));
        floor.until(20, "the others give it up", by_others);
        let given_up = floor.machines[&1].buried.len();
        assert!(given_up < 5, "seed {seed}: whoever is cut off gave up everybody as fast as they gave it up");
        floor.cut_off([]);
        floor.until(30, "it is taken back", |floor| floor.all_see(6));
        floor.pass(Duration::from_secs(12));
        assert_eq!(level(&floor, 1), 0);
    }
}

/// The news of the suspicion went round while the suspect could not hear it, and is not told again by gossip alone.
#[test]
fn a_suspect_that_comes_back_late_is_told_of_its_suspicion_and_objects() {
    let mut told = 0;
    for seed in SEEDS {
        let mut floor = formed(3, seed, Pace::LAN);
        floor.cut_off([2]);
        floor.until(20, "machine 2 is suspected", |floor| floor.standing(2, 1) == Some(Standing::Suspect));
        floor.pass(Duration::from_millis(2_500));
        if floor.standing(2, 1) != Some(Standing::Suspect) || !floor.machines[&2].buried.is_empty() {
            continue;
        }
        told += 1;
        floor.cut_off([]);
        floor.pass(Duration::from_secs(20));
        assert!(floor.all_see(3));
        assert!(floor.running().all(|machine| machine.lives == 0), "seed {seed}: somebody was buried");
    }
    assert!(2 < told, "only {told} seeds told the story");
}
