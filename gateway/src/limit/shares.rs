//! Who has how many of the door's places, so that a client with many requests leaves some to the others.
//!
//! Counters in a table of fixed size, without a lock. While there is room everybody may take it. Once three quarters of the
//! places are taken, a client that has as many as its share, of all clients that have any, gets no further one; and a
//! client that is alone is taken for one of two, so that the other one finds a place when it comes. So a flood never has
//! more than three quarters, and gives up to its share again as its requests end.
//!
//! Clients are told apart by a hash under this process's own secret: two that fall on one place are counted as one, which
//! nobody can bring about.
//!
//! Nobody vouches for a name, so an address has so many shares as it can have quotas ([`NAMES_PER_ADDRESS`]), however many
//! names come from there: whoever invents names takes from those at its own address, and from nobody else.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::NAMES_PER_ADDRESS;

/// Shares of one address.
const SHARES: usize = NAMES_PER_ADDRESS as usize;

/// Clients that are told apart. With a thousand places at most a thousand clients have any, so one of them shares its
/// count with another one in four cases, and with a certain one hardly ever. 96 KB.
const CLIENTS: usize = 4096;

/// Part of the places that anybody may take, in quarters.
const FREE_FOR_ALL: usize = 3;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// All are taken.
    Full,
    /// What is left is for those who have less: this client has so many.
    Share(usize),
}

/// The door's places.
#[derive(Debug)]
pub(crate) struct Shares {
    max: usize,
    taken: AtomicUsize,
    by_client: Box<[AtomicUsize]>,
    accounts: Box<[Account]>,
    /// Clients that have any, of each account no more than it has shares.
    active: AtomicUsize,
}

/// Clients who are one for all that anybody knows: the names of one address. Any other client is alone in its account.
#[derive(Debug, Default)]
struct Account {
    taken: AtomicUsize,
    /// Its clients that have any.
    active: AtomicUsize,
}

/// A client's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    own: usize,
    account: usize,
}

impl Client {
    /// By the hash of the client, and of whoever answers for it: most clients do so themselves.
    pub(crate) fn of(own: u64, account: u64) -> Self {
        // Of 4096, whatever a pointer's width is.
        let place = |hash: u64| usize::try_from(hash % CLIENTS as u64).expect("below 4096");
        Self { own: place(own), account: place(account) }
    }
}

impl Shares {
    /// So many places.
    pub(crate) fn of(max: usize) -> Self {
        let [taken, active] = [0; 2].map(AtomicUsize::new);
        let by_client = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
        let accounts = (0..CLIENTS).map(|_| Account::default()).collect();
        Self { max, taken, by_client, accounts, active }
    }

