//! Times to come, in order. Nothing is ever dropped: foca counts on each of its timers.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use tokio::time::Instant;

/// Things that are due at a time.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    set: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: Instant,
    /// Among equals, the one set first comes first.
    order: u64,
    what: T,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), set: 0 }
    }

    pub(crate) fn set(&mut self, due: Instant, what: T) {
        self.set += 1;
        self.heap.push(Reverse(Entry { due, order: self.set, what }));
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse(entry)| entry.due)
    }

    /// Moves the times of some things into the future.
    pub(crate) fn postpone(&mut self, by: Duration, which: impl Fn(&T) -> bool) {
        let entries = std::mem::take(&mut self.heap).into_vec();
        let moved = entries.into_iter().map(|Reverse(mut entry)| {
            if which(&entry.what) {
                entry.due += by;
            }
            Reverse(entry)
        });
        self.heap = moved.collect();
    }

    /// Everything that is due, in the order of its time.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<T> {
        let mut due = Vec::new();
        while self.next().is_some_and(|next| next <= now) {
            due.extend(self.heap.pop().map(|Reverse(entry)| entry.what));
        }
        due
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_the_order_of_its_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new();
        for (ms, what) in [(30, "c"), (10, "a"), (20, "b"), (10, "aa")] {
            timers.set(at(ms), what);
        }
        assert_eq!(timers.take_due(at(9)), Vec::<&str>::new());
        assert_eq!(timers.take_due(at(20)), ["a", "aa", "b"]);
        assert_eq!(timers.next(), Some(at(30)));
    }
    #[test]
    fn what_is_postponed_keeps_its_place_among_its_like() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new();
        for (ms, what) in [(10, 1), (20, 2), (10, 3), (30, 4)] {
            timers.set(at(ms), what);
        }
        timers.postpone(Duration::from_millis(15), |what| what % 2 == 1);
        assert_eq!(timers.take_due(at(22)), [2]);
        assert_eq!(timers.take_due(at(30)), [1, 3, 4]);
    }
}
