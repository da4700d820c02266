//! That a stop hits its own run and no other, and that no deadline is slept through.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Says whether the session was told to stop.
#[derive(Default)]
struct Brake {
    on: AtomicBool,
    stops: AtomicUsize,
}

impl Stopper for Brake {
    fn stop(&self) {
        self.on.store(true, Ordering::SeqCst);
        self.stops.fetch_add(1, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.on.store(false, Ordering::SeqCst);
    }
}

fn slot() -> (Arc<Brake>, Slot) {
    let brake = Arc::new(Brake::default());
    (Arc::clone(&brake), Slot::new(Arc::clone(&brake) as _))
}

fn one(deadline: Instant) -> Running {
    Running { cancelled: Cancelled::default(), deadline }
}

fn running(deadline: Instant) -> [Running; 1] {
    [one(deadline)]
}

#[test]
fn a_run_is_stopped_once_and_its_session_can_be_used_again() {
    let (brake, slot) = slot();
    let (now, later) = (Instant::now(), Instant::now() + PATIENCE);
    assert_eq!(slot.look(now), None, "an idle session is left alone");

    slot.begin(running(later));
    assert_eq!(slot.look(now), Some(later));
    assert!(!slot.end());

    let wanted = one(later);
    slot.begin([wanted.clone()]);
    wanted.cancelled.set();
    assert_eq!([slot.look(now), slot.look(now)], [None; 2]);
    assert_eq!((brake.on.load(Ordering::SeqCst), brake.stops.load(Ordering::SeqCst)), (true, 1));
    assert!(slot.end());
    assert!(!brake.on.load(Ordering::SeqCst));
    assert_eq!(slot.look(now), None, "what has ended is not stopped");

    slot.begin(running(now));
    assert_eq!(slot.look(now), None, "at its deadline, a run is too late");
    slot.renew(Arc::new(Brake::default()));
    assert!(!slot.end(), "the session was replaced");
    assert_eq!(brake.stops.load(Ordering::SeqCst), 2);
}

#[test]
fn a_joined_run_is_stopped_when_the_last_of_its_callers_is_gone() {
    let (brake, slot) = slot();
    let now = Instant::now();
    let [soon, later] = [1, 2].map(|times| now + times * PATIENCE);
    let all = [one(soon), one(later), one(later)];
    slot.begin(all.clone());
    assert_eq!(slot.look(now), Some(later));
    all[1].cancelled.set();
    assert_eq!(slot.look(soon), Some(later), "one of two is late, and one waits");
    all[2].cancelled.set();
    assert_eq!(slot.look(now), Some(soon), "the last that waits decides");
    assert_eq!(slot.look(soon), None);
    assert!(slot.end());
    slot.begin(running(later));
    assert_eq!(slot.look(soon), Some(later), "of those before, none is left");
    assert!(!slot.end());
    assert_eq!(brake.stops.load(Ordering::SeqCst), 1);
}

#[test]
fn a_stop_never_hits_the_next_run() {
    let (brake, slot) = slot();
    let (slot, ends) = (Arc::new(slot), Arc::new(AtomicBool::new(false)));
    let looking = {
        let (slot, ends) = (Arc::clone(&slot), Arc::clone(&ends));
        thread::spawn(move || {
            while !ends.load(Ordering::Acquire) {
                slot.look(Instant::now());
            }
        })
    };
    let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
    let mut stopped = 0;
    for round in 0..20_000 {
        // Every other run is wanted: it must find the brake off, and off it must stay.
        let wanted = round % 2 == 0;
        slot.begin(running(if wanted { later } else { now }));
        if wanted {
            assert!(!brake.on.load(Ordering::SeqCst));
        }
        let was_stopped = slot.end();
        assert!(!(wanted && was_stopped));
        stopped += usize::from(was_stopped);
        assert!(!brake.on.load(Ordering::SeqCst));
    }
    ends.store(true, Ordering::Release);
    looking.join().unwrap();
    assert_eq!(brake.stops.load(Ordering::SeqCst), stopped);
}

/// A watch, and a version of one session that it watches.
struct Floor {
    watch: Arc<Watch>,
    line: Arc<Line>,
    slot: Arc<Slot>,
    brake: Arc<Brake>,
}

impl Floor {
    fn new() -> (Self, crate::model::Ended) {
        let (alive, ended) = crate::model::Ended::pair();
        let watch = Watch::start(alive).unwrap();
        let (_, line) = Line::new(crate::batcher::Rules::default(), 1);
        let (line, (brake, slot)) = (Arc::new(line), slot());
        let slot = Arc::new(slot);
        watch.add(Watched {
            node: NodeId::from_bytes([1; 16]),
            name: "press".parse().unwrap(),
            counters: Arc::default(),
            lane: Arc::new(Lane::new(1, 1, crate::batcher::Rules::default())),
            line: Arc::downgrade(&line),
            slots: vec![Arc::downgrade(&slot)],
            sequences: None,
        });
        (Self { watch, line, slot, brake }, ended)
    }

    fn until_stopped(&self) {
        let late = Instant::now() + PATIENCE;
        while !self.brake.on.load(Ordering::SeqCst) {
            assert!(Instant::now() < late, "a deadline was slept through");
            thread::yield_now();
        }
        assert!(self.slot.end());
    }
}

#[test]
fn no_deadline_is_slept_through_however_runs_and_looks_meet() {
    let (floor, ended) = Floor::new();
    for round in 0..2_000 {
        // Now and then while the thread looks, now and then while it sleeps for something much later.
        let far = Instant::now() + Duration::from_secs(3600);
        floor.watch.by(far);
        (0..round % 64).for_each(|_| std::hint::spin_loop());
        let deadline = Instant::now() + Duration::from_micros(round % 7 * 50);
        floor.slot.begin(running(deadline));
        floor.watch.by(deadline);
        floor.until_stopped();
    }
    drop(floor);
    assert!(ended.within(PATIENCE), "the thread ends with those who can tell it");
}

#[test]
fn a_version_that_is_gone_is_forgotten() {
    let (floor, _ended) = Floor::new();
    let Floor { watch, line, slot, .. } = floor;
    drop((line, slot));
    watch.look();
    let late = Instant::now() + PATIENCE;
    while !watch.board.versions.load().is_empty() {
        assert!(Instant::now() < late, "it is still watched");
        thread::yield_now();
    }
}
