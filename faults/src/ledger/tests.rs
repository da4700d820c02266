//! Callers in virtual time.

use super::*;

/// A ledger and its clock.
struct Desk {
    ledger: Ledger,
    now: Instant,
}

impl Desk {
    fn new() -> Self {
        Self { ledger: Ledger::new(), now: Instant::now() }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn call(&mut self, kind: &'static str, ms: u64, ended: Ended) {
        let ticket = self.ledger.begin(kind, self.now);
        self.pass(ms);
        assert_eq!(ticket.end(ended, self.now), Duration::from_millis(ms));
    }

    fn answers(&mut self, count: u32, ms: u64) {
        (0..count).for_each(|_| self.call("pure", ms, answered("press")));
    }

    fn fault(&self, what: &str) {
        self.ledger.fault(what, self.now);
    }

    fn sums(&self) -> Sums {
        self.ledger.sums(self.now)
    }
}

fn answered(node: &str) -> Ended {
    Ended::Answered { node: node.into() }
}

fn refused(code: &str, retryable: bool) -> Ended {
    Ended::Refused { code: code.into(), retryable }
}

fn lost() -> Ended {
    Ended::Lost { what: "the connection broke".into() }
}

#[test]
fn every_call_is_counted_once_by_how_it_ended() {
    let mut desk = Desk::new();
    desk.answers(3, 5);
    desk.call("pure", 1, refused("BUSY", true));
    desk.call("stateful", 40, answered("weld"));
    desk.call("stateful", 1, refused("SEQUENCE_LOST", false));
    desk.call("stateful", 1, Ended::Twice { what: "7 instead of 6".into() });
    desk.call("pure", 1, Ended::Wrong { what: "5 instead of 4".into() });
    desk.call("pure", 1, lost());
    let sums = desk.sums();
    assert_eq!((sums.requests, sums.answers, sums.refusals(), sums.refused_for_good), (9, 4, 2, 1));
    assert_eq!((sums.lost, sums.duplicates, sums.wrong), (1, 1, 1));
    assert_eq!((sums.by_node["press"], sums.by_node["weld"]), (3, 1));
    assert_eq!(
        (sums.slowest, sums.kinds["pure"].slowest),
        (Duration::from_millis(40), Duration::from_millis(5))
    );
    assert_eq!(sums.breach().unwrap(), "of 9 calls 1 lost, 1 run more than once, 1 answered wrongly");
    assert_eq!(
        desk.ledger.complaints(),
        ["lost: the connection broke", "twice: 7 instead of 6", "wrong: 5 instead of 4"]
    );
}

#[test]
fn typed_errors_are_no_breach() {
    let mut desk = Desk::new();
    desk.answers(2, 1);
    desk.call("pure", 1, refused("BUSY", true));
    assert_eq!(desk.sums().breach(), None);
}

#[test]
fn a_call_that_has_not_ended_is_lost_until_it_ends() {
    let desk = Desk::new();
    let ticket = desk.ledger.begin("pure", desk.now);
    assert_eq!((desk.ledger.open(), desk.sums().lost), (1, 1));
    ticket.end(answered("press"), desk.now);
    assert_eq!((desk.ledger.open(), desk.sums().lost, desk.sums().breach()), (0, 0, None));
}

#[test]
fn a_ticket_that_goes_without_an_end_is_a_lost_call() {
    let desk = Desk::new();
    drop(desk.ledger.begin("pure", desk.now));
    assert_eq!((desk.ledger.open(), desk.sums().lost, desk.sums().kinds["pure"].lost), (0, 1, 1));
}

#[test]
fn a_fault_lasts_until_the_first_of_ten_right_answers_in_a_row() {
    let mut desk = Desk::new();
    desk.fault("kill weld");
    desk.answers(9, 10);
    desk.call("pure", 100, lost());
    desk.pass(50);
    desk.answers(9, 10);
    assert_eq!(desk.sums().unrecovered, 1, "nine are not ten");
    desk.answers(1, 10);
    let sums = desk.sums();
    assert_eq!((sums.unrecovered, sums.faults), (0, 1));
    assert_eq!(sums.worst_recovery, Duration::from_millis(90 + 100 + 50 + 10));
    desk.pass(5000);
    desk.answers(1, 10);
    assert_eq!(desk.sums().worst_recovery, Duration::from_millis(250), "what passed is over");
}

#[test]
fn answers_to_calls_from_before_the_fault_prove_nothing() {
    let mut desk = Desk::new();
    let before: Vec<_> = (0..10).map(|_| desk.ledger.begin("pure", desk.now)).collect();
    desk.pass(1);
    desk.fault("pause weld");
    for ticket in before {
        ticket.end(answered("press"), desk.now);
    }
    assert_eq!(desk.sums().unrecovered, 1);
    desk.answers(10, 20);
    assert_eq!((desk.sums().unrecovered, desk.sums().worst_recovery), (0, Duration::from_millis(20)));
}

#[test]
fn a_fault_that_does_not_pass_lasts_until_now_and_the_worst_one_is_named() {
    let mut desk = Desk::new();
    desk.fault("kill weld");
    desk.answers(10, 1);
    desk.fault("cut press");
    desk.pass(700);
    let sums = desk.sums();
    assert_eq!((sums.worst_recovery, sums.worst_fault.as_str()), (Duration::from_millis(700), "cut press"));
    assert_eq!(sums.unrecovered, 1);
}

#[test]
fn faults_at_one_time_pass_each_by_itself() {
    let mut desk = Desk::new();
    desk.fault("one");
    desk.answers(6, 10);
    desk.fault("two");
    desk.answers(4, 10);
    assert_eq!(desk.sums().unrecovered, 1);
    desk.answers(6, 10);
    assert_eq!((desk.sums().unrecovered, desk.sums().faults), (0, 2));
}

#[test]
fn a_ledger_reads_as_a_small_table() {
    let mut desk = Desk::new();
    desk.answers(12, 5);
    desk.fault("kill weld");
    desk.call("stateful", 1230, refused("SEQUENCE_LOST", false));
    desk.answers(10, 10);
    let table = desk.sums().to_string();
    let expected = "\
calls     requests   answers    errors      lost     twice     wrong   slowest
pure            22        22         0         0         0         0    0.01 s
stateful         1         0         1         0         0         0    0.00 s
all             23        22         1         0         0         0    0.01 s
errors by code: SEQUENCE_LOST 1
faults: 1; worst recovery: 1.24 s, behind kill weld";
    assert_eq!(table, expected, "\n{table}");
}

#[test]
fn callers_of_many_threads_share_one() {
    let (ledger, now) = (Ledger::new(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    ledger.begin("pure", now).end(answered("press"), now);
                }
            });
        }
    });
    let sums = ledger.sums(now);
    assert_eq!((sums.requests, sums.answers, sums.breach()), (1000, 1000, None));
}
