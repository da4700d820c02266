//! Who gets a place, and what the means make of it.

use proptest::prelude::*;

use super::{lane::CALL, *};
use crate::batcher::Rules;

const LONG: Wish =
    Wish { remaining: Duration::from_secs(60), patience: None, priority: 0, caller: Caller::ONE };

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
    (queue(sessions, max), lane(sessions))
}

fn queue(sessions: usize, max: usize) -> Arc<Queue> {
    Arc::new(Queue::new(sessions, max, false))
}

/// Asks at a time that does not matter.
fn ask(queue: &Arc<Queue>, lane: &Arc<Lane>, wish: Wish) -> Result<Place, Refusal> {
    queue.admit(lane, wish, Instant::now())
}

fn begin<'a>(places: impl IntoIterator<Item = &'a mut Place>) {
    Place::begin(places, Instant::now());
}

/// Running, waiting, slots, and what is taken at most.
fn counts(load: LoadReport) -> [u32; 4] {
    [load.running, load.queued, load.slots, load.limit]
}

#[test]
fn sessions_fill_first_then_the_queue_then_nobody() {
    let (queue, lane) = floor(2, 1);
    let mut held: Vec<_> = (0..3).map(|_| ask(&queue, &lane, LONG).unwrap()).collect();
    assert_eq!(counts(queue.load())[..3], [2, 1, 2]);
    assert!(matches!(ask(&queue, &lane, LONG), Err(Refusal::Full { .. })));

    drop(held.remove(0));
    begin([&mut held[1]]);
    assert_eq!(counts(queue.load())[..3], [2, 0, 2]);
    assert_eq!(held[1].end().running, 1);
    assert!(ask(&queue, &lane, LONG).is_ok());
}

#[test]
fn who_takes_the_session_of_a_call_on_its_way_runs_and_the_other_one_waits() {
    let (queue, lane) = floor(2, 8);
    let mut held: Vec<_> = (0..4).map(|_| ask(&queue, &lane, LONG).unwrap()).collect();
    begin([&mut held[0]]);
    // The third has an earlier deadline, and comes to the second session before the second call does.
    begin([&mut held[2]]);
    assert_eq!(counts(queue.load())[..2], [2, 2], "there are two sessions");
    assert!(ask(&queue, &lane, LONG).is_ok_and(|place| queue.load().queued == 3 && place.level() == 0));

    assert_eq!(counts(held[0].end())[..2], [2, 1], "a session is kept for the second again");
    begin([&mut held[1]]);
    assert_eq!(counts(queue.load())[..2], [2, 1]);
    held.into_iter().for_each(drop);
    assert_eq!(counts(queue.load())[..2], [0, 0]);
    assert!(lane.is_idle());
}

#[test]
fn the_queue_is_the_whole_nodes() {
    let (queue, weld) = floor(1, 1);
    let press = lane(1);
    let _held = [&weld, &weld, &press].map(|lane| ask(&queue, lane, LONG).unwrap());
    assert!(matches!(ask(&queue, &press, LONG), Err(Refusal::Full { .. })));
}

#[test]
fn a_model_has_its_own_bound_and_the_others_go_on() {
    let (queue, weld) = floor(1, 9);
    let press = Arc::new(Lane::new(1, 1, Rules::default()));
    let _held = [&press, &press, &weld, &weld, &weld].map(|lane| ask(&queue, lane, LONG).unwrap());
    assert!(matches!(ask(&queue, &press, LONG), Err(Refusal::ModelFull { .. })));
    assert_eq!(queue.load().queued, 3);
    assert!(ask(&queue, &weld, LONG).is_ok());
}

#[test]
fn who_would_wait_too_long_is_told_how_long() {
    let (queue, lane) = floor(1, 9);
    lane.ran(ms(100));
    let _running = ask(&queue, &lane, within(ms(50))).expect("an idle session tries every call");
    let _waiting = ask(&queue, &lane, within(ms(250))).unwrap();
    assert_eq!(ask(&queue, &lane, within(ms(250))).err(), Some(Refusal::TooLate { wait: ms(200) }));
    let hasty = Wish { patience: Some(ms(150)), ..LONG };
    assert_eq!(ask(&queue, &lane, hasty).err(), Some(Refusal::TooLate { wait: ms(200) }));
    assert_eq!(queue.load().queued, 1);
}

#[test]
fn calls_that_run_together_wait_shorter_and_take_one_session() {
    let queue = queue(2, 99);
    let lane = Arc::new(Lane::new(2, 99, Rules { max_size: 8, ..Rules::default() }));
    lane.ran(ms(100));
    let mut running = [(); 2].map(|()| ask(&queue, &lane, LONG).unwrap());
    let _waiting: Vec<_> = (0..16).map(|_| ask(&queue, &lane, within(ms(200))).unwrap()).collect();
    assert_eq!(ask(&queue, &lane, within(ms(200))).err(), Some(Refusal::TooLate { wait: ms(200) }));
    drop(_waiting);

    // Both were given a session, and one took them both: the other is free.
    begin(&mut running);
    let mut third = ask(&queue, &lane, within(ms(1))).expect("an idle session");
    begin([&mut third]);
    assert_eq!(counts(queue.load())[..3], [3, 0, 2]);
    assert_eq!(lane.taken.load(Ordering::Relaxed), 2);
}

