//! Counts the tries to join, by address. Pure.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use crate::origin::Origin;

/// Tries of one address within [`WINDOW`]: a person types no faster, and 128 secret bits are not guessed at this rate.
pub(super) const TRIES_MAX: usize = 5;

/// The time in which tries are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered. Past it, the one is forgotten that has tried nothing for the longest: whoever has so
/// many addresses may try more often, but cannot keep others from joining.
const ADDRESSES_MAX: usize = 1024;

/// The tries of the last minute, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tries(HashMap<Origin, VecDeque<Instant>>);

impl Tries {
    /// Counts one try.
    ///
    /// # Errors
    /// There were too many; the next one is allowed after this time. It is not counted.
    pub(super) fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let origin = Origin::from(address);
        if !self.0.contains_key(&origin) && ADDRESSES_MAX <= self.0.len() {
            self.make_room(now);
        }
        let tries = self.0.entry(origin).or_default();
        tries.retain(|at| now.duration_since(*at) < WINDOW);
        match tries.front() {
            Some(oldest) if TRIES_MAX <= tries.len() => Err((*oldest + WINDOW).duration_since(now)),
            _ => {
                tries.push_back(now);
                Ok(())
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, tries| tries.back().is_some_and(|last| now.duration_since(*last) < WINDOW));
        if ADDRESSES_MAX <= self.0.len() {
            let longest_ago = self.0.iter().min_by_key(|(_, tries)| tries.back()).map(|(origin, _)| *origin);
            longest_ago.map(|origin| self.0.remove(&origin));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const CELL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_sixth_try_within_a_minute_waits_until_the_first_is_a_minute_old() {
        let (mut tries, start) = (Tries::default(), Instant::now());
        for n in 0..5 {
            assert_eq!(tries.take(CELL, start + s(n)), Ok(()));
        }
        assert_eq!(tries.take(CELL, start + s(10)), Err(s(50)));
        assert_eq!(tries.take(CELL, start + s(59)), Err(s(1)), "what was refused does not count");
        assert_eq!(tries.take(CELL, start + s(60)), Ok(()));
        assert_eq!(tries.take(CELL, start + s(60)), Err(s(1)));
    }

    #[test]
    fn addresses_do_not_share_their_tries_and_networks_of_ipv6_do() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        let v6 = |network, host| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, network, 0, 0, 0, host));
        for host in 0..5 {
            assert_eq!(tries.take(v6(1, host), now), Ok(()));
            assert_eq!(tries.take(CELL, now), Ok(()));
        }
        assert!(tries.take(v6(1, 99), now).is_err());
        assert_eq!(tries.take(v6(2, 1), now), Ok(()));
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped());
        assert!(tries.take(mapped, now).is_err(), "the same address in another coat");
    }

    #[test]
    fn addresses_without_end_are_forgotten_the_stalest_first() {
        let (mut tries, start) = (Tries::default(), Instant::now());
        let flood = |n: u16| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, n, 0, 0, 0, 1));
        for _ in 0..5 {
            assert_eq!(tries.take(CELL, start), Ok(()));
        }
        for n in 0..5_000 {
            assert_eq!(tries.take(flood(n), start + Duration::from_millis(u64::from(n) + 1)), Ok(()));
            assert!(tries.0.len() <= ADDRESSES_MAX);
        }
        assert_eq!(tries.take(CELL, start + s(6)), Ok(()), "nobody is kept out by the flood");
        assert_eq!(tries.take(flood(4_999), start + s(6)), Ok(()));
        assert_eq!(tries.0[&flood(4_999).into()].len(), 2);
    }
}
