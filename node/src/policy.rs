//! Which versions of a model serve.
//!
//! Without a word in the model's settings it is the highest alone: whoever puts a version 4 beside version 3 wants it to
//! take over, and each version that serves holds its sessions' memory. Of `latest`, a version that does not load is not
//! counted, so that a broken newest one never leaves a model without any, neither while the node runs nor after its next
//! start.

use std::collections::BTreeSet;

use lineside_wire::{ModelVersion, VersionPolicy};

use crate::{
    repository::VERSIONS_MAX,
    settings::{Versions, VersionsWord},
};

/// Of the versions that there are, those that serve.
pub(crate) fn chosen(there: &BTreeSet<ModelVersion>, policy: &Versions) -> BTreeSet<ModelVersion> {
    let highest = |count: u32| {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        there.iter().rev().take(count).copied().collect()
    };
    match policy {
        Versions::Word(VersionsWord::All) => there.clone(),
        Versions::Word(VersionsWord::Latest) => highest(1),
        Versions::Latest { latest } => highest(*latest),
        Versions::Only(numbers) => {
            there.iter().filter(|version| numbers.contains(&version.0)).copied().collect()
        }
    }
}

/// Whether the next lower version stands in for one that does not load.
pub(crate) const fn falls_back(policy: &Versions) -> bool {
    matches!(policy, Versions::Latest { .. } | Versions::Word(VersionsWord::Latest))
}

/// The versions that a policy names and that have to be there.
pub(crate) fn named(policy: &Versions) -> Vec<ModelVersion> {
    match policy {
        Versions::Only(numbers) => numbers.iter().copied().map(ModelVersion).collect(),
        Versions::Word(_) | Versions::Latest { .. } => Vec::new(),
    }
}

/// The policy as the wire has it. Of a list of versions, as many as a node can have are told.
pub(crate) fn told(policy: &Versions) -> VersionPolicy {
    match policy {
        Versions::Word(VersionsWord::All) => VersionPolicy::All,
        Versions::Word(VersionsWord::Latest) => VersionPolicy::Latest(1),
        Versions::Latest { latest } => VersionPolicy::Latest(*latest),
        Versions::Only(numbers) => {
            let versions = numbers.iter().take(VERSIONS_MAX).copied().map(ModelVersion);
            VersionPolicy::Specific(versions.collect())
        }
    }
}

/// The policy for a person, to end the sentence "of this model serve ...".
pub(crate) fn words(policy: &Versions) -> String {
    told(policy).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen_of(there: &[u64], policy: &Versions) -> Vec<u64> {
        let there = there.iter().copied().map(ModelVersion).collect();
        chosen(&there, policy).into_iter().map(|version| version.0).collect()
    }

    #[test]
    fn a_policy_chooses_among_the_versions_that_are_there() {
        let there = [1, 2, 10];
        assert_eq!(chosen_of(&there, &Versions::Word(VersionsWord::All)), there);
        assert_eq!(
            chosen_of(&there, &Versions::Word(VersionsWord::Latest)),
            [10],
            "by number, not by letters"
        );
        assert_eq!(chosen_of(&there, &Versions::Latest { latest: 2 }), [2, 10]);
        assert_eq!(chosen_of(&there, &Versions::Latest { latest: 9 }), there);
        assert_eq!(chosen_of(&there, &Versions::Only(vec![10, 1, 7])), [1, 10]);
        assert!(chosen_of(&[], &Versions::default()).is_empty());
    }

    #[test]
    fn without_a_word_the_latest_version_serves() {
        assert_eq!(chosen_of(&[1, 2], &Versions::default()), [2]);
        assert_eq!(words(&Versions::default()), "the latest version");
        assert_eq!(words(&Versions::Only(vec![1, 3])), "only the versions 1, 3");
    }
}
