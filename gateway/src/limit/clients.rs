//! What is remembered of each client: when its quota is full again.
//!
//! A bounded map. Who finds no place shares one bucket with the others who found none.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use lineside_wire::NodeId;

use super::{ClientKey, KEYS_PER_ADDRESS};

/// Parts of the memory with a lock each, so that shards rarely meet.
pub(super) const PARTS: usize = 16;

/// Who has a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Key(u64),
    Address(u128),
    Peer(NodeId),
}

#[derive(Clone, Copy, Debug)]
struct State {
    full_at: Nanos,
    /// The address that brought the key, and has one place less for others meanwhile.
    brought_by: Option<u128>,
}

/// The buckets of all clients.
pub(super) struct Clients {
    parts: Vec<Mutex<HashMap<Bucket, State>>>,
    part_max: usize,
    /// Keys that have a bucket, by the address that brought them: never more entries than there are buckets. Taken
    /// when a key comes or goes, behind the lock of its part.
    brought: Mutex<HashMap<u128, u32>>,
    shared: Mutex<Option<Nanos>>,
    hasher: RandomState,
}

/// A lock that outlives a panic of its holder: every state in here is valid.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    pub(super) fn new(clients_max: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            part_max: clients_max.div_ceil(PARTS),
            brought: Mutex::default(),
            shared: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    fn part(&self, bucket: Bucket) -> &Mutex<HashMap<Bucket, State>> {
        &self.parts[(self.hasher.hash_one(bucket) % PARTS as u64) as usize]
    }

    /// Whether the address may bring one key more; then it has.
    fn bring(&self, address: u128) -> bool {
        let mut brought = locked(&self.brought);
        let keys = brought.entry(address).or_default();
        let may = *keys < KEYS_PER_ADDRESS;
        *keys += u32::from(may);
        may
    }

    fn let_go(&self, address: u128) {
        let mut brought = locked(&self.brought);
        if let Some(keys) = brought.get_mut(&address) {
            *keys = keys.saturating_sub(1);
            if *keys == 0 {
                brought.remove(&address);
            }
        }
    }

    /// Measures a bucket, which is made when there is room; `None` when `bringing` has had all its keys.
    fn measure<T, E>(
        &self,
        bucket: Bucket,
        bringing: Option<u128>,
        measure: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Option<Result<T, E>> {
        let mut part = locked(self.part(bucket));
        if let Some(state) = part.get_mut(&bucket) {
            return Some(measure(Some(state.full_at)).map(|(outcome, next)| {
                state.full_at = next;
                outcome
            }));
        }
        if part.len() < self.part_max {
            let (outcome, full_at) = match measure(None) {
                Ok(measured) => measured,
                Err(refused) => return Some(Err(refused)),
            };
            if bringing.is_some_and(|address| !self.bring(address)) {
                return None;
            }
            part.insert(bucket, State { full_at, brought_by: bringing });
            return Some(Ok(outcome));
        }
        drop(part);
        let mut shared = locked(&self.shared);
        Some(measure(*shared).map(|(outcome, next)| {
            *shared = Some(next);
            outcome
        }))
    }
}

impl StateStore for Clients {
    type Key = ClientKey;

    fn measure_and_replace<T, F, E>(&self, client: &ClientKey, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let bucket = match *client {
            ClientKey::Key { key, address } => {
                if let Some(outcome) = self.measure(Bucket::Key(key), Some(address), &measure) {
                    return outcome;
                }
                Bucket::Address(address)
            }
            ClientKey::Address(address) => Bucket::Address(address),
            ClientKey::Peer(node) => Bucket::Peer(node),
        };
        self.measure(bucket, None, &measure).expect("only a key is brought by an address")
    }
}

impl ShrinkableKeyedStateStore<ClientKey> for Clients {
    fn retain_recent(&self, drop_below: Nanos) {
        for part in &self.parts {
            locked(part).retain(|_, state| {
                let keep = drop_below < state.full_at;
                if let Some(address) = state.brought_by.filter(|_| !keep) {
                    self.let_go(address);
                }
                keep
            });
        }
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| locked(part).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
