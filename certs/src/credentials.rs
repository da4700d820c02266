//! The identity that a running process shows and goes by; it can change while connections stand.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{Clock, Identity};

/// A handle on the present identity, cheap to clone. Meshes that were made with it follow every change.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    identity: ArcSwap<Identity>,
    clock: Clock,
    changed: watch::Sender<u64>,
    /// Held for a change, so that of two at once none is lost.
    changing: Mutex<()>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Begins with this identity. The clock learns from it that its validity has begun.
    #[must_use]
    pub fn new(identity: Arc<Identity>, clock: Clock) -> Self {
        clock.learn(identity.not_before());
        let changed = watch::Sender::new(0);
        let (identity, changing) = (ArcSwap::new(identity), Mutex::new(()));
        Self(Arc::new(Inner { identity, clock, changed, changing }))
    }

    /// The identity now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.0.identity.load_full()
    }

    /// The clock by which certificates are judged.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Puts a renewed certificate or a newer trust list in force: new connections use it at once, and those whose
    /// peer is no longer trusted are closed.
    ///
    /// # Panics
    /// It is another member's identity.
    pub fn replace(&self, identity: Arc<Identity>) {
        self.change(|_| Some(identity));
    }

    /// As [`Credentials::replace`], with what is made of the identity in force; `None` leaves it. Nobody else changes it in
    /// between: a renewed certificate and a newer trust list that come at the same moment both last. `make` must not
    /// come back here.
    ///
    /// # Panics
    /// It is another member's identity.
    pub fn change(&self, make: impl FnOnce(&Identity) -> Option<Arc<Identity>>) {
        let _one_at_a_time = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.identity();
        let Some(identity) = make(&present) else { return };
        assert_eq!(
            (present.cluster(), present.node()),
            (identity.cluster(), identity.node()),
            "the same member"
        );
        self.0.clock.learn(identity.not_before());
        self.0.identity.store(identity);
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// Told at every change; the value counts them.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

impl From<Arc<Identity>> for Credentials {
    fn from(identity: Arc<Identity>) -> Self {
        Self::new(identity, Clock::system())
    }
}

impl From<Identity> for Credentials {
    fn from(identity: Identity) -> Self {
        Arc::new(identity).into()
    }
}
