//! Two machines that hold the authority's key, each with its own registry, come to one trust list.
//!
//! Revocations are only ever added, and so are API keys: one that either holder took back is gone. Whoever has more than
//! the other publishes a higher number; with equal content the higher number is taken over as it is, and under one number
//! the larger hash, so that two holders do not answer each other for ever.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use lineside_wire::NodeId;

use super::{DAY, Generation, KeysOfList, ListFull, Published, Registry, RevokedSerial, seconds};

/// A list that another holder published; its signature was checked.
#[derive(Clone, Debug)]
pub(in crate::authority) struct Seen {
    pub(in crate::authority) published: Published,
    /// Oldest first.
    pub(in crate::authority) authorities: Vec<SeenAuthority>,
    pub(in crate::authority) nodes: BTreeSet<NodeId>,
    pub(in crate::authority) keys: KeysOfList,
}

/// An authority in it.
#[derive(Clone, Debug)]
pub(in crate::authority) struct SeenAuthority {
    pub(in crate::authority) generation: u32,
    pub(in crate::authority) fingerprint: [u8; 32],
    pub(in crate::authority) crl_number: u64,
    /// Serial numbers with the time of each.
    pub(in crate::authority) revoked: Vec<(String, u64)>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::authority) enum Merged {
    /// Nothing: ours is as good, and known.
    Nothing,
    /// Theirs is ours now.
    Adopted,
    /// Ours is to be signed anew, with a number above this one.
    Publish(u64),
}

/// What a list says, without numbers and signatures.
type Content = (BTreeSet<NodeId>, Vec<(u32, BTreeSet<String>)>, KeysOfList);

impl Registry {
    /// Takes in what another holder published. Certificates that are not known here end `longest` after they were
    /// revoked, at the latest.
    pub(in crate::authority) fn merge(
        &mut self,
        seen: &Seen,
        longest: Duration,
        now: SystemTime,
    ) -> Result<Merged, ListFull> {
        self.forget_what_is_over(now);
        let now = seconds(now);
        let before = self.content(now);
        let mut next = self.clone();
        next.add_nodes(seen, now);
        next.add_serials(seen, longest, now);
        next.add_keys(&seen.keys, now);
        next.check_room(0)?;
        next.follow_generations(seen);
        next.forget_gone_generations(now);
        *self = next;
        let ours = self.content(now);
        Ok(self.settle(seen, before != ours, now))
    }

    /// Decides whose list is in force.
    fn settle(&mut self, seen: &Seen, changed: bool, now: u64) -> Merged {
        let theirs = (seen.published.number, seen.published.hash);
        let own = (self.trust.number, self.trust.hash);
        let can_sign = self.generations.iter().any(|generation| generation.held);
        let newer_crls = self.generations.iter().all(|ours| {
            let seen = seen.authorities.iter().find(|seen| seen.generation == ours.number);
            seen.is_none_or(|seen| ours.crl_number <= seen.crl_number)
        });
        if own == theirs {
            return Merged::Nothing;
        }
        if own < theirs && (!can_sign || newer_crls && self.says_the_same(seen, now)) {
            for generation in &mut self.generations {
                let seen = seen.authorities.iter().find(|seen| seen.generation == generation.number);
                generation.crl_number = seen.map_or(generation.crl_number, |seen| seen.crl_number);
            }
            self.trust = seen.published.clone();
            return Merged::Adopted;
        }
        match can_sign && (changed || own.0 <= theirs.0) {
            true => Merged::Publish(theirs.0),
            false => Merged::Nothing,
        }
    }

    /// Whether their list holds all that ours would. What we cannot sign does not count.
    fn says_the_same(&self, seen: &Seen, now: u64) -> bool {
        let (nodes, authorities, _) = self.content(now);
        let numbers = seen.authorities.iter().map(|seen| seen.generation);
        numbers.eq(self.generations.iter().map(|ours| ours.number))
            && nodes == seen.nodes
            && self.has_same_keys(&seen.keys, now)
            && authorities.iter().zip(&seen.authorities).zip(&self.generations).all(
                |((ours, seen), generation)| {
                    let theirs: BTreeSet<&String> = seen.revoked.iter().map(|(serial, _)| serial).collect();
                    !generation.held
                        || ours.1.iter().all(|serial| theirs.contains(serial) || self.is_over(serial, now))
                },
            )
    }

    fn is_over(&self, serial: &str, now: u64) -> bool {
        self.revoked_serials.get(serial).is_none_or(|revoked| revoked.ends.saturating_add(DAY) <= now)
    }

    fn content(&self, now: u64) -> Content {
        let serials =
            |generation: u32| self.serials_of(generation).into_iter().map(|(serial, _)| serial).collect();
        let authorities = self.generations.iter().map(|one| (one.number, serials(one.number)));
        (self.revoked_nodes.keys().copied().collect(), authorities.collect(), self.keys_of_list(now))
    }

    fn add_nodes(&mut self, seen: &Seen, now: u64) {
        for node in &seen.nodes {
            self.revoked_nodes.entry(*node).or_insert(now);
        }
    }

    fn add_serials(&mut self, seen: &Seen, longest: Duration, now: u64) {
        for authority in &seen.authorities {
            for (serial, at) in &authority.revoked {
                let known = self.issued.iter_mut().find(|row| row.serial == *serial);
                let ends = known.as_ref().map_or(at.saturating_add(longest.as_secs()), |row| row.not_after);
                if ends.saturating_add(DAY) <= now {
                    continue;
                }
                if let Some(row) = known {
                    row.revoked.get_or_insert(*at);
                }
                let fresh = RevokedSerial { generation: Some(authority.generation), at: *at, ends };
                self.revoked_serials
                    .entry(serial.clone())
                    .and_modify(|present| {
                        // In the lists of two authorities: one that neither holder knows.
                        if present.generation != Some(authority.generation) {
                            present.generation = None;
                        }
                    })
                    .or_insert(fresh);
            }
        }
    }

    /// Follows a rotation that the other holder began or finished.
    fn follow_generations(&mut self, seen: &Seen) {
        let Some(newest) = seen.authorities.last() else { return };
        let held = |of: &SeenAuthority| {
            let ours = self.generation(of.generation);
            ours.is_some_and(|ours| ours.held && ours.fingerprint == of.fingerprint)
        };
        let crl_number =
            |of: &SeenAuthority| self.generation(of.generation).map_or(0, |ours| ours.crl_number);
        match newest.generation.cmp(&self.issuing().number) {
            std::cmp::Ordering::Greater => {
                let told = seen.authorities.iter().map(|seen| Generation {
                    number: seen.generation,
                    fingerprint: seen.fingerprint,
                    crl_number: crl_number(seen),
                    held: held(seen),
                });
                self.generations = told.collect();
            }
            // One list has the old generation and one has not: it was finished.
            std::cmp::Ordering::Equal => {
                let told: Vec<u32> = seen.authorities.iter().map(|seen| seen.generation).collect();
                self.generations.retain(|ours| told.contains(&ours.number));
            }
            std::cmp::Ordering::Less => {}
        }
    }
}