#[test]
fn who_can_join_a_run_that_waits_for_others_is_not_refused() {
    let queue = queue(1, 9);
    let lane = Arc::new(Lane::new(1, 9, Rules { max_size: 3, ..Rules::default() }));
    lane.ran(ms(100));
    let mut run = vec![ask(&queue, &lane, LONG).unwrap()];
    for _ in 0..2 {
        assert!(ask(&queue, &lane, within(ms(99))).is_err(), "its run takes longer");
        run.push(ask(&queue, &lane, within(ms(100))).expect("there is room in the run that comes"));
    }
    assert_eq!(ask(&queue, &lane, within(ms(199))).err(), Some(Refusal::TooLate { wait: ms(100) }));
    begin(&mut run[..2]);
    assert_eq!(
        ask(&queue, &lane, within(ms(199))).err(),
        Some(Refusal::TooLate { wait: ms(100) }),
        "it has begun"
    );
    assert_eq!(counts(queue.load())[..3], [2, 1, 1]);
    drop(run);
    assert_eq!((lane.coming.load(Ordering::Relaxed), lane.is_idle()), (0, true));
    drop(ask(&queue, &lane, LONG).unwrap());
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
    let (queue, lane) = (queue(1, 9), Arc::new(Lane::new(1, 9, rules)));
    lane.ran(ms(100));
    let _held = [(); 4].map(|()| ask(&queue, &lane, LONG).unwrap());
    assert_eq!([0, 1, 2, 3, 255].map(|priority| lane.level(priority)), [1, 0, 1, 1, 1]);
    let urgent = Wish { priority: 1, ..within(ms(200)) };
    let _first = ask(&queue, &lane, urgent).expect("only the running one is before it");
    assert_eq!(ask(&queue, &lane, urgent).err(), Some(Refusal::TooLate { wait: ms(200) }));
    assert_eq!(ask(&queue, &lane, within(ms(500))).err(), Some(Refusal::TooLate { wait: ms(500) }));
}

#[test]
fn the_mean_follows_the_runs() {
    let lane = lane(1);
    lane.ran(ms(1000));
    (0..60).for_each(|_| lane.ran(ms(10)));
    let mean = || lane.run_us.load(Ordering::Relaxed);
    assert!((9_000..12_000).contains(&mean()), "{}", mean());
    let (queue, lane) = (queue(1, 1), Arc::new(lane));
    let place = ask(&queue, &lane, LONG).unwrap();
    let before = lane.run_us.load(Ordering::Relaxed);
    place.stopped_after(ms(1));
    assert_eq!(lane.run_us.load(Ordering::Relaxed), before, "stopped early, it says nothing");
    place.stopped_after(ms(500));
    assert!(before < lane.run_us.load(Ordering::Relaxed));
}

#[test]
fn a_call_takes_its_part_of_the_run_that_answers_it() {
    let (queue, lane) = floor(2, 9);
    assert_eq!(queue.load().call_us, 0, "nothing has run");
    let place = ask(&queue, &lane, LONG).unwrap();
    place.ran(ms(80), 8);
    assert_eq!(queue.load().call_us, 10_000);
    (0..200).for_each(|_| place.ran(ms(40), 1));
    assert!((39_000..=40_000).contains(&queue.load().call_us), "{}", queue.load().call_us);
    place.ran(ms(0), 8);
    assert!((19_000..=21_000).contains(&queue.load().call_us), "eight calls weigh half");
}

#[test]
fn what_is_taken_is_never_more_than_the_limit_says() {
    let queue = queue(2, 3);
    assert_eq!(counts(queue.load()), [0, 0, 2, 5]);
    let lane = Arc::new(Lane::new(1, 9, lane_rules(4, 0)));
    let mut held: Vec<_> = (0..4).map(|_| ask(&queue, &lane, LONG).unwrap()).collect();
    assert_eq!(counts(queue.load()), [1, 3, 2, 5]);
    assert!(
        matches!(ask(&queue, &lane, LONG), Err(Refusal::Full { .. })),
        "a free slot makes no place beyond the queue"
    );
    begin(&mut held);
    assert_eq!(counts(queue.load()), [4, 0, 2, 7], "joined calls share one slot");
}

fn lane_rules(max_size: u64, levels: u8) -> Rules {
    Rules { max_size, levels, default_priority: levels, ..Rules::default() }
}

/// Whose place a call would have.
fn yields(place: &Place, claims: impl Iterator<Item = Claim>) -> Vec<bool> {
    claims.map(|claim| place.yields_to(&claim).is_some()).collect()
}

