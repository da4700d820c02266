//! Who gets a place, and what the means make of it.

use proptest::prelude::*;

use super::*;

const LONG: Wish = Wish { remaining: Duration::from_secs(60), patience: None, priority: 0 };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn within(remaining: Duration) -> Wish {
    Wish { remaining, ..LONG }
}

fn lane(sessions: usize) -> Arc<Lane> {
    Arc::new(Lane::new(sessions, usize::MAX, Rules::default()))
}

fn floor(sessions: usize, max: usize) -> (Arc<Queue>, Arc<Lane>) {
    (Arc::new(Queue::new(sessions, max)), lane(sessions))
}

#[test]
fn sessions_fill_first_then_the_queue_then_nobody() {
    let (queue, lane) = floor(2, 1);
    let mut held: Vec<_> = (0..3).map(|_| queue.admit(&lane, LONG).unwrap()).collect();
    assert_eq!(queue.load(), LoadReport { running: 2, queued: 1, slots: 2, limit: 0, call_us: 0 });
    assert!(matches!(queue.admit(&lane, LONG), Err(Refusal::Full { .. })));

    drop(held.remove(0));
    Place::begin([&mut held[1]]);
    assert_eq!(queue.load(), LoadReport { running: 2, queued: 0, slots: 2, limit: 0, call_us: 0 });
    assert_eq!(held[1].end().running, 1);
    assert!(queue.admit(&lane, LONG).is_ok());
}

#[test]
fn the_queue_is_the_whole_nodes() {
    let (queue, weld) = floor(1, 1);
    let press = lane(1);
    let _held = [&weld, &weld, &press].map(|lane| queue.admit(lane, LONG).unwrap());
    assert!(matches!(queue.admit(&press, LONG), Err(Refusal::Full { .. })));
}

#[test]
fn a_model_has_its_own_bound_and_the_others_go_on() {
    let (queue, weld) = floor(1, 9);
    let press = Arc::new(Lane::new(1, 1, Rules::default()));
    let _held = [&press, &press, &weld, &weld, &weld].map(|lane| queue.admit(lane, LONG).unwrap());
    assert!(matches!(queue.admit(&press, LONG), Err(Refusal::ModelFull { .. })));
    assert_eq!(queue.load().queued, 3);
    assert!(queue.admit(&weld, LONG).is_ok());
}

#[test]
fn who_would_wait_too_long_is_told_how_long() {
    let (queue, lane) = floor(1, 9);
    lane.ran(ms(100));
    let _running = queue.admit(&lane, within(ms(50))).expect("an idle session tries every call");
    let _waiting = queue.admit(&lane, within(ms(250))).unwrap();
    assert_eq!(queue.admit(&lane, within(ms(250))).err(), Some(Refusal::TooLate { wait: ms(200) }));
    let hasty = Wish { patience: Some(ms(150)), ..LONG };
    assert_eq!(queue.admit(&lane, hasty).err(), Some(Refusal::TooLate { wait: ms(200) }));
    assert_eq!(queue.load().queued, 1);
}

#[test]
fn calls_that_run_together_wait_shorter_and_take_one_session() {
    let queue = Arc::new(Queue::new(2, 99));
    let lane = Arc::new(Lane::new(2, 99, Rules { max_size: 8, ..Rules::default() }));
    lane.ran(ms(100));
    let mut running = [(); 2].map(|()| queue.admit(&lane, LONG).unwrap());
    let _waiting: Vec<_> = (0..16).map(|_| queue.admit(&lane, within(ms(200))).unwrap()).collect();
    assert_eq!(queue.admit(&lane, within(ms(200))).err(), Some(Refusal::TooLate { wait: ms(200) }));
    drop(_waiting);

    // Both were given a session, and one took them both: the other is free.
    Place::begin(&mut running);
    let mut third = queue.admit(&lane, within(ms(1))).expect("an idle session");
    Place::begin([&mut third]);
    assert_eq!(queue.load(), LoadReport { running: 3, queued: 0, slots: 2, limit: 0, call_us: 0 });
    assert_eq!(lane.taken.load(Ordering::Relaxed), 2);
}

#[test]
fn who_can_join_a_run_that_waits_for_others_is_not_refused() {
    let queue = Arc::new(Queue::new(1, 9));
    let lane = Arc::new(Lane::new(1, 9, Rules { max_size: 3, ..Rules::default() }));
    lane.ran(ms(100));
    let mut run = vec![queue.admit(&lane, LONG).unwrap()];
    for _ in 0..2 {
        assert!(queue.admit(&lane, within(ms(99))).is_err(), "its run takes longer");
        run.push(queue.admit(&lane, within(ms(100))).expect("there is room in the run that comes"));
    }
    assert_eq!(queue.admit(&lane, within(ms(199))).err(), Some(Refusal::TooLate { wait: ms(100) }));
    Place::begin(&mut run[..2]);
    assert_eq!(
        queue.admit(&lane, within(ms(199))).err(),
        Some(Refusal::TooLate { wait: ms(100) }),
        "it has begun"
    );
    assert_eq!(queue.load(), LoadReport { running: 2, queued: 1, slots: 1, limit: 0, call_us: 0 });
    drop(run);
    assert_eq!((lane.coming.load(Ordering::Relaxed), lane.is_idle()), (0, true));
    drop(queue.admit(&lane, LONG).unwrap());
    assert_eq!((lane.coming.load(Ordering::Relaxed), lane.is_idle()), (0, true), "gone before it began");
}

