//! Where gossip and this door's own calls contradict each other. Pure: takes what both say and `now`.
//!
//! Gossip says who may exist; whether a node can be used, this door's own calls tell, and they are believed first:
//!
//! * Gossip has a node for dead that answered us a moment ago: gossip is wrong, or one of its members lies. The node is
//!   only put last, as a suspect is. As long as it goes on answering it stays; two seconds after its last answer gossip
//!   is right.
//! * Gossip has a node for alive, and our calls to it go on failing: it hangs, or the network between us is broken. The
//!   balancer has barred it already; here it is noticed.
//!
//! Either is counted once per episode, however long it lasts: a number that grows is a network, or a member, to look at.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lineside_client::PeerStatistics;
use lineside_wire::{NodeId, Standing};

/// An answer is proof of life for so long. Gossip takes longer than this from a member's death to its own verdict, so an
/// answer from before the death is never taken for one after it.
pub(super) const PROOF_FOR: Duration = Duration::from_secs(2);

/// Calls that fail for less than this are no contradiction: gossip needs a few seconds itself.
const FAILS_FOR: Duration = Duration::from_secs(10);

/// After so long without a bar nobody knows whether calls would still fail.
const BAR_FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

/// A contradiction that has just been found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Gossip says that it is down, and it answers.
    DownAndAnswers,
    /// Gossip says that it is alive, and calls to it fail.
    AliveAndFails,
}

/// How often there was one, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) down_and_answers: u64,
    pub(super) alive_and_fails: u64,
}

/// What is remembered of a node while it lasts.
#[derive(Debug, Default)]
struct Episode {
    /// It was counted that gossip has it for dead.
    is_down_counted: bool,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    barred_at: Instant,
    is_counted: bool,
}

/// The contradictions there are. Nodes that are not asked about are forgotten by [`Disagreements::retain`].
#[derive(Debug, Default)]
pub(super) struct Disagreements {
    episodes: BTreeMap<NodeId, Episode>,
    counts: Counts,
}

impl Disagreements {
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    /// What the balancer is to take a node for, by what gossip says of it and what our own calls came to.
    pub(super) fn judge(
        &mut self,
        node: NodeId,
        gossip: Standing,
        own: Option<&PeerStatistics>,
        now: Instant,
    ) -> (Standing, Option<Found>) {
        let Some(own) = own else { return (gossip, None) };
        match gossip {
            Standing::Down => self.down(node, own),
            Standing::Alive | Standing::Suspect => {
                let episode = self.episodes.entry(node).or_default();
                episode.is_down_counted = false;
                let found = episode.fails(own, now).then_some(Found::AliveAndFails);
                self.counts.alive_and_fails += u64::from(found.is_some());
                (gossip, found)
            }
            // The one is the member's own word and the other the authority's.
            Standing::Left | Standing::Revoked => {
                self.episodes.remove(&node);
                (gossip, None)
            }
        }
    }

    fn down(&mut self, node: NodeId, own: &PeerStatistics) -> (Standing, Option<Found>) {
        let episode = self.episodes.entry(node).or_default();
        episode.failing = None;
        if own.heard_ago.is_none_or(|ago| PROOF_FOR < ago) {
            return (Standing::Down, None);
        }
        if std::mem::replace(&mut episode.is_down_counted, true) {
            return (Standing::Suspect, None);
        }
        self.counts.down_and_answers += 1;
        (Standing::Suspect, Some(Found::DownAndAnswers))
    }

    /// Forgets the others.
    pub(super) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.episodes.retain(|node, _| keep(*node));
    }
}

