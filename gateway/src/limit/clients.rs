//! What is remembered of each client, or model: when its quota is full again.
//!
//! A bounded map. Who finds no place shares one bucket with the others who found none.

use std::{
    collections::{HashMap, hash_map::RandomState},
    convert::Infallible,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};
use lineside_wire::NodeId;

use super::{ClientKey, NAMES_PER_ADDRESS};

/// Parts of the memory with a lock each, so that shards rarely meet.
pub(super) const PARTS: usize = 16;

/// Who has a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Name(u64),
    Address(u128),
    Peer(NodeId),
    Key([u8; 8]),
    Model(u64),
    OtherModels,
}

#[derive(Clone, Copy, Debug)]
struct State {
    full_at: Nanos,
    /// The address that brought the name, and has one place less for others meanwhile.
    brought_by: Option<u128>,
}

/// The buckets of all clients. A clone has the same ones.
#[derive(Clone)]
pub(super) struct Clients(Arc<Buckets>);

struct Buckets {
    parts: Vec<Mutex<HashMap<Bucket, State>>>,
    part_max: usize,
    /// Names that have a bucket, by the address that brought them: never more entries than there are buckets. Taken
    /// when a name comes or goes, behind the lock of its part.
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
        Self(Arc::new(Buckets::new(clients_max)))
    }

    /// Whether a client that nothing can bring (no [`ClientKey::Name`]) has a bucket of its own.
    pub(super) fn has(&self, client: ClientKey) -> bool {
        let bucket = Bucket::from(client);
        locked(self.0.part(bucket)).contains_key(&bucket)
    }

    /// Makes a client that was let through wait for so much longer.
    pub(super) fn owe(&self, client: ClientKey, more: Duration) {
        let later = |full_at: Option<Nanos>| Ok(((), full_at.unwrap_or_default() + Nanos::from(more)));
        let Ok(()) = self.measure_and_replace::<_, _, Infallible>(&client, later);
    }
}

impl From<ClientKey> for Bucket {
    fn from(client: ClientKey) -> Self {
        match client {
            ClientKey::Name { name, .. } => Self::Name(name),
            ClientKey::Address(address) => Self::Address(address),
            ClientKey::Peer(node) => Self::Peer(node),
            ClientKey::Key(id) => Self::Key(id),
            ClientKey::Model(name) => Self::Model(name),
            ClientKey::OtherModels => Self::OtherModels,
        }
    }
}

impl Buckets {
    fn new(clients_max: usize) -> Self {
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

    /// Whether the address may bring one name more; then it has.
    fn bring(&self, address: u128) -> bool {
        let mut brought = locked(&self.brought);
        let keys = brought.entry(address).or_default();
        let may = *keys < NAMES_PER_ADDRESS;
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

    /// Measures a bucket, which is made when there is room; `None` when `bringing` has had all its names.
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
            ClientKey::Name { name, address } => {
                if let Some(outcome) = self.0.measure(Bucket::Name(name), Some(address), &measure) {
                    return outcome;
                }
                Bucket::Address(address)
            }
            other => Bucket::from(other),
        };
        self.0.measure(bucket, None, &measure).expect("only a name is brought by an address")
    }
}

impl ShrinkableKeyedStateStore<ClientKey> for Clients {
    fn retain_recent(&self, drop_below: Nanos) {
        for part in &self.0.parts {
            locked(part).retain(|_, state| {
                let keep = drop_below < state.full_at;
                if let Some(address) = state.brought_by.filter(|_| !keep) {
                    self.0.let_go(address);
                }
                keep
            });
        }
    }

    fn len(&self) -> usize {
        self.0.parts.iter().map(|part| locked(part).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