    /// Takes a place.
    pub(crate) fn enter(&self, client: Client) -> Result<(), Crowded> {
        let add = |count: usize| (count < self.max).then_some(count + 1);
        let before =
            self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Crowded::Full)?;
        let own = self.by_client[client.own].fetch_add(1, Ordering::Relaxed);
        let account = &self.accounts[client.account];
        let together = account.taken.fetch_add(1, Ordering::Relaxed);
        if own == 0 && account.active.fetch_add(1, Ordering::Relaxed) < SHARES {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        if self.has_share(before, own, account, together) {
            self.leave(client);
            return Err(Crowded::Share(own));
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn leave(&self, client: Client) {
        let account = &self.accounts[client.account];
        if self.by_client[client.own].fetch_sub(1, Ordering::Relaxed) == 1
            && account.active.fetch_sub(1, Ordering::Relaxed) <= SHARES
        {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
        account.taken.fetch_sub(1, Ordering::Relaxed);
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether there would be a place, which may be gone in a moment.
    pub(crate) fn has_room(&self, client: Client) -> Result<(), Crowded> {
        let taken = self.taken.load(Ordering::Relaxed);
        let own = self.by_client[client.own].load(Ordering::Relaxed);
        let account = &self.accounts[client.account];
        let together = account.taken.load(Ordering::Relaxed);
        match (self.max <= taken, self.has_share(taken, own, account, together)) {
            (true, _) => Err(Crowded::Full),
            (false, true) => Err(Crowded::Share(own)),
            (false, false) => Ok(()),
        }
    }

    /// Whether a client that has so many, and its account so many, must leave the rest to others, while so many are taken.
    fn has_share(&self, taken: usize, own: usize, account: &Account, together: usize) -> bool {
        let active = self.active.load(Ordering::Relaxed);
        let shares = account.active.load(Ordering::Relaxed).clamp(1, SHARES);
        let others = active.saturating_sub(shares);
        // Who is alone is not: somebody else is about to come. Two names of one address are not to wait for that, though.
        let least = if others == 0 { self.max - self.max / 8 } else { 0 };
        let of_account = (self.max * shares).div_ceil(shares + others.max(1)).max(least);
        (self.max * FREE_FOR_ALL).div_ceil(4) <= taken
            && (self.max.div_ceil(active.max(2)) <= own || of_account <= together)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// One that answers for itself.
    fn alone(number: usize) -> Client {
        Client { own: number, account: number }
    }

    fn fill(shares: &Shares, client: Client) -> usize {
        std::iter::from_fn(|| shares.enter(client).ok()).count()
    }

    #[test]
    fn a_flood_leaves_a_quarter_and_shrinks_to_its_share_as_others_come() {
        let [flood, second, third] = [1, 2, 3].map(alone);
        let shares = Shares::of(100);
        assert_eq!(fill(&shares, flood), 75);
        assert_eq!(
            (shares.enter(flood), shares.has_room(flood)),
            (Err(Crowded::Share(75)), Err(Crowded::Share(75)))
        );
        assert_eq!((fill(&shares, second), shares.has_room(third)), (25, Err(Crowded::Full)));

        // The flood's requests end; those who wait get its places until each has its share.
        for more in 0..25 {
            shares.leave(flood);
            assert_eq!(shares.enter(flood), Err(Crowded::Share(74 - more)));
            assert_eq!(shares.enter(second), Ok(()));
        }
        assert_eq!((shares.enter(second), shares.enter(flood)), (Err(Crowded::Full), Err(Crowded::Full)));
        shares.leave(flood);
        assert_eq!(shares.enter(second), Err(Crowded::Share(50)));
        assert_eq!(shares.enter(third), Ok(()), "who has none finds one");
    }

    #[test]
    fn a_few_places_are_places_for_one_client_too() {
        for (max, most) in [(1, 1), (2, 2), (3, 3), (4, 3), (8, 6)] {
            let shares = Shares::of(max);
            assert_eq!(fill(&shares, alone(1)), most, "of {max}");
        }
    }

    #[test]
    fn an_address_has_no_more_shares_for_more_names() {
        let shares = Shares::of(1_000);
        let names: Vec<_> = (10..4_000).map(|own| Client { own, account: 1 }).collect();
        let taken = names.iter().filter(|name| shares.enter(**name).is_ok()).count();
        assert_eq!(
            (taken, shares.active.load(Ordering::Relaxed)),
            (942, SHARES),
            "sixteen of seventeen parts"
        );
        assert_eq!(fill(&shares, alone(2)), 58, "what is left of a thousand");
        names.iter().take(taken).for_each(|name| shares.leave(*name));
        assert_eq!((shares.active.load(Ordering::Relaxed), shares.taken.load(Ordering::Relaxed)), (1, 58));
    }

    proptest! {
        #[test]
        fn nobody_is_kept_out_below_its_share_and_nothing_leaks(
            max in 1_usize..40,
            events in prop::collection::vec((0_usize..6, any::<bool>()), 0..300),
        ) {
            let shares = Shares::of(max);
            let mut held = HashMap::<usize, usize>::new();
            for (client, comes) in events {
                let total: usize = held.values().sum();
                let own = held.get(&client).copied().unwrap_or(0);
                if comes {
                    let active = held.len() + usize::from(own == 0);
                    let seen = shares.has_room(alone(client));
                    match shares.enter(alone(client)) {
                        Ok(()) => *held.entry(client).or_default() += 1,
                        Err(Crowded::Full) => prop_assert_eq!(total, max),
                        Err(Crowded::Share(told)) => {
                            prop_assert_eq!(told, own);
                            prop_assert!(max / active.max(2) <= own && max * 3 <= total * 4);
                            prop_assert_eq!(seen, Err(Crowded::Share(told)));
                        }
                    }
                } else if 0 < own {
                    shares.leave(alone(client));
                    held.insert(client, own - 1);
                }
                held.retain(|_, count| 0 < *count);
                prop_assert_eq!(shares.taken.load(Ordering::Relaxed), held.values().sum::<usize>());
                prop_assert_eq!(shares.active.load(Ordering::Relaxed), held.len());
            }
        }
    }
}
