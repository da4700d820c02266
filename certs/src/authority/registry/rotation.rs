//! From one generation of the authority to the next.

use std::{collections::BTreeMap, time::SystemTime};

use lineside_wire::{NodeId, Role};

use super::{Generation, Registry, seconds};
use crate::{
    TokenId,
    authority::{IssuedRow, Rotation},
};

impl Registry {
    /// The generation that is to go, while a rotation runs.
    pub(in crate::authority) fn retiring(&self) -> Option<u32> {
        match &self.generations[..] {
            [retiring, _] => Some(retiring.number),
            _ => None,
        }
    }

    /// Adds the next generation, which signs from now on.
    ///
    /// # Panics
    /// A rotation runs: the caller has asked [`Registry::retiring`].
    pub(in crate::authority) fn begin_rotation(&mut self, fingerprint: [u8; 32]) -> u32 {
        assert!(self.retiring().is_none(), "one rotation at a time");
        let number = self.issuing().number + 1;
        self.generations.push(Generation { number, fingerprint, crl_number: 0, held: true });
        number
    }

    /// Drops all generations but the one that signs, and what belonged to them; gives the tokens that this revoked.
    pub(in crate::authority) fn finish_rotation(&mut self, now: SystemTime) -> Vec<TokenId> {
        let issuing = self.issuing().clone();
        self.generations = vec![issuing];
        self.forget_gone_generations(seconds(now))
    }

    /// Forgets what belonged to generations that are no longer there: nobody trusts their certificates, so there is
    /// nothing to revoke either.
    pub(super) fn forget_gone_generations(&mut self, now: u64) -> Vec<TokenId> {
        let generations: Vec<u32> = self.generations.iter().map(|generation| generation.number).collect();
        self.revoked_serials
            .retain(|_, revoked| revoked.generation.is_none_or(|of| generations.contains(&of)));
        self.revoke_tokens_without_authority(now)
    }

    /// How far a rotation has come.
    pub(in crate::authority) fn rotation(&self, now: SystemTime) -> Rotation {
        let retiring = self.retiring();
        let waiting = retiring.map(|retiring| self.newest_of(retiring, seconds(now))).unwrap_or_default();
        Rotation { issuing: self.issuing().number, retiring, waiting }
    }

    /// Of those who renew by themselves: whose newest good certificate is of this generation.
    fn newest_of(&self, generation: u32, now: u64) -> Vec<IssuedRow> {
        let mut newest: BTreeMap<NodeId, &IssuedRow> = BTreeMap::new();
        let good = |row: &&IssuedRow| {
            row.role != Role::Admin && now < row.not_after && !self.is_revoked(row.node, &row.serial)
        };
        for row in self.issued.iter().filter(good) {
            newest.insert(row.node, row);
        }
        newest.into_values().filter(|row| row.generation == generation).cloned().collect()
    }
}
