//! Whom to ask for a newer trust list, and who is better left alone for a while. Pure.

use std::{collections::BTreeMap, time::Duration};

use lineside_mesh::Destination;
use lineside_wire::{MemberRow, NodeId, TrustStamp};
use tokio::time::Instant;

use crate::roster::standing;

/// How long a member rests whose list was not taken: what it says is wrong, and seldom gets right by itself.
const REST_AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// How long a member rests that did not answer: another one most likely has the same list.
const REST_AFTER_SILENCE: Duration = Duration::from_secs(3);

/// Members that told of a newer list and did not give one. As many as there are rows, which the wire bounds.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<NodeId, Rest>);

#[derive(Debug)]
struct Rest {
    until: Instant,
    /// The list of its that was not taken.
    refused: Option<TrustStamp>,
}

/// A member that says it has a newer list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) to: Destination,
    pub(super) stamp: TrustStamp,
}

impl Sources {
    /// The member with the newest list, if it is newer than `known` and the member does not rest.
    pub(super) fn newer_than(&self, known: TrustStamp, rows: &[MemberRow], now: Instant) -> Option<Source> {
        let tells = |row: &MemberRow| {
            let stamp = row.member.as_ref()?.trust;
            let rests = self.0.get(&row.node).is_some_and(|rest| now < rest.until);
            let to = Destination { node: row.node, address: row.address };
            (known.number < stamp.number && standing(row).is_present() && !rests)
                .then_some(Source { to, stamp })
        };
        rows.iter().filter_map(tells).max_by_key(|source| source.stamp.number)
    }

    /// It did not answer.
    pub(super) fn is_silent(&mut self, source: Source, now: Instant) {
        let rest = self.0.entry(source.to.node).or_insert(Rest { until: now, refused: None });
        rest.until = now + REST_AFTER_SILENCE;
    }

    /// Its list was not taken. True the first time for this list: somebody should hear of it.
    pub(super) fn is_refused(&mut self, source: Source, now: Instant) -> bool {
        let rest = Rest { until: now + REST_AFTER_REFUSAL, refused: Some(source.stamp) };
        let before = self.0.insert(source.to.node, rest);
        before.and_then(|rest| rest.refused) != Some(source.stamp)
    }

    /// Forgets members that are not in the list any more.
    pub(super) fn forget_all_but(&mut self, rows: &[MemberRow]) {
        self.0.retain(|node, _| rows.iter().any(|row| row.node == *node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{id, row};

    fn rows(numbers: &[(&str, u64)]) -> Vec<MemberRow> {
        let with_number = |(name, number): &(&str, u64)| {
            let mut row = row(name);
            let member = row.member.as_mut().unwrap();
            member.trust = TrustStamp { number: *number, hash: *number };
            row
        };
        numbers.iter().map(with_number).collect()
    }

    fn known(number: u64) -> TrustStamp {
        TrustStamp { number, hash: 0 }
    }

    #[test]
    fn the_member_with_the_newest_list_is_asked_and_nobody_with_the_same_or_an_older_one() {
        let (sources, now) = (Sources::default(), Instant::now());
        let rows = rows(&[("press", 3), ("weld", 7), ("glue", 5)]);
        let source = sources.newer_than(known(4), &rows, now).unwrap();
        assert_eq!((source.to.node, source.stamp.number), (id("weld"), 7));
        assert_eq!(sources.newer_than(known(7), &rows, now), None);
    }

    #[test]
    fn a_member_that_is_gone_is_not_asked() {
        let (sources, now) = (Sources::default(), Instant::now());
        let mut rows = rows(&[("press", 3)]);
        for state in ["down", "left", "no such standing"] {
            rows[0].state = state.to_owned();
            assert_eq!(sources.newer_than(known(1), &rows, now), None);
        }
    }

    #[test]
    fn a_list_that_was_refused_is_told_once_and_left_alone_for_a_while_and_others_are_asked() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let rows = rows(&[("press", 9), ("weld", 8)]);
        let source = sources.newer_than(known(1), &rows, now).unwrap();
        assert!(sources.is_refused(source, now));
        assert_eq!(sources.newer_than(known(1), &rows, now).unwrap().to.node, id("weld"));

        let later = now + REST_AFTER_REFUSAL;
        assert_eq!(sources.newer_than(known(1), &rows, later), Some(source));
        assert!(!sources.is_refused(source, later), "the same list is told once");
        let next = Source { stamp: known(10), ..source };
        assert!(sources.is_refused(next, later));
    }

    #[test]
    fn a_silent_member_rests_and_is_still_remembered_for_what_it_said() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let rows = rows(&[("press", 9)]);
        let source = sources.newer_than(known(1), &rows, now).unwrap();
        assert!(sources.is_refused(source, now));
        let later = now + REST_AFTER_REFUSAL;
        sources.is_silent(source, later);
        assert_eq!(sources.newer_than(known(1), &rows, later), None);
        let again = later + REST_AFTER_SILENCE;
        assert!(sources.newer_than(known(1), &rows, again).is_some());
        assert!(!sources.is_refused(source, again));

        sources.forget_all_but(&[]);
        assert!(sources.0.is_empty());
    }
}
