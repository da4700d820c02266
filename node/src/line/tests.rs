//! Sessions at a line, as threads.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn waiting(job: u32, sequence: Option<&str>) -> Waiting<u32> {
    let arrived = Instant::now().into_std();
    let traits = Traits {
        rows: 1,
        shape: Some([7].into()),
        priority: 0,
        arrived,
        deadline: arrived + PATIENCE,
        sequence: sequence.map(Into::into),
    };
    Waiting { job, traits }
}

/// Threads that tell what they took; each goes on when it is told.
struct Sessions {
    line: Arc<Line<u32>>,
    took: mpsc::Receiver<(mpsc::SyncSender<()>, Vec<u32>)>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Sessions {
    fn at(line: Line<u32>, count: usize) -> Self {
        let line = Arc::new(line);
        let (tell, took) = mpsc::sync_channel(64);
        let session = |_| {
            let (line, tell) = (Arc::clone(&line), tell.clone());
            thread::spawn(move || {
                let (go, on) = mpsc::sync_channel(1);
                while let Some(batch) = line.next() {
                    let jobs = batch.into_iter().map(|waiting| waiting.job).collect();
                    tell.send((go.clone(), jobs)).unwrap();
                    on.recv().unwrap();
                }
            })
        };
        let threads = (0..count).map(session).collect();
        Self { line, took, threads }
    }

    fn next(&self) -> (mpsc::SyncSender<()>, Vec<u32>) {
        self.took.recv_timeout(PATIENCE).expect("a session takes something")
    }

    fn end(self) {
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(self.took.try_recv().is_err());
    }
}

fn rules(max_size: u64, max_delay: Duration) -> Rules {
    Rules { max_size, max_delay, ..Rules::default() }
}

#[test]
fn an_idle_session_takes_a_lone_call_at_once_and_what_comes_meanwhile_together() {
    let (push, line) = Line::new(rules(8, Duration::ZERO), 64);
    let sessions = Sessions::at(line, 1);
    push.send(waiting(0, None)).unwrap();
    let (go, first) = sessions.next();
    (1..4).for_each(|job| push.send(waiting(job, None)).unwrap());
    go.send(()).unwrap();
    let (go, second) = sessions.next();
    assert_eq!((first, second), (vec![0], vec![1, 2, 3]));
    drop(push);
    go.send(()).unwrap();
    sessions.end();
}

#[test]
fn with_a_delay_one_session_waits_for_others_and_a_full_run_does_not() {
    let (push, line) = Line::new(rules(3, PATIENCE), 64);
    let sessions = Sessions::at(line, 2);
    (0..3).for_each(|job| push.send(waiting(job, None)).unwrap());
    let (go, full) = sessions.next();
    push.send(waiting(3, None)).unwrap();
    assert_eq!(full, [0, 1, 2]);
    // The end of the line ends the waiting.
    drop(push);
    let (also, rest) = sessions.next();
    assert_eq!(rest, [3]);
    [go, also].iter().for_each(|go| go.send(()).unwrap());
    sessions.end();
}

#[test]
fn a_delay_ends_by_itself() {
    let (push, line) = Line::new(rules(3, Duration::from_millis(5)), 64);
    let sessions = Sessions::at(line, 2);
    let begun = Instant::now();
    push.send(waiting(0, None)).unwrap();
    let (go, alone) = sessions.next();
    assert_eq!(alone, [0]);
    assert!(Duration::from_millis(5) <= begun.elapsed());
    drop(push);
    go.send(()).unwrap();
    sessions.end();
}

#[test]
fn the_end_of_a_sequences_run_wakes_a_session_that_is_idle() {
    let (push, line) = Line::new(rules(8, Duration::ZERO), 64);
    let sessions = Sessions::at(line, 2);
    (0..3).for_each(|job| push.send(waiting(job, Some("a"))).unwrap());
    let (go, first) = sessions.next();
    assert_eq!(first, [0]);
    sessions.line.ended("a");
    let (also, second) = sessions.next();
    assert_eq!(second, [1]);
    go.send(()).unwrap();
    drop(push);
    // The line is closed, and yet nothing is left behind.
    sessions.line.ended("a");
    let (go, third) = sessions.next();
    assert_eq!(third, [2]);
    [go, also].iter().for_each(|go| go.send(()).unwrap());
    sessions.line.ended("a");
    sessions.end();
}

#[cfg(target_os = "linux")]
#[test]
fn a_session_that_waits_for_a_sequence_does_not_compute() {
    use crate::tests::idle::until_idle;

    let (push, line) = Line::new(rules(8, Duration::ZERO), 64);
    let line = Arc::new(line);
    (0..2).for_each(|job| push.send(waiting(job, Some("a"))).unwrap());
    assert_eq!(line.next().unwrap()[0].job, 0);
    let own = Arc::clone(&line);
    let next = move || own.next().unwrap()[0].job;
    let other = thread::Builder::new().name("line-waits".to_owned()).spawn(next).unwrap();
    until_idle("line-waits", 1);
    // A channel that is closed is always ready: it must not be waited for.
    drop(push);
    until_idle("line-waits", 1);
    line.ended("a");
    assert_eq!(other.join().unwrap(), 1);
}

#[test]
fn what_nobody_wants_is_taken_out_wherever_it_is() {
    let (push, line) = Line::new(rules(2, Duration::ZERO), 64);
    (0..6).for_each(|job| push.send(waiting(job, None)).unwrap());
    let jobs = |batch: Vec<Waiting<u32>>| batch.into_iter().map(|waiting| waiting.job).collect::<Vec<_>>();
    let swept = line.take_out(|job, _| job % 2 == 1);
    assert_eq!((jobs(swept.removed), swept.again, swept.next.is_some()), (vec![1, 3, 5], false, true));
    assert_eq!(jobs(line.next().unwrap()), [0, 2]);
    push.send(waiting(7, None)).unwrap();
    let _lead = lock(&line.lead);
    let swept = line.take_out(|_, _| true);
    assert_eq!((jobs(swept.removed), swept.again), (vec![4], true), "the channel is the leader's");
}

#[test]
fn every_request_is_taken_once_whoever_comes_and_looks() {
    const JOBS: u32 = 2_000;
    let (push, line) = Line::new(rules(4, Duration::from_micros(50)), JOBS as usize);
    let line = Arc::new(line);
    let session = |_| {
        let line = Arc::clone(&line);
        thread::spawn(move || {
            let mut took = Vec::new();
            while let Some(batch) = line.next() {
                for Waiting { job, traits } in batch {
                    took.push(job);
                    if let Some(sequence) = traits.sequence {
                        line.ended(&sequence);
                    }
                }
            }
            took
        })
    };
    let sessions: Vec<_> = (0..3).map(session).collect();
    let mut swept = Vec::new();
    for job in 0..JOBS {
        let sequence = (job % 5 == 0).then(|| (job % 3).to_string());
        push.send(waiting(job, sequence.as_deref())).unwrap();
        if job % 7 == 0 {
            swept
                .extend(line.take_out(|job, _| job % 11 == 0).removed.into_iter().map(|waiting| waiting.job));
        }
    }
    drop(push);
    let mut all: Vec<u32> = sessions.into_iter().flat_map(|session| session.join().unwrap()).collect();
    all.extend(swept);
    all.sort_unstable();
    assert!(all.into_iter().eq(0..JOBS));
}