#[test]
fn how_many_fit_is_learned_from_runs_that_leave_calls_behind() {
    let lane = Lane::new(1, 99, Rules { max_size: 16, ..Rules::default() });
    let fits = || lane.fits.load(Ordering::Relaxed) / CALL;
    (0..99).for_each(|_| lane.took_up(1, false));
    assert_eq!(fits(), 16, "a run of one call with nobody waiting says nothing");
    (0..99).for_each(|_| lane.took_up(2, true));
    assert_eq!(fits(), 2);
    (0..99).for_each(|_| lane.took_up(1, true));
    assert_eq!(fits(), 1);
    (0..99).for_each(|_| lane.took_up(5, false));
    assert_eq!(fits(), 5, "so many fit, whether or not more would have");
}

#[test]
fn urgent_calls_do_not_wait_for_those_behind_them() {
    let rules = Rules { levels: 2, default_priority: 2, ..Rules::default() };
    let (queue, lane) = (Arc::new(Queue::new(1, 9)), Arc::new(Lane::new(1, 9, rules)));
    lane.ran(ms(100));
    let _held = [(); 4].map(|()| queue.admit(&lane, LONG).unwrap());
    assert_eq!([0, 1, 2, 3, 255].map(|priority| lane.level(priority)), [1, 0, 1, 1, 1]);
    let urgent = Wish { priority: 1, ..within(ms(200)) };
    let _first = queue.admit(&lane, urgent).expect("only the running one is before it");
    assert_eq!(queue.admit(&lane, urgent).err(), Some(Refusal::TooLate { wait: ms(200) }));
    assert_eq!(queue.admit(&lane, within(ms(500))).err(), Some(Refusal::TooLate { wait: ms(500) }));
}

#[test]
fn the_mean_follows_the_runs() {
    let lane = lane(1);
    lane.ran(ms(1000));
    (0..60).for_each(|_| lane.ran(ms(10)));
    let mean = || lane.run_us.load(Ordering::Relaxed);
    assert!((9_000..12_000).contains(&mean()), "{}", mean());
    let (queue, lane) = (Arc::new(Queue::new(1, 1)), Arc::new(lane));
    let place = queue.admit(&lane, LONG).unwrap();
    let before = lane.run_us.load(Ordering::Relaxed);
    place.stopped_after(ms(1));
    assert_eq!(lane.run_us.load(Ordering::Relaxed), before, "stopped early, it says nothing");
    place.stopped_after(ms(500));
    assert!(before < lane.run_us.load(Ordering::Relaxed));
}

/// One thing that happens to the places that are held.
#[derive(Clone, Debug)]
enum Event {
    Comes { priority: u8 },
    Ends { at: prop::sample::Index },
    Answers { at: prop::sample::Index },
    Begins { from: prop::sample::Index, count: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        2 => (0_u8..4).prop_map(|priority| Event::Comes { priority }),
        1 => at().prop_map(|at| Event::Ends { at }),
        1 => at().prop_map(|at| Event::Answers { at }),
        1 => (at(), 1_usize..4).prop_map(|(from, count)| Event::Begins { from, count }),
    ]
}

proptest! {
    #[test]
    fn places_never_leak_and_never_exceed_their_number(
        sessions in 1_usize..4, max in 1_usize..5, own_max in 1_usize..5, levels in 0_u8..3,
        events in prop::collection::vec(event(), 0..80),
    ) {
        let rules = Rules { levels, default_priority: levels, max_size: 4, ..Rules::default() };
        let queue = Arc::new(Queue::new(sessions, max));
        let lane = Arc::new(Lane::new(sessions, own_max, rules));
        let mut held: Vec<Place> = Vec::new();
        for event in events {
            match event {
                Event::Comes { priority } => held.extend(queue.admit(&lane, Wish { priority, ..LONG })),
                _ if held.is_empty() => {}
                Event::Ends { at } => drop(held.remove(at.index(held.len()))),
                Event::Answers { at } => _ = { let at = at.index(held.len()); held[at].end() },
                Event::Begins { from, count } => {
                    let from = from.index(held.len());
                    Place::begin(held[from..].iter_mut().take(count));
                }
            }
            let load = queue.load();
            let count = |which: fn(&Step) -> bool| held.iter().filter(|place| which(&place.step)).count();
            let waiting = count(|step| *step == Step::Waits);
            prop_assert_eq!(load.queued as usize, waiting);
            let coming = count(|step| *step == Step::Comes);
            prop_assert_eq!(load.running as usize, coming + count(|step| matches!(step, Step::Runs { .. })));
            prop_assert_eq!(lane.coming.load(Ordering::Relaxed), coming);
            prop_assert_eq!(queue.is_idle(), held.is_empty());
            prop_assert!(waiting <= max.min(own_max));
            prop_assert_eq!(lane.count(), waiting);
            let holding = count(|step| step.holds());
            prop_assert_eq!(lane.taken.load(Ordering::Relaxed), holding);
            prop_assert!(CALL <= lane.fits.load(Ordering::Relaxed));
        }
        held.clear();
        prop_assert!(queue.is_idle());
        prop_assert_eq!((lane.count(), lane.taken.load(Ordering::Relaxed)), (0, 0));
    }
}
