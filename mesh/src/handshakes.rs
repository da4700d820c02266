//! The handshakes that run now, in all and by address.
//!
//! Only an address that was proved (QUIC Retry) counts: anybody can write another's into a packet, and would shut that
//! one out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    config::{HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX},
    origin::Origin,
};

/// Counted by guards, so that a panic cannot leak one. The lock is held for a look-up.
#[derive(Clone, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Running>>);

/// No longer than [`HANDSHAKES_MAX`].
#[derive(Default)]
struct Running {
    all: usize,
    by_origin: HashMap<Origin, usize>,
}

/// One that runs, until it is dropped.
pub(crate) struct Handshake {
    /// When it was proved.
    origin: Option<Origin>,
    of: Handshakes,
}

impl Handshakes {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.lock().all
    }

    /// Whether there is room for one more, from this address if it was proved. One address alone never takes all of
    /// it: with handshakes that stand still for seconds it would keep everybody else out.
    pub(crate) fn has_room(&self, proved: Option<IpAddr>) -> bool {
        let running = self.lock();
        let of_it = proved.and_then(|address| running.by_origin.get(&Origin::from(address))).copied();
        running.all < HANDSHAKES_MAX && of_it.is_none_or(|of_it| of_it < HANDSHAKES_PER_ADDRESS_MAX)
    }

    /// Counts one.
    pub(crate) fn begin(&self, proved: Option<IpAddr>) -> Handshake {
        let origin = proved.map(Origin::from);
        let mut running = self.lock();
        running.all += 1;
        if let Some(origin) = origin {
            *running.by_origin.entry(origin).or_default() += 1;
        }
        Handshake { origin, of: self.clone() }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut running = self.of.lock();
        running.all -= 1;
        let Some(origin) = self.origin else { return };
        if let Some(count) = running.by_origin.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                running.by_origin.remove(&origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_lets_handshakes_stand_leaves_room_for_others() {
        let handshakes = Handshakes::default();
        let [loud, mapped, quiet] =
            ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().ok());
        assert!(loud.is_some() && mapped.is_some() && quiet.is_some());
        let mut held = Vec::new();
        while handshakes.has_room(loud) {
            held.push(handshakes.begin(loud));
        }
        assert_eq!(
            (held.len(), handshakes.running()),
            (HANDSHAKES_PER_ADDRESS_MAX, HANDSHAKES_PER_ADDRESS_MAX)
        );
        assert!(!handshakes.has_room(mapped) && handshakes.has_room(quiet));
        held.pop();
        assert!(handshakes.has_room(loud));
        // Whoever writes another's address into its packets takes none of that one's places.
        held.push(handshakes.begin(None));
        assert!(handshakes.has_room(loud));
        held.clear();
        assert!(handshakes.lock().by_origin.is_empty() && handshakes.running() == 0);
    }

    #[test]
    fn all_together_have_a_limit_too() {
        let handshakes = Handshakes::default();
        let mut held = Vec::new();
        for n in 0.. {
            let address = Some(IpAddr::from([10, 0, 1, n]));
            if !handshakes.has_room(address) {
                break;
            }
            held.push(handshakes.begin(address));
        }
        assert_eq!(held.len(), HANDSHAKES_MAX);
    }
}
