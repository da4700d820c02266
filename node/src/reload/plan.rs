//! What follows from what lies in the repository and what is loaded: one step after another, until nothing is to be done.
//!
//! Pure. The loader asks for the next step of a model, takes it, and notes what came of it in [`Known`]; so a step that
//! fails changes what comes after it, and no second plan has to be made for that.

use std::collections::{BTreeMap, BTreeSet};

use lineside_wire::ModelVersion;

use crate::{
    policy::{chosen, falls_back},
    settings::Versions,
};

/// What is known of a version; `S` is how its files were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known<S> {
    /// It is loaded, from these files.
    pub(crate) loaded: Option<S>,
    /// These files did not load: they are not tried again until they change.
    pub(crate) failed: Option<S>,
    /// It was unloaded on request when its files were these: it stays so until they change.
    pub(crate) unloaded: Option<S>,
    /// It is to be loaded whatever the policy says: somebody asked for it by its number.
    pub(crate) pinned: bool,
    /// A person or a call asked for it, and that was not done yet.
    pub(crate) asked: bool,
}

impl<S> Default for Known<S> {
    fn default() -> Self {
        Self { loaded: None, failed: None, unloaded: None, pinned: false, asked: false }
    }
}

/// What makes the loader load a version that is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Eager {
    /// That it is there.
    There,
    /// That it takes the place of one that is loaded, or that somebody asks for it.
    Used,
    /// Only that somebody asks for it.
    Asked,
}

/// One model: what lies in the repository of it, and how it is looked after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a, S> {
    /// Its versions, and how their files are.
    pub(crate) there: &'a BTreeMap<ModelVersion, S>,
    /// Which serve; `None` when the settings cannot be read.
    pub(crate) policy: Option<&'a Versions>,
    pub(crate) known: &'a BTreeMap<ModelVersion, Known<S>>,
    pub(crate) eager: Eager,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Load this version; when it is ready, it takes the place of those, in one change.
    Load { version: ModelVersion, retire: Vec<ModelVersion> },
    /// These serve no longer.
    Retire(Vec<ModelVersion>),
}