#[test]
fn a_higher_priority_may_have_the_place_of_a_lower_one_and_of_no_other() {
    let queue = queue(1, 9);
    let [press, weld] = [0, 1].map(|_| Arc::new(Lane::new(1, 9, lane_rules(1, 3))));
    let plain = lane(1);
    let wish = |priority| Wish { priority, ..LONG };
    let _running = [&press, &weld, &plain].map(|lane| ask(&queue, lane, LONG).unwrap());
    let low = ask(&queue, &press, wish(3)).unwrap();
    let middle = ask(&queue, &weld, wish(2)).unwrap();
    let unranked = ask(&queue, &plain, LONG).unwrap();
    let by = |lane: &Arc<Lane>, priority, full| {
        [&low, &middle, &unranked]
            .map(|place| yields(place, queue.claims(lane, wish(priority), full)) == [true])
    };
    assert_eq!(by(&press, 1, true), [true, true, false]);
    assert_eq!(by(&press, 2, true), [true, false, false]);
    assert_eq!(by(&press, 3, true), [false; 3]);
    assert_eq!(by(&press, 1, false), [true, false, false], "its own queue is full, not the node");
    assert_eq!(by(&plain, 1, true), [false; 3], "a model without priorities says nothing of others");
    let claim = queue.claims(&weld, wish(1), true).next().unwrap();
    assert!(claim.rank(&weld) < claim.rank(&press), "the lowest first");
    assert_eq!(claim.rank(&plain), None);
}

#[test]
fn who_floods_the_queue_gives_places_to_who_has_none() {
    let (queue, lane) = floor(1, 4);
    let of = |caller| Wish { caller, ..LONG };
    let _running = ask(&queue, &lane, of(Caller::ONE)).unwrap();
    let mut flood: Vec<_> = (0..4).map(|_| ask(&queue, &lane, of(Caller::ONE)).unwrap()).collect();
    let second = of(Caller::OTHER);
    assert!(matches!(ask(&queue, &lane, second), Err(Refusal::Full { .. })));
    let claims = || queue.claims(&lane, second, true);
    assert_eq!(yields(&flood[3], claims()), [false, true], "not by priority, but by share");
    assert_eq!(queue.claims(&lane, of(Caller::ONE), true).count(), 1, "the flood has no claim");
    drop(flood.pop());
    let first = ask(&queue, &lane, second).unwrap();
    assert_eq!(
        yields(&first, queue.claims(&lane, of(Caller::THIRD), true)),
        [false, false],
        "who has one keeps it"
    );
    drop(flood.pop());
    let _more = ask(&queue, &lane, second).unwrap();
    assert_eq!(queue.claims(&lane, second, true).count(), 1, "two of four each: it has its share");
}

#[test]
fn a_limit_that_fell_refuses_and_never_an_idle_session() {
    let queue = Arc::new(Queue::new(1, 64, true));
    let lane = lane(1);
    lane.ran(ms(100));
    let mut now = Instant::now();
    let wish = within(ms(4_000));
    let mut held: std::collections::VecDeque<_> =
        std::iter::from_fn(|| queue.admit(&lane, wish, now).ok()).collect();
    assert_eq!(held.len(), 40, "as many as can be answered in time");
    // One after the other is taken up, and the next one comes; they wait twice as long as they should.
    drop(held.pop_front());
    for _ in 0..100 {
        now += ms(100);
        let mut place = held.pop_front().unwrap();
        Place::begin([&mut place], now);
        held.extend(queue.admit(&lane, wish, now));
    }
    let load = queue.load();
    assert!((2..=20).contains(&load.limit) && held.len() == load.queued as usize, "{load:?}");
    held.clear();
    let held: Vec<_> = std::iter::from_fn(|| queue.admit(&lane, wish, now).ok()).collect();
    assert_eq!(held.len(), load.limit as usize);
    drop(held);
    assert!(queue.admit(&lane, wish, now).is_ok(), "an idle session takes every call");
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
        let queue = queue(sessions, max);
        let lane = Arc::new(Lane::new(sessions, own_max, rules));
        let mut held: Vec<Place> = Vec::new();
        for event in events {
            match event {
                Event::Comes { priority } => held.extend(ask(&queue, &lane, Wish { priority, ..LONG })),
                _ if held.is_empty() => {}
                Event::Ends { at } => drop(held.remove(at.index(held.len()))),
                Event::Answers { at } => _ = { let at = at.index(held.len()); held[at].end() },
                Event::Begins { from, count } => {
                    let from = from.index(held.len());
                    begin(held[from..].iter_mut().take(count));
                }
            }
            let load = queue.load();
            let count = |which: fn(&Step) -> bool| held.iter().filter(|place| which(&place.step)).count();
            let waiting = count(|step| *step == Step::Waits);
            let coming = count(|step| *step == Step::Comes);
            let overtaken = count(|step| step.holds()).saturating_sub(sessions);
            prop_assert_eq!(load.queued as usize, waiting + overtaken);
            let running = coming + count(|step| matches!(step, Step::Runs { .. }));
            prop_assert_eq!(load.running as usize, running - overtaken);
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
