//! Stories of the line in front of a machine, and what holds for any of them.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

/// A line of parts, each known by a word, and the clock of the hall.
struct Hall {
    batcher: Batcher<String>,
    begun: Instant,
    now: Instant,
}

/// A part in the making; what is not said is usual.
#[derive(Clone)]
struct Part {
    name: String,
    rows: u64,
    shape: Option<u64>,
    priority: u8,
    /// Milliseconds after it comes.
    within: u64,
    sequence: Option<&'static str>,
}

fn part(name: &str) -> Part {
    Part { name: name.to_owned(), rows: 1, shape: Some(7), priority: 0, within: 60_000, sequence: None }
}

impl Part {
    fn rows(self, rows: u64) -> Self {
        Self { rows, ..self }
    }

    fn shape(self, shape: u64) -> Self {
        Self { shape: Some(shape), ..self }
    }

    fn alone(self) -> Self {
        Self { shape: None, ..self }
    }

    fn priority(self, priority: u8) -> Self {
        Self { priority, ..self }
    }

    fn within(self, ms: u64) -> Self {
        Self { within: ms, ..self }
    }

    fn of(self, sequence: &'static str) -> Self {
        Self { sequence: Some(sequence), ..self }
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Hall {
    fn with(rules: Rules) -> Self {
        let begun = tokio::time::Instant::now().into_std();
        Self { batcher: Batcher::new(rules), begun, now: begun }
    }

    fn joining(max_size: u64) -> Self {
        Self::with(Rules { max_size, ..Rules::default() })
    }

    fn comes(&mut self, part: Part) {
        let traits = Traits {
            rows: part.rows,
            shape: part.shape.map(|shape| [shape].into()),
            priority: part.priority,
            arrived: self.now,
            deadline: self.now + ms(part.within),
            sequence: part.sequence.map(Into::into),
        };
        self.batcher.push(Waiting { job: part.name, traits });
    }

    fn come(&mut self, names: &str) {
        names.split(' ').for_each(|name| self.comes(part(name)));
    }

    fn pass(&mut self, time: u64) {
        self.now += ms(time);
    }

    /// The next run's parts; empty when there is nothing to run now.
    fn run(&mut self) -> String {
        match self.batcher.take(self.now) {
            Take::Run(batch) => batch.into_iter().map(|part| part.job).collect::<Vec<_>>().join(" "),
            Take::Until(_) | Take::Nothing => String::new(),
        }
    }

    /// Until how many milliseconds after the begin the session waits.
    fn waits_until(&mut self) -> Option<u64> {
        match self.batcher.take(self.now) {
            Take::Until(until) => u64::try_from(until.duration_since(self.begun).as_millis()).ok(),
            Take::Run(batch) => panic!("{batch:?}"),
            Take::Nothing => None,
        }
    }
}

#[test]
fn what_came_while_the_session_was_busy_runs_together() {
    let mut hall = Hall::joining(4);
    assert_eq!(hall.waits_until(), None);
    hall.come("a b c d e");
    assert_eq!((hall.run(), hall.run(), hall.run()), ("a b c d".into(), "e".into(), String::new()));
}

#[test]
fn a_model_that_joins_nothing_runs_one_after_the_other() {
    let mut hall = Hall::joining(1);
    hall.come("a b");
    assert_eq!((hall.run(), hall.run()), ("a".into(), "b".into()));
}

#[test]
fn shapes_are_never_mixed_and_each_keeps_its_order() {
    let mut hall = Hall::joining(8);
    for (name, shape) in [("a", 1), ("b", 2), ("c", 1), ("d", 2)] {
        hall.comes(part(name).shape(shape));
    }
    hall.comes(part("e").alone());
    assert_eq!((hall.run(), hall.run(), hall.run()), ("a c".into(), "b d".into(), "e".into()));
}

#[test]
fn rows_count_and_one_that_does_not_fit_leads_the_next_run() {
    let mut hall = Hall::joining(8);
    for (name, rows) in [("a", 5), ("big", 4), ("b", 2), ("c", 1), ("d", 1)] {
        hall.comes(part(name).rows(rows));
    }
    assert_eq!((hall.run(), hall.run()), ("a b c".into(), "big d".into()));
    hall.comes(part("huge").rows(9));
    hall.comes(part("full").rows(8));
    hall.come("e");
    assert_eq!((hall.run(), hall.run(), hall.run()), ("huge".into(), "full".into(), "e".into()));
}

#[test]
fn the_highest_priority_leads_and_lower_ones_fill_its_run() {
    let rules = Rules { max_size: 2, levels: 3, default_priority: 2, ..Rules::default() };
    let mut hall = Hall::with(rules);
    for (name, priority) in [("low", 3), ("none", 0), ("beyond", 9), ("high", 1), ("middle", 2)] {
        hall.comes(part(name).priority(priority));
    }
    assert_eq!(
        (hall.run(), hall.run(), hall.run()),
        ("high none".into(), "beyond middle".into(), "low".into())
    );
}

#[test]
fn without_levels_all_are_equal_and_without_a_default_the_lowest_is_it() {
    let mut hall = Hall::joining(1);
    hall.comes(part("a").priority(9));
    hall.comes(part("b").priority(1));
    assert_eq!((hall.run(), hall.run()), ("a".into(), "b".into()));
    let mut hall = Hall::with(Rules { levels: 2, ..Rules::default() });
    hall.come("none");
    hall.comes(part("second").priority(2));
    hall.comes(part("first").priority(1));
    assert_eq!((hall.run(), hall.run(), hall.run()), ("first".into(), "none".into(), "second".into()));
}

#[test]
fn within_a_priority_the_earlier_deadline_goes_first() {
    let mut hall = Hall::joining(2);
    for (name, within) in [("patient", 900), ("hurried", 20), ("usual", 300), ("usual too", 300)] {
        hall.comes(part(name).within(within));
    }
    assert_eq!(hall.batcher.next_deadline(), Some(hall.begun + ms(20)));
    assert_eq!((hall.run(), hall.run()), ("hurried usual".into(), "usual too patient".into()));
    assert_eq!(hall.batcher.next_deadline(), None);
}

#[test]
fn with_a_delay_a_request_waits_for_others_and_not_a_moment_longer() {
    let mut hall = Hall::with(Rules { max_size: 3, max_delay: ms(10), ..Rules::default() });
    hall.come("a");
    hall.pass(4);
    hall.come("b");
    assert_eq!(hall.waits_until(), Some(10), "it is the first one's delay");
    hall.pass(6);
    assert_eq!(hall.run(), "a b");

    hall.come("c d e f");
    assert_eq!(hall.run(), "c d e", "a full run does not wait");
    assert_eq!(hall.waits_until(), Some(20));
    hall.comes(part("g").rows(3));
    assert_eq!(hall.run(), "g", "nor does one that fills it alone");
    hall.comes(part("h").rows(2));
    assert_eq!(hall.run(), "f h");
    hall.comes(part("i").rows(2));
    hall.comes(part("j").rows(2));
    assert_eq!(hall.run(), "i", "for the next there is no room, so nothing is won by waiting");
}

#[test]
fn who_has_little_time_does_not_spend_it_on_others() {
    let mut hall = Hall::with(Rules { max_size: 3, max_delay: ms(100), ..Rules::default() });
    hall.comes(part("short").within(10));
    assert_eq!(hall.waits_until(), Some(5));
    hall.pass(5);
    assert_eq!(hall.run(), "short");
}

#[test]
fn nobody_waits_for_the_sake_of_another_kind() {
    let mut hall = Hall::with(Rules { max_size: 2, max_delay: ms(10), levels: 2, ..Rules::default() });
    hall.comes(part("b").shape(2).priority(2));
    hall.pass(3);
    hall.comes(part("a").shape(1).priority(1));
    assert_eq!(hall.waits_until(), Some(10));
    hall.comes(part("c").alone().priority(2));
    assert_eq!(hall.run(), "c", "what runs alone waits for nobody");
    hall.comes(part("d").shape(3).priority(2));
    hall.comes(part("e").shape(3).priority(2));
    assert_eq!(hall.run(), "d e", "a full run goes, though others lead");
    hall.pass(7);
    assert_eq!(hall.run(), "b", "its delay is over, though another leads");
    hall.pass(3);
    assert_eq!(hall.run(), "a");
}

#[test]
fn a_preferred_size_is_made_as_soon_as_it_can_be() {
    let rules = Rules { max_size: 16, max_delay: ms(10), preferred: vec![8, 4, 99], ..Rules::default() };
    let mut hall = Hall::with(rules);
    hall.come("a b c");
    assert_eq!(hall.waits_until(), Some(10));
    hall.come("d e f");
    assert_eq!(hall.run(), "a b c d", "the largest that can be made");
    assert_eq!(hall.waits_until(), Some(10));
    hall.pass(10);
    assert_eq!(hall.run(), "e f", "the delay is over: what is there runs");
    hall.come("g h i j k l m n o");
    assert_eq!(hall.run(), "g h i j k l m n");
    hall.comes(part("p").rows(2));
    hall.comes(part("q").rows(9));
    assert_eq!(hall.run(), "q", "more than is preferred runs alone");
    hall.comes(part("r").rows(6));
    assert_eq!(hall.run(), "o p", "a third has no room, so nothing is won by waiting");
}

#[test]
fn without_a_delay_preferred_sizes_are_only_a_choice() {
    let mut hall = Hall::with(Rules { max_size: 16, preferred: vec![4], ..Rules::default() });
    hall.come("a b c d e f");
    assert_eq!((hall.run(), hall.run()), ("a b c d".into(), "e f".into()));
}

#[test]
fn a_sequence_runs_one_request_at_a_time_in_the_order_of_arrival() {
    let mut hall = Hall::joining(8);
    hall.comes(part("a1").of("a").within(900));
    hall.comes(part("a2").of("a").within(20));
    hall.comes(part("b1").of("b").within(500));
    hall.come("c d");
    assert_eq!(hall.batcher.next_deadline(), Some(hall.begun + ms(20)));
    assert_eq!((hall.run(), hall.run(), hall.run()), ("b1".into(), "a1".into(), "c d".into()));
    assert_eq!((hall.run(), hall.batcher.len()), (String::new(), 1));
    hall.batcher.ended("b");
    assert_eq!(hall.run(), "");
    hall.batcher.ended("a");
    assert_eq!(hall.run(), "a2");
    hall.batcher.ended("a");
    hall.comes(part("a3").of("a"));
    assert_eq!(hall.run(), "a3");
}

#[test]
fn a_request_that_is_taken_out_makes_way_for_the_next_of_its_sequence() {
    let mut hall = Hall::joining(8);
    for name in ["a1", "a2", "a3", "a4"] {
        hall.comes(part(name).of("a"));
    }
    hall.come("b c");
    let out = hall.batcher.remove(|job, _| ["c", "a3", "a1"].contains(&job.as_str()));
    assert_eq!(out.into_iter().map(|part| part.job).collect::<Vec<_>>(), ["a1", "a3", "c"]);
    assert_eq!(hall.batcher.len(), 3);
    assert_eq!((hall.run(), hall.run(), hall.run()), ("a2".into(), "b".into(), String::new()));
    hall.batcher.ended("a");
    assert_eq!(hall.run(), "a4");
}

#[test]
fn rules_can_tighten_while_requests_wait() {
    let mut hall =
        Hall::with(Rules { max_size: 8, max_delay: ms(10), preferred: vec![6], ..Rules::default() });
    hall.come("a b c d e");
    assert_eq!(hall.waits_until(), Some(10));
    hall.batcher.join_at_most(2);
    assert_eq!(hall.run(), "a b");
    hall.batcher.join_at_most(0);
    hall.batcher.hurry();
    assert_eq!((hall.run(), hall.run(), hall.run()), ("c".into(), "d".into(), "e".into()));
    assert_eq!(hall.batcher.rules().max_size, 1);
}

#[test]
fn what_needs_no_place_in_the_line_is_seen() {
    let hall = Hall::with(Rules { max_size: 8, max_delay: ms(1), ..Rules::default() });
    let traits = |part: Part| {
        let mut of = Hall::joining(2);
        of.comes(part);
        let Take::Run(mut batch) = of.batcher.take(of.now) else { panic!("nothing waits") };
        batch.remove(0).traits
    };
    assert!(hall.batcher.passes(&traits(part("a").alone())));
    assert!(!hall.batcher.passes(&traits(part("a"))), "it may wait for others");
    assert!(!hall.batcher.passes(&traits(part("a").of("a"))), "others of its sequence must see it");
    let mut hall = Hall::joining(8);
    assert!(hall.batcher.passes(&traits(part("a"))));
    hall.come("b");
    assert!(!hall.batcher.passes(&traits(part("a"))));
}

#[test]
fn a_steady_stream_of_the_urgent_starves_nobody() {
    let mut hall = Hall::with(Rules { max_size: 2, levels: 2, default_priority: 1, ..Rules::default() });
    hall.come("a b c");
    hall.comes(part("last").priority(2).rows(2));
    let runs = (1..).find(|_| {
        hall.come("x y");
        hall.run() == "last"
    });
    assert_eq!(runs, Some(ELDEST_EVERY as usize), "when the eldest's turn comes");
}

#[test]
fn ten_thousand_wait_and_run_in_order_without_a_search() {
    for kinds in [1, 5_000] {
        let rules = Rules { max_size: 4, max_delay: ms(5), levels: 3, ..Rules::default() };
        let mut hall = Hall::with(rules);
        // Backwards, so that the order of arrival does not help.
        for number in (0..10_000_u64).rev() {
            hall.comes(part(&number.to_string()).within(1_000 + number).shape(number % kinds));
        }
        hall.pass(60_000);
        let mut run = 0;
        let mut first = Vec::new();
        while let Take::Run(batch) = hall.batcher.take(hall.now) {
            run += batch.len();
            first.push(batch[0].job.parse::<u64>().unwrap());
        }
        assert_eq!(run, 10_000);
        let of_the_eldest = |at: usize| at as u32 % ELDEST_EVERY == ELDEST_EVERY - 1;
        let led: Vec<_> = (0..first.len()).filter(|at| !of_the_eldest(*at)).map(|at| first[at]).collect();
        assert!(led.is_sorted(), "{kinds} kinds");
    }
}

/// What can happen to a line.
#[derive(Clone, Debug)]
enum Event {
    Comes { rows: u64, shape: Option<u64>, priority: u8, within: u64, sequence: Option<u8> },
    Passes(u64),
    Takes,
    Ends(prop::sample::Index),
    Removed { every: u32, of: u32 },
}

fn event() -> impl Strategy<Value = Event> {
    let comes =
        (1_u64..7, prop::option::of(0_u64..3), 0_u8..5, 1_u64..200, prop::option::weighted(0.2, 0_u8..3));
    prop_oneof![
        6 => comes.prop_map(|(rows, shape, priority, within, sequence)| {
            Event::Comes { rows, shape, priority, within, sequence }
        }),
        1 => (0_u64..20).prop_map(Event::Passes),
        4 => Just(Event::Takes),
        2 => any::<prop::sample::Index>().prop_map(Event::Ends),
        1 => (2_u32..9, 0_u32..2).prop_map(|(every, of)| Event::Removed { every, of }),
    ]
}

/// What is known of a line from outside.
#[derive(Default)]
struct Book {
    waiting: BTreeMap<u32, Traits>,
    running: BTreeSet<Arc<str>>,
}

impl Book {
    /// The order in which requests lead and join: those that may run.
    fn order(&self, rules: &Rules) -> Vec<u32> {
        let mut first_of: HashMap<Arc<str>, u32> = HashMap::new();
        for (number, traits) in &self.waiting {
            if let Some(sequence) = &traits.sequence {
                first_of.entry(Arc::clone(sequence)).or_insert(*number);
            }
        }
        let may = |(number, traits): &(&u32, &Traits)| match &traits.sequence {
            None => true,
            Some(sequence) => !self.running.contains(sequence) && first_of[sequence] == **number,
        };
        let mut order: Vec<_> = self.waiting.iter().filter(may).collect();
        order.sort_by_key(|(number, traits)| (rules.level(traits.priority), traits.deadline, **number));
        order.into_iter().map(|(number, _)| *number).collect()
    }

    /// Looks at a run, and strikes it off.
    fn runs(&mut self, rules: &Rules, batch: &[Waiting<u32>]) {
        let order = self.order(rules);
        let at = |number: u32| order.iter().position(|other| *other == number).expect("it may run");
        let places: Vec<_> = batch.iter().map(|waiting| at(waiting.job)).collect();
        assert!(places[1..].is_sorted(), "those that join come in order: {places:?}");
        let eldest = order.iter().min().copied();
        let leads = places[0] == 0 || Some(batch[0].job) == eldest;
        assert!(leads || !rules.max_delay.is_zero(), "{places:?}");
        if 1 < batch.len() {
            let rows: u64 = batch.iter().map(|waiting| waiting.traits.rows).sum();
            assert!(rows <= rules.max_size, "{rows} rows");
            assert!(batch.iter().all(|waiting| waiting.traits.shape == batch[0].traits.shape));
            assert!(
                batch
                    .iter()
                    .all(|waiting| waiting.traits.shape.is_some() && waiting.traits.sequence.is_none())
            );
        }
        for waiting in batch {
            self.waiting.remove(&waiting.job).expect("it waited");
            self.running.extend(waiting.traits.sequence.clone());
        }
    }
}

#[test]
fn the_newest_of_the_highest_rank_gives_way_and_no_sequence_does() {
    let mut hall = Hall::with(Rules { max_size: 4, levels: 3, default_priority: 3, ..Rules::default() });
    for part in [part("old").within(9), part("new"), part("urgent").priority(1), part("step").of("s")] {
        hall.comes(part);
    }
    let mut gives = |lowest: u8| {
        let rank = |_: &String, traits: &Traits| {
            let level = if traits.priority == 0 { 3 } else { traits.priority };
            (lowest <= level).then_some(usize::from(level))
        };
        hall.batcher.give_way(rank).map(|waiting| waiting.job)
    };
    assert_eq!(gives(2).as_deref(), Some("new"));
    assert_eq!(gives(2).as_deref(), Some("old"));
    assert_eq!(gives(2), None, "what belongs to a sequence stays");
    assert_eq!(gives(1).as_deref(), Some("urgent"));
    assert_eq!(hall.batcher.len(), 1);
    assert!(hall.batcher.shapes.is_empty() && hall.batcher.levels.len() == 1);
}

proptest! {
    #[test]
    fn no_request_is_lost_or_doubled_or_out_of_order(
        max_size in 1_u64..9, delay in prop_oneof![Just(0_u64), 1_u64..30],
        preferred in prop::collection::vec(1_u64..9, 0..3), levels in 0_u8..4,
        events in prop::collection::vec(event(), 0..200),
    ) {
        let rules = Rules { max_size, max_delay: ms(delay), preferred, levels, default_priority: 1 };
        let mut batcher: Batcher<u32> = Batcher::new(rules.clone());
        let (mut book, mut now) = (Book::default(), tokio::time::Instant::now().into_std());
        let mut number = 0_u32;
        for event in events {
            match event {
                Event::Comes { rows, shape, priority, within, sequence } => {
                    let traits = Traits {
                        rows, shape: shape.map(|shape| [shape].into()), priority, arrived: now,
                        deadline: now + ms(within), sequence: sequence.map(|name| name.to_string().into()),
                    };
                    book.waiting.insert(number, traits.clone());
                    batcher.push(Waiting { job: number, traits });
                    number += 1;
                }
                Event::Passes(time) => now += ms(time),
                Event::Takes => match batcher.take(now) {
                    Take::Run(batch) => book.runs(&rules, &batch),
                    Take::Until(until) => {
                        prop_assert!(now < until && 0 < delay);
                        let latest = book.waiting.values().map(|traits| traits.arrived + ms(delay)).max();
                        prop_assert!(until <= latest.unwrap());
                    }
                    Take::Nothing => prop_assert!(book.order(&rules).is_empty()),
                },
                Event::Ends(which) if !book.running.is_empty() => {
                    let ended = Arc::clone(book.running.iter().nth(which.index(book.running.len())).unwrap());
                    book.running.remove(&ended);
                    batcher.ended(&ended);
                }
                Event::Ends(_) => {}
                Event::Removed { every, of } => {
                    let out = batcher.remove(|job, _| job % every == of);
                    let expected: Vec<u32> =
                        book.waiting.keys().copied().filter(|job| job % every == of).collect();
                    let out: Vec<u32> = out.into_iter().map(|waiting| waiting.job).collect();
                    prop_assert_eq!(&out, &expected);
                    book.waiting.retain(|job, _| job % every != of);
                }
            }
            prop_assert_eq!(batcher.len(), book.waiting.len());
            let deadline = book.waiting.values().map(|traits| traits.deadline).min();
            prop_assert_eq!(batcher.next_deadline(), deadline);
        }
        // And all of them run in the end.
        now += ms(1_000);
        while !book.waiting.is_empty() {
            for ended in std::mem::take(&mut book.running) {
                batcher.ended(&ended);
            }
            match batcher.take(now) {
                Take::Run(batch) => book.runs(&rules, &batch),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert!(batcher.ready.is_empty() && batcher.levels.is_empty() && batcher.shapes.is_empty());
        prop_assert!(batcher.until.is_empty() && batcher.grown.is_empty());
    }

    #[test]
    fn no_stream_of_requests_starves_one(
        max_size in 1_u64..5, ahead in 0_usize..20, level in 0_u8..3, rows in 1_u64..7,
        stream in prop::collection::vec((1_u64..7, 0_u64..2, 1_u8..3, 1_u64..50), 1..8),
    ) {
        let mut batcher = Batcher::new(Rules { max_size, levels: 3, ..Rules::default() });
        let now = tokio::time::Instant::now().into_std();
        let push = |batcher: &mut Batcher<u32>, job, (rows, shape, priority, within): (u64, u64, u8, u64)| {
            let traits = Traits {
                rows, shape: Some([shape].into()), priority, arrived: now, deadline: now + ms(within), sequence: None,
            };
            batcher.push(Waiting { job, traits });
        };
        (0..ahead).for_each(|_| push(&mut batcher, 0, (1, 0, 1, 1)));
        push(&mut batcher, 1, (rows, 0, level, 1_000_000));
        // As many come as run, and more.
        let bound = ELDEST_EVERY as usize * (ahead + 1);
        let run = (0..bound).find(|at| {
            (0..=max_size as usize).for_each(|next| push(&mut batcher, 2, stream[(at + next) % stream.len()]));
            let Take::Run(batch) = batcher.take(now) else { panic!("something waits") };
            batch.iter().any(|waiting| waiting.job == 1)
        });
        prop_assert!(run.is_some());
    }
}
