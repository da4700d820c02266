//! The keys that are in force, and whom a text that is shown belongs to.

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use lineside_certs::WholeApiKey;
use lineside_wire::ApiKey;

use crate::limit::{Limit, Limiter};

/// A rate and a burst.
type Quota = (NonZeroU32, Option<NonZeroU32>);

/// Every key of the cluster, by its id.
#[derive(Default)]
pub(crate) struct KeyRing {
    by_id: HashMap<[u8; 8], Arc<ApiKey>>,
    /// The limits that keys have of their own. Keys with the same one are counted each by itself in the same place.
    own: HashMap<Quota, Arc<Limiter>>,
}

/// The limit of its own that a key has.
fn quota_of(key: &ApiKey) -> Option<Quota> {
    Some((NonZeroU32::new(key.rate?)?, key.burst.and_then(NonZeroU32::new)))
}

impl KeyRing {
    /// A ring with these keys. Limits that `before` has already keep their counts.
    pub(crate) fn new(keys: Vec<ApiKey>, before: &Self) -> Self {
        let mut own = HashMap::new();
        for quota in keys.iter().filter_map(quota_of) {
            own.entry(quota).or_insert_with(|| match before.own.get(&quota) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Limiter::new(Limit::Client, quota.0, quota.1)),
            });
        }
        let by_id = keys.into_iter().map(|key| (*key.id, Arc::new(key))).collect();
        Self { by_id, own }
    }

    /// The key that a text is, if it is valid now, in seconds since 1970.
    pub(crate) fn find(&self, text: &[u8], now: u64) -> Option<Arc<ApiKey>> {
        let shown: WholeApiKey = std::str::from_utf8(text).ok()?.parse().ok()?;
        let known = self.by_id.get(&shown.id().0)?;
        (shown.is(known) && !known.is_over(now)).then(|| Arc::clone(known))
    }

    /// Whether a key that was found once is valid now.
    pub(crate) fn has(&self, key: &ApiKey, now: u64) -> bool {
        !key.is_over(now) && self.by_id.get(&*key.id).is_some_and(|known| known.hash == key.hash)
    }

    /// The limit that a key has of its own, if any.
    pub(crate) fn limit_of(&self, key: &ApiKey) -> Option<&Limiter> {
        self.own.get(&quota_of(key)?).map(|limiter| &**limiter)
    }

    pub(crate) fn forget_idle(&self) {
        self.own.values().for_each(|limiter| limiter.forget_idle());
    }
}
