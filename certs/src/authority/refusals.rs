//! Which refusals the diary tells. Pure.
//!
//! Anybody can be refused, as often as he likes. Had each one its line, a stranger could push out of the diary whatever
//! it tells of others, within minutes.

/// Refusals of one kind that are told within [`WINDOW`]. In quiet times it is every one, and at this rate the diary
/// holds two months.
const TOLD_MAX: u32 = 60;

/// In seconds.
const WINDOW: u64 = 3600;

/// Who is refused. Each kind is counted by itself: a stranger's guesses do not hide that a real token was tried.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Whoever has no token of ours.
    Stranger,
    /// Whoever has the secret of a token.
    Joiner,
    /// A member that wants its certificate renewed.
    Member,
}

/// Those of the present window.
#[derive(Debug, Default)]
pub(super) struct Refusals([Count; 3]);

#[derive(Debug, Default)]
struct Count {
    begins: u64,
    told: u32,
    left_out: u64,
}

impl Refusals {
    /// Counts one. When it is to be told, gives how many were left out before it.
    pub(super) fn count(&mut self, kind: Kind, now: u64) -> Option<u64> {
        let Self(counts) = self;
        let count = &mut counts[kind as usize];
        if !(count.begins..count.begins.saturating_add(WINDOW)).contains(&now) {
            (count.begins, count.told) = (now, 0);
        }
        if TOLD_MAX <= count.told {
            count.left_out += 1;
            return None;
        }
        count.told += 1;
        Some(std::mem::take(&mut count.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_told_in_part_and_hides_no_other() {
        let (mut refusals, now) = (Refusals::default(), 1_795_514_820);
        let told: Vec<_> = (0..1000).filter_map(|n| refusals.count(Kind::Stranger, now + n)).collect();
        assert_eq!(told, [0; TOLD_MAX as usize]);
        assert_eq!(refusals.count(Kind::Joiner, now), Some(0));
        assert_eq!(refusals.count(Kind::Member, now), Some(0));
        assert_eq!(refusals.count(Kind::Stranger, now + WINDOW - 1), None);
        assert_eq!(refusals.count(Kind::Stranger, now + WINDOW), Some(941), "the next hour says how many");
        assert_eq!(refusals.count(Kind::Stranger, now + WINDOW), Some(0));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_silence_the_diary() {
        let mut refusals = Refusals::default();
        for _ in 0..=TOLD_MAX {
            refusals.count(Kind::Stranger, 10 * WINDOW);
        }
        assert_eq!(refusals.count(Kind::Stranger, WINDOW), Some(1));
    }
}