impl Episode {
    /// Whether calls have failed for long enough just now.
    fn fails(&mut self, own: &PeerStatistics, now: Instant) -> bool {
        if own.barred_for.is_some() {
            let new = || Failing { since: now, barred_at: now, is_counted: false };
            let failing = self.failing.get_or_insert_with(new);
            failing.barred_at = now;
            let is_long = FAILS_FOR <= now.saturating_duration_since(failing.since);
            return is_long && !std::mem::replace(&mut failing.is_counted, true);
        }
        self.failing
            .take_if(|failing| BAR_FORGOTTEN_AFTER < now.saturating_duration_since(failing.barred_at));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    const PRESS: NodeId = NodeId::from_bytes([1; 16]);

    fn heard(ms_ago: u64) -> PeerStatistics {
        PeerStatistics { heard_ago: Some(Duration::from_millis(ms_ago)), ..PeerStatistics::default() }
    }

    fn barred() -> PeerStatistics {
        PeerStatistics { barred_for: Some(Duration::from_secs(1)), ..PeerStatistics::default() }
    }

    #[test]
    fn a_node_that_answers_is_not_dead_because_gossip_says_so() {
        let (mut disagreements, now) = (Disagreements::default(), now());
        let mut judge = |own| disagreements.judge(PRESS, Standing::Down, Some(&own), now);
        assert_eq!(judge(heard(100)), (Standing::Suspect, Some(Found::DownAndAnswers)));
        assert_eq!(judge(heard(1_900)), (Standing::Suspect, None), "one episode counts once");
        assert_eq!(judge(heard(2_100)), (Standing::Down, None), "now gossip is right");
        assert_eq!(judge(heard(10)), (Standing::Suspect, None), "an answer that came late");
        assert_eq!(disagreements.counts().down_and_answers, 1);
    }

    #[test]
    fn the_next_time_is_another_episode() {
        let (mut disagreements, now) = (Disagreements::default(), now());
        for _ in 0..3 {
            disagreements.judge(PRESS, Standing::Down, Some(&heard(5)), now);
            disagreements.judge(PRESS, Standing::Alive, Some(&heard(5)), now);
        }
        assert_eq!(disagreements.counts().down_and_answers, 3);
    }

    #[test]
    fn who_was_never_called_or_never_answered_is_what_gossip_says() {
        let (mut disagreements, now) = (Disagreements::default(), now());
        for own in [None, Some(PeerStatistics::default())] {
            let judged = disagreements.judge(PRESS, Standing::Down, own.as_ref(), now);
            assert_eq!(judged, (Standing::Down, None));
        }
    }

    #[test]
    fn who_left_or_was_revoked_is_gone_however_well_it_answers() {
        let (mut disagreements, now) = (Disagreements::default(), now());
        for standing in [Standing::Left, Standing::Revoked] {
            assert_eq!(disagreements.judge(PRESS, standing, Some(&heard(1)), now), (standing, None));
        }
        assert_eq!(disagreements.counts(), Counts::default());
    }

    #[test]
    fn a_node_that_heartbeats_and_fails_our_calls_is_counted_after_a_while_and_once() {
        let (mut disagreements, start) = (Disagreements::default(), now());
        let mut found = Vec::new();
        for second in 0..60 {
            // A bar ends, the call of the probation fails, and the next bar begins.
            let own = if second % 4 == 3 { PeerStatistics::default() } else { barred() };
            let now = start + Duration::from_secs(second);
            let (standing, new) = disagreements.judge(PRESS, Standing::Alive, Some(&own), now);
            assert_eq!(standing, Standing::Alive, "the balancer has barred it, and needs no other word");
            found.extend(new.map(|_| second));
        }
        assert_eq!(found, [10]);
    }

    #[test]
    fn a_failure_now_and_then_is_no_contradiction() {
        let (mut disagreements, start) = (Disagreements::default(), now());
        for second in 0..120 {
            let own = if second % 20 < 2 { barred() } else { heard(10) };
            let now = start + Duration::from_secs(second);
            assert_eq!(disagreements.judge(PRESS, Standing::Alive, Some(&own), now).1, None);
        }
    }

    #[test]
    fn what_is_no_longer_asked_about_is_forgotten() {
        let (mut disagreements, now) = (Disagreements::default(), now());
        disagreements.judge(PRESS, Standing::Down, Some(&heard(5)), now);
        disagreements.retain(|_| false);
        assert!(disagreements.episodes.is_empty());
        assert_eq!(disagreements.counts().down_and_answers, 1, "what was counted stays");
    }
}