impl<S: PartialEq> Situation<'_, S> {
    /// The versions that are to serve.
    pub(crate) fn chosen(&self) -> BTreeSet<ModelVersion> {
        let there = || self.there.keys().copied();
        let is_loaded = |version: &ModelVersion| self.is(*version, |known| known.loaded.is_some());
        let mut serve = match self.policy {
            Some(policy) if falls_back(policy) => {
                chosen(&there().filter(|version| !self.is_bad(*version)).collect(), policy)
            }
            Some(policy) => chosen(&there().collect(), policy),
            // What serves goes on; the newest is tried, and says what is wrong with the settings.
            None => there().filter(is_loaded).chain(there().next_back()).collect(),
        };
        serve.extend(there().filter(|version| self.is(*version, |known| known.pinned)));
        serve
    }

    /// The versions that are to be loaded, as things are now.
    pub(crate) fn to_load(&self) -> Vec<ModelVersion> {
        let chosen = self.chosen();
        let (_, retire) = self.loaded(&chosen);
        chosen.into_iter().filter(|version| self.must_load(*version, &retire)).collect()
    }

    /// What is to be done next; `None` when all is as it should be.
    pub(crate) fn next(&self) -> Option<Step> {
        let chosen = self.chosen();
        let (stay, retire) = self.loaded(&chosen);
        let to_load = self.to_load();
        match to_load[..] {
            // The last one takes the place of those that go: until then these serve.
            [version] => Some(Step::Load { version, retire }),
            [.., version] => Some(Step::Load { version, retire: Vec::new() }),
            [] if retire.is_empty() => None,
            [] => {
                // What should have come in their place does not load, or not yet: better an old version than none.
                let is_to_come = |version: &ModelVersion| {
                    !self.is(*version, |known| {
                        known.unloaded.is_some() && known.unloaded.as_ref() == self.there.get(version)
                    })
                };
                let nothing_else = stay.is_empty() && chosen.iter().any(is_to_come);
                (!nothing_else).then_some(Step::Retire(retire))
            }
        }
    }

    /// What is loaded: of those that are chosen, and of the others.
    fn loaded(&self, chosen: &BTreeSet<ModelVersion>) -> (Vec<ModelVersion>, Vec<ModelVersion>) {
        let loaded = self.known.iter().filter(|(_, known)| known.loaded.is_some());
        loaded.map(|(version, _)| *version).partition(|version| chosen.contains(version))
    }

    fn is(&self, version: ModelVersion, holds: impl Fn(&Known<S>) -> bool) -> bool {
        self.known.get(&version).is_some_and(holds)
    }

    /// Whether it does not load and nothing of it serves.
    fn is_bad(&self, version: ModelVersion) -> bool {
        let now = self.there.get(&version);
        self.is(version, |known| !known.asked && known.loaded.is_none() && known.failed.as_ref() == now)
    }

    fn must_load(&self, version: ModelVersion, retire: &[ModelVersion]) -> bool {
        let now = self.there.get(&version);
        let Some(known) = self.known.get(&version) else {
            return match self.eager {
                Eager::There => true,
                Eager::Used => !retire.is_empty(),
                Eager::Asked => false,
            };
        };
        let is_new = [&known.loaded, &known.failed, &known.unloaded].iter().all(|then| then.as_ref() != now);
        let is_due = match self.eager {
            Eager::There => true,
            Eager::Used => known.loaded.is_some() || !retire.is_empty(),
            Eager::Asked => false,
        };
        known.asked || (is_new && is_due)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::VersionsWord;

    const LATEST: Versions = Versions::Word(VersionsWord::Latest);
    const ALL: Versions = Versions::Word(VersionsWord::All);

    /// A model's versions and a loader that does as the plan says. Files are numbers; odd ones do not load.
    struct Floor {
        there: BTreeMap<ModelVersion, u8>,
        known: BTreeMap<ModelVersion, Known<u8>>,
        policy: Option<Versions>,
        eager: Eager,
        /// Steps that were taken, and whether some version served after each.
        served: Vec<bool>,
    }

    impl Floor {
        fn with(versions: &[(u64, u8)], policy: Versions) -> Self {
            let there = versions.iter().map(|(version, files)| (ModelVersion(*version), *files)).collect();
            let mut floor = Self {
                there,
                known: BTreeMap::new(),
                policy: Some(policy),
                eager: Eager::There,
                served: Vec::new(),
            };
            floor.settle();
            floor
        }

        fn next(&self) -> Option<Step> {
            let Self { there, known, policy, eager, .. } = self;
            Situation { there, policy: policy.as_ref(), known, eager: *eager }.next()
        }

        /// Takes steps until there is none; gives how many.
        fn settle(&mut self) -> usize {
            self.served = vec![!self.loaded().is_empty()];
            for steps in 0..100 {
                let Some(step) = self.next() else { return steps };
                match step {
                    Step::Load { version, retire } => {
                        let files = self.there[&version];
                        let known = self.known.entry(version).or_default();
                        known.asked = false;
                        if files.is_multiple_of(2) {
                            *known =
                                Known { loaded: Some(files), failed: None, unloaded: None, ..known.clone() };
                            self.retire(&retire);
                        } else {
                            known.failed = Some(files);
                        }
                    }
                    Step::Retire(versions) => self.retire(&versions),
                }
                self.served.push(!self.loaded().is_empty());
            }
            panic!("no end: {:?}", self.next());
        }

        fn retire(&mut self, versions: &[ModelVersion]) {
            for version in versions {
                self.known.get_mut(version).unwrap().loaded = None;
            }
        }

        fn put(&mut self, version: u64, files: u8) {
            self.there.insert(ModelVersion(version), files);
        }

        fn loaded(&self) -> Vec<(u64, u8)> {
            let loaded = |(version, known): (&ModelVersion, &Known<u8>)| Some((version.0, known.loaded?));
            self.known.iter().filter_map(loaded).collect()
        }

        fn known(&mut self, version: u64) -> &mut Known<u8> {
            self.known.entry(ModelVersion(version)).or_default()
        }
    }

    #[test]
    fn a_new_version_takes_the_old_ones_place_in_one_step() {
        let mut floor = Floor::with(&[(1, 0)], LATEST);
        floor.put(2, 0);
        let step = Step::Load { version: ModelVersion(2), retire: vec![ModelVersion(1)] };
        assert_eq!(floor.next(), Some(step));
        assert_eq!((floor.settle(), floor.loaded()), (1, vec![(2, 0)]));
    }

    #[test]
    fn a_broken_version_leaves_the_old_one_and_is_tried_again_when_it_changes() {
        let mut floor = Floor::with(&[(1, 0)], LATEST);
        floor.put(2, 1);
        assert_eq!((floor.settle(), floor.loaded()), (1, vec![(1, 0)]));
        assert_eq!(floor.settle(), 0, "not again");
        floor.put(2, 2);
        assert_eq!((floor.settle(), floor.loaded()), (1, vec![(2, 2)]));
        floor.put(2, 3);
        assert_eq!((floor.settle(), floor.loaded()), (1, vec![(2, 2)]), "its older files serve on");
    }

    #[test]
    fn a_start_with_a_broken_newest_version_serves_the_one_before() {
        let floor = Floor::with(&[(1, 0), (2, 0), (3, 1)], LATEST);
        assert_eq!(floor.loaded(), [(2, 0)]);
        let two = Floor::with(&[(1, 0), (2, 1), (3, 0), (4, 0)], Versions::Latest { latest: 3 });
        assert_eq!(two.loaded(), [(1, 0), (3, 0), (4, 0)]);
    }

    #[test]
    fn what_is_gone_or_no_longer_chosen_goes() {
        let mut floor = Floor::with(&[(1, 0), (2, 0)], ALL);
        assert_eq!(floor.loaded(), [(1, 0), (2, 0)]);
        floor.policy = Some(LATEST);
        floor.settle();
        assert_eq!(floor.loaded(), [(2, 0)]);
        floor.there.clear();
        floor.settle();
        assert!(floor.loaded().is_empty());
    }

    #[test]
    fn a_choice_that_does_not_load_keeps_what_serves() {
        let mut floor = Floor::with(&[(1, 0), (2, 1)], LATEST);
        floor.policy = Some(Versions::Only(vec![2]));
        assert_eq!((floor.settle(), floor.loaded()), (0, vec![(1, 0)]));
        floor.policy = None;
        floor.settle();
        assert_eq!(floor.loaded(), [(1, 0)], "settings that cannot be read take nothing down");
    }

    #[test]
    fn what_was_unloaded_on_request_comes_back_when_it_changes_or_is_asked_for() {
        let mut floor = Floor::with(&[(1, 0), (2, 0)], LATEST);
        *floor.known(2) = Known { unloaded: Some(0), ..Known::default() };
        assert_eq!((floor.settle(), floor.loaded()), (0, vec![]), "no older version comes up in its place");
        floor.known(2).asked = true;
        floor.settle();
        assert_eq!(floor.loaded(), [(2, 0)]);
        *floor.known(2) = Known { unloaded: Some(0), ..Known::default() };
        floor.put(2, 4);
        floor.settle();
        assert_eq!(floor.loaded(), [(2, 4)]);
    }

    #[test]
    fn on_demand_only_what_is_used_is_loaded() {
        let mut floor = Floor::with(&[], LATEST);
        floor.eager = Eager::Used;
        floor.put(1, 0);
        assert_eq!(floor.settle(), 0);
        floor.known(1).asked = true;
        floor.settle();
        floor.put(2, 0);
        floor.settle();
        assert_eq!(floor.loaded(), [(2, 0)], "a new version takes over where the old one is used");
        floor.eager = Eager::Asked;
        floor.put(2, 2);
        assert_eq!(floor.settle(), 0);
        floor.known(1).asked = true;
        floor.known(1).pinned = true;
        floor.settle();
        assert_eq!(floor.loaded(), [(1, 0), (2, 0)], "one that was asked for by its number");
    }

    fn policies() -> impl Strategy<Value = Option<Versions>> {
        prop_oneof![
            Just(Some(LATEST)),
            Just(Some(ALL)),
            (1_u32..4).prop_map(|latest| Some(Versions::Latest { latest })),
            prop::collection::vec(1_u64..5, 0..4).prop_map(|numbers| Some(Versions::Only(numbers))),
            Just(None),
        ]
    }

    fn repositories() -> impl Strategy<Value = BTreeMap<ModelVersion, u8>> {
        prop::collection::btree_map((1_u64..5).prop_map(ModelVersion), 0_u8..4, 0..5)
    }

    proptest! {
        #[test]
        fn every_change_comes_to_rest_and_no_takeover_leaves_a_gap(
            changes in prop::collection::vec((repositories(), policies(), 0_usize..3), 1..6),
        ) {
            let mut floor = Floor::with(&[], ALL);
            for (there, policy, eager) in changes {
                let had = floor.loaded();
                let keeps = had.iter().any(|(version, _)| there.contains_key(&ModelVersion(*version)));
                floor.there = there;
                floor.policy = policy;
                floor.eager = [Eager::There, Eager::Used, Eager::Asked][eager];
                floor.settle();
                prop_assert_eq!(floor.next(), None);
                // As long as something was to serve on, something served after every step.
                let Floor { there, known, policy, eager, .. } = &floor;
                let chosen = Situation { there, policy: policy.as_ref(), known, eager: *eager }.chosen();
                let serves = chosen.iter().any(|version| floor.known.get(version).is_some_and(|known| known.loaded.is_some()));
                if !had.is_empty() && keeps && serves {
                    prop_assert!(floor.served.iter().all(|serves| *serves), "{:?}", floor.served);
                }
                // What is loaded is there and chosen, but for the old that stays where the new does not load.
                for (version, files) in floor.loaded() {
                    prop_assert!(files.is_multiple_of(2));
                    let is_chosen = chosen.contains(&ModelVersion(version));
                    prop_assert!(is_chosen || !serves, "{} of {:?}", version, chosen);
                }
            }
        }
    }
}
