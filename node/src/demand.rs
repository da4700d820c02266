//! Models that are loaded when somebody asks for them: which calls wait, and which versions make room.
//!
//! Pure state: no lock, no clock, no engine.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::repository::VersionId;

/// Most calls that wait for models to be loaded. Each holds its tensors; a model that loads has a queue that is not
/// longer.
pub(crate) const WAITING_MAX: usize = 256;

/// The calls that wait for versions to be loaded.
#[derive(Debug)]
pub(crate) struct Parking<C> {
    /// By version. One that is here was ordered, also when nobody waits any more: it is ordered once.
    waiting: BTreeMap<VersionId, Vec<(Instant, C)>>,
    count: usize,
    max: usize,
}

impl<C> Parking<C> {
    pub(crate) const fn new(max: usize) -> Self {
        Self { waiting: BTreeMap::new(), count: 0, max }
    }

    /// Takes a call in, until its deadline; true when its version is to be ordered.
    ///
    /// # Errors
    /// There is no room; the call comes back.
    pub(crate) fn park(&mut self, id: &VersionId, deadline: Instant, call: C) -> Result<bool, C> {
        if self.max <= self.count {
            return Err(call);
        }
        let is_new = !self.waiting.contains_key(id);
        self.waiting.entry(id.clone()).or_default().push((deadline, call));
        self.count += 1;
        Ok(is_new)
    }

    /// Whether anybody waits for a version whose order is carried out now. Where nobody does, the order is over.
    pub(crate) fn is_awaited(&mut self, id: &VersionId) -> bool {
        let awaited = self.waiting.get(id).is_some_and(|calls| !calls.is_empty());
        if !awaited {
            self.waiting.remove(id);
        }
        awaited
    }

    /// Takes out the calls for a version, in the order in which they came.
    pub(crate) fn take(&mut self, id: &VersionId) -> Vec<C> {
        let calls = self.waiting.remove(id).unwrap_or_default();
        self.count -= calls.len();
        calls.into_iter().map(|(_, call)| call).collect()
    }

    /// Takes out the calls whose time is up, and those of which this says it.
    pub(crate) fn take_unwanted(&mut self, now: Instant, is_unwanted: impl Fn(&C) -> bool) -> Vec<C> {
        let is_over = |(deadline, call): &mut (Instant, C)| *deadline <= now || is_unwanted(call);
        let calls = self.waiting.values_mut();
        let gone: Vec<C> =
            calls.flat_map(|calls| calls.extract_if(.., is_over)).map(|(_, call)| call).collect();
        self.count -= gone.len();
        gone
    }

    /// How many wait.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The earliest deadline of those that wait.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().flatten().map(|(deadline, _)| *deadline).min()
    }
}

/// A loaded version, as far as its memory goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) id: VersionId,
    pub(crate) bytes: u64,
    /// When it answered last, or was loaded, in milliseconds since 1970.
    pub(crate) used_ms: u64,
    /// It has calls, or keeps the state of sequences: it stays.
    pub(crate) busy: bool,
}

