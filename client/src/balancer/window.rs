//! How many calls went well in the last ten seconds: counters that any thread may add to, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Seconds that count, each in a word of its own.
const SECONDS: usize = 10;

/// Bits of a count. A second with more calls than that, a million, keeps its first ones.
const BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << BITS) - 1;

/// Words of `second | good | bad`: a word of another second is as good as empty.
#[derive(Debug, Default)]
pub(super) struct Window([AtomicU64; SECONDS]);

/// Calls of the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) good: u64,
    pub(super) bad: u64,
}

impl Counted {
    pub(super) const fn calls(self) -> u64 {
        self.good + self.bad
    }

    /// The share that went well; all of nothing did.
    pub(super) const fn percent(self) -> u64 {
        match (self.good * 100).checked_div(self.calls()) {
            Some(percent) => percent,
            None => 100,
        }
    }
}

impl Window {
    /// Adds one call, at a time in microseconds.
    pub(super) fn add(&self, is_good: bool, now: u64) {
        let second = second_of(now);
        let word = &self.0[second as usize % SECONDS];
        let added = |old: u64| {
            let (of, good, bad) = parts(old);
            let (good, bad) = if of == second { (good, bad) } else { (0, 0) };
            let (good, bad) = if is_good { (good + 1, bad) } else { (good, bad + 1) };
            Some((second << (2 * BITS)) | (good.min(COUNT_MAX) << BITS) | bad.min(COUNT_MAX))
        };
        // It always gives a new value, so it always ends well.
        let _ = word.fetch_update(Relaxed, Relaxed, added);
    }

    /// What was added in the last ten seconds, this one included.
    pub(super) fn counted(&self, now: u64) -> Counted {
        let second = second_of(now);
        let recent = |word: &AtomicU64| {
            let (of, good, bad) = parts(word.load(Relaxed));
            (of <= second && second < of + SECONDS as u64).then_some((good, bad))
        };
        let sum = |sum: Counted, (good, bad)| Counted { good: sum.good + good, bad: sum.bad + bad };
        self.0.iter().filter_map(recent).fold(Counted::default(), sum)
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
    }
}

/// 24 bits of seconds last for half a year; then a few old counts may show once.
const fn second_of(micros: u64) -> u64 {
    (micros / 1_000_000) & 0xff_ffff
}

const fn parts(word: u64) -> (u64, u64, u64) {
    (word >> (2 * BITS), (word >> BITS) & COUNT_MAX, word & COUNT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn only_the_last_ten_seconds_count() {
        let window = Window::default();
        assert_eq!(window.counted(0), Counted::default());
        for second in 0..30 {
            window.add(second % 2 == 0, second * SECOND);
        }
        assert_eq!(window.counted(29 * SECOND), Counted { good: 5, bad: 5 });
        assert_eq!(window.counted(34 * SECOND).calls(), 5);
        assert_eq!(window.counted(60 * SECOND), Counted::default());
    }

    #[test]
    fn the_share_of_good_calls_is_rounded_down() {
        assert_eq!(Counted { good: 2, bad: 1 }.percent(), 66);
        assert_eq!(Counted::default().percent(), 100);
    }

    #[test]
    fn nothing_is_lost_when_threads_count_at_once() {
        let window = Window::default();
        let count = || (0..5_000).for_each(|call| window.add(call % 4 != 0, 7 * SECOND));
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(count))));
        assert_eq!(window.counted(7 * SECOND), Counted { good: 15_000, bad: 5_000 });
    }
}