/// Which versions go, so that one of `need` bytes fits: those that were not used for the longest, and no more of them
/// than needed.
///
/// # Errors
/// It does not fit beside those that have to stay; how many bytes these take.
pub(crate) fn to_evict(residents: &[Resident], need: u64, max: u64) -> Result<Vec<VersionId>, u64> {
    let sum = |residents: &mut dyn Iterator<Item = &Resident>| {
        residents.map(|resident| resident.bytes).fold(0, u64::saturating_add)
    };
    let stays = sum(&mut residents.iter().filter(|resident| resident.busy));
    if max < need.saturating_add(stays) {
        return Err(stays);
    }
    let mut left = sum(&mut residents.iter()).saturating_add(need);
    let mut idle: Vec<&Resident> = residents.iter().filter(|resident| !resident.busy).collect();
    idle.sort_by_key(|resident| (resident.used_ms, resident.id.clone()));
    let mut gone = Vec::new();
    for resident in idle {
        if left <= max {
            break;
        }
        left = left.saturating_sub(resident.bytes);
        gone.push(resident);
    }
    // A small one that went first is not needed where a large one had to go after it.
    let mut evicted = Vec::new();
    while let Some(resident) = gone.pop() {
        match left.saturating_add(resident.bytes) {
            with if with <= max => left = with,
            _ => evicted.push(resident.id.clone()),
        }
    }
    evicted.reverse();
    Ok(evicted)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lineside_wire::ModelVersion;
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> VersionId {
        VersionId { name: name.parse().unwrap(), version: ModelVersion(1) }
    }

    fn resident(name: &str, bytes: u64, used_ms: u64) -> Resident {
        Resident { id: id(name), bytes, used_ms, busy: false }
    }

    #[test]
    fn calls_wait_for_their_version_until_their_deadline() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut parking = Parking::new(3);
        assert_eq!(parking.park(&id("weld"), after(9), 'a'), Ok(true));
        assert_eq!(parking.park(&id("weld"), after(2), 'b'), Ok(false));
        assert_eq!(parking.park(&id("press"), after(5), 'c'), Ok(true));
        assert_eq!(parking.park(&id("saw"), after(5), 'd'), Err('d'));
        assert_eq!(parking.next_deadline(), Some(after(2)));
        assert_eq!(parking.take_unwanted(after(2), |_| false), ['b']);
        assert_eq!(parking.next_deadline(), Some(after(5)));
        assert_eq!(parking.park(&id("saw"), after(5), 'd'), Ok(true));
        assert_eq!(parking.take(&id("weld")), ['a']);
        assert!(parking.take(&id("weld")).is_empty());
        assert_eq!(parking.take_unwanted(after(2), |call| *call == 'd'), ['d']);
        assert_eq!(parking.take_unwanted(after(60), |_| false), ['c']);
        assert_eq!((parking.next_deadline(), parking.count()), (None, 0));
    }

    #[test]
    fn a_version_is_ordered_once_however_many_come_and_go() {
        let late = Instant::now() + Duration::from_secs(9);
        let (weld, mut parking) = (id("weld"), Parking::new(3));
        for first in [true, false, false] {
            assert_eq!(parking.park(&weld, late, 'a'), Ok(first));
            assert_eq!(parking.take_unwanted(Instant::now(), |_| true), ['a']);
        }
        assert!(!parking.is_awaited(&weld), "the order is not carried out for nobody");
        assert_eq!(parking.park(&weld, late, 'b'), Ok(true), "and the next caller orders anew");
        assert!(parking.is_awaited(&weld));
        assert_eq!(parking.park(&weld, late, 'c'), Ok(false));
        assert_eq!(parking.take(&weld), ['b', 'c']);
    }

    #[test]
    fn who_was_not_asked_for_the_longest_makes_room() {
        let floor = [resident("weld", 40, 3), resident("press", 40, 1), resident("saw", 10, 2)];
        assert_eq!(to_evict(&floor, 10, 100), Ok(vec![]));
        assert_eq!(to_evict(&floor, 20, 100), Ok(vec![id("press")]));
        assert_eq!(to_evict(&floor, 60, 100), Ok(vec![id("press"), id("saw")]));
        assert_eq!(to_evict(&floor, 101, 100), Err(0));
    }

    #[test]
    fn none_goes_that_need_not_and_none_that_is_at_work() {
        let small_first = [resident("saw", 10, 1), resident("press", 80, 2)];
        assert_eq!(to_evict(&small_first, 60, 100), Ok(vec![id("press")]));
        let mut busy = [resident("saw", 10, 1), resident("press", 80, 2)];
        busy[1].busy = true;
        assert_eq!(to_evict(&busy, 20, 100), Ok(vec![id("saw")]));
        assert_eq!(to_evict(&busy, 21, 100), Err(80));
    }

    proptest! {
        #[test]
        fn what_is_evicted_is_enough_and_not_more(
            floor in prop::collection::vec((0_u64..50, 0_u64..9, any::<bool>()), 0..8), need in 0_u64..80, max in 1_u64..120,
        ) {
            let floor: Vec<_> = floor.into_iter().enumerate()
                .map(|(at, (bytes, used_ms, busy))| Resident { busy, ..resident(&format!("m{at}"), bytes, used_ms) })
                .collect();
            let left = |gone: &[VersionId]| -> u64 {
                floor.iter().filter(|resident| !gone.contains(&resident.id)).map(|resident| resident.bytes).sum()
            };
            match to_evict(&floor, need, max) {
                Ok(gone) => {
                    prop_assert!(left(&gone) + need <= max);
                    for at in 0..gone.len() {
                        let mut fewer = gone.clone();
                        fewer.remove(at);
                        prop_assert!(max < left(&fewer) + need, "{} need not go", gone[at].name);
                    }
                    prop_assert!(floor.iter().all(|resident| !resident.busy || !gone.contains(&resident.id)));
                }
                Err(stays) => prop_assert!(max < stays + need),
            }
        }
    }
}
