//! Join tokens: each good for one machine, one role and a short time.

use std::time::SystemTime;

use lineside_wire::{NodeId, Role};
use serde::{Deserialize, Serialize};

use super::{CLOSED_TOKENS_MAX, DAY, OPEN_TOKENS_MAX, Registry, seconds};
use crate::{
    TokenId,
    authority::{TokenRow, TokenState},
    encoding::{base64, hex},
};

/// A token as it is remembered: not its secret, but what proofs are checked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(with = "hex")]
    id: [u8; 8],
    #[serde(with = "hex")]
    key: [u8; 32],
    role: Role,
    name: Option<String>,
    /// The authority that the joiner is told to expect.
    generation: u32,
    created: u64,
    expires: u64,
    end: Option<End>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum End {
    Used(Used),
    Revoked { at: u64 },
}

/// What a token was used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::authority) struct Used {
    /// In seconds since 1970.
    pub(in crate::authority) at: u64,
    /// The member that came of it.
    pub(in crate::authority) node: NodeId,
    /// SHA-256 of its SPKI.
    #[serde(with = "hex")]
    pub(in crate::authority) key: [u8; 32],
    /// Its serial number.
    pub(in crate::authority) serial: String,
    /// What it was told: leaf first, DER.
    pub(in crate::authority) certificates: Vec<Certificate>,
}

/// A certificate, DER.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::authority) struct Certificate(#[serde(with = "base64")] pub(in crate::authority) Vec<u8>);

/// A token to be.
#[derive(Clone, Debug)]
pub(in crate::authority) struct NewToken {
    pub(in crate::authority) id: TokenId,
    /// What proofs are checked with.
    pub(in crate::authority) key: [u8; 32],
    pub(in crate::authority) role: Role,
    pub(in crate::authority) name: Option<String>,
    /// In seconds since 1970.
    pub(in crate::authority) expires: u64,
}

/// Why a token is not good for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::authority) enum TokenRefusal {
    Unknown,
    Expired,
    /// Used or revoked.
    Used,
    OtherRole(Role),
}

/// There are as many open tokens as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::authority) struct TooMany;

impl Entry {
    fn state(&self, now: u64) -> TokenState {
        match &self.end {
            Some(End::Used(_)) => TokenState::Used,
            Some(End::Revoked { .. }) => TokenState::Revoked,
            None if self.expires <= now => TokenState::Expired,
            None => TokenState::Open,
        }
    }

    fn row(&self, now: u64) -> TokenRow {
        let used_by = match &self.end {
            Some(End::Used(used)) => Some(used.node),
            Some(End::Revoked { .. }) | None => None,
        };
        TokenRow {
            id: TokenId(self.id),
            role: self.role,
            name: self.name.clone(),
            expires: self.expires,
            state: self.state(now),
            used_by,
        }
    }
}

impl Registry {
    /// Adds a token of the authority that signs now.
    pub(in crate::authority) fn add_token(
        &mut self,
        token: NewToken,
        now: SystemTime,
    ) -> Result<(), TooMany> {
        let now = seconds(now);
        self.forget_tokens(now);
        let open = self.tokens.iter().filter(|entry| entry.state(now) == TokenState::Open).count();
        if OPEN_TOKENS_MAX <= open {
            return Err(TooMany);
        }
        let NewToken { id: TokenId(id), key, role, name, expires } = token;
        let generation = self.issuing().number;
        self.tokens.push(Entry { id, key, role, name, generation, created: now, expires, end: None });
        Ok(())
    }

    /// What proofs with this token are checked with.
    pub(in crate::authority) fn token_key(&self, id: TokenId) -> Option<[u8; 32]> {
        self.entry(id).map(|entry| entry.key)
    }

    /// Whether a token whose proof was right is good for this role; gives the name that it fixes.
    ///
    /// A used one passes within its time: the answer may have been lost, see [`Registry::answer_of`].
    pub(in crate::authority) fn admit(
        &self,
        id: TokenId,
        role: Role,
        now: SystemTime,
    ) -> Result<Option<String>, TokenRefusal> {
        let entry = self.entry(id).ok_or(TokenRefusal::Unknown)?;
        let is_over = entry.expires <= seconds(now);
        match (&entry.end, is_over) {
            (Some(End::Revoked { .. }), _) | (Some(End::Used(_)), true) => Err(TokenRefusal::Used),
            (None, true) => Err(TokenRefusal::Expired),
            (Some(End::Used(_)) | None, false) if entry.role != role => {
                Err(TokenRefusal::OtherRole(entry.role))
            }
            (Some(End::Used(_)) | None, false) => Ok(entry.name.clone()),
        }
    }

    /// Whether a token was used.
    pub(in crate::authority) fn is_used(&self, id: TokenId) -> bool {
        self.entry(id).is_some_and(|entry| matches!(entry.end, Some(End::Used(_))))
    }

    /// What a token was used for, if it was used with this key; `None` when it is open. For another key it is used up.
    pub(in crate::authority) fn answer_of(
        &self,
        id: TokenId,
        key: &[u8; 32],
    ) -> Result<Option<&Used>, TokenRefusal> {
        match &self.entry(id).ok_or(TokenRefusal::Unknown)?.end {
            None => Ok(None),
            Some(End::Used(used)) if used.key == *key && !self.is_revoked(used.node, &used.serial) => {
                Ok(Some(used))
            }
            Some(End::Used(_) | End::Revoked { .. }) => Err(TokenRefusal::Used),
        }
    }

    /// Uses an open token up.
    pub(in crate::authority) fn use_token(&mut self, id: TokenId, used: Used) -> Result<(), TokenRefusal> {
        let entry = self.tokens.iter_mut().find(|entry| entry.id == id.0).ok_or(TokenRefusal::Unknown)?;
        match entry.end {
            None => entry.end = Some(End::Used(used)),
            Some(_) => return Err(TokenRefusal::Used),
        }
        Ok(())
    }

    /// Takes a token back; false when it is not open.
    pub(in crate::authority) fn revoke_token(&mut self, id: TokenId, now: SystemTime) -> bool {
        let now = seconds(now);
        let open = |entry: &&mut Entry| entry.id == id.0 && entry.state(now) == TokenState::Open;
        match self.tokens.iter_mut().find(open) {
            Some(entry) => entry.end = Some(End::Revoked { at: now }),
            None => return false,
        }
        true
    }

    /// Takes back the open tokens whose joiners would expect an authority that is no longer there.
    pub(super) fn revoke_tokens_without_authority(&mut self, now: u64) -> Vec<TokenId> {
        let generations: Vec<u32> = self.generations.iter().map(|generation| generation.number).collect();
        let mut gone = Vec::new();
        for entry in self.tokens.iter_mut().filter(|entry| !generations.contains(&entry.generation)) {
            if entry.state(now) == TokenState::Open {
                entry.end = Some(End::Revoked { at: now });
                gone.push(TokenId(entry.id));
            }
        }
        gone
    }

    /// The tokens that are known, newest first.
    pub(in crate::authority) fn token_rows(&self, now: SystemTime) -> Vec<TokenRow> {
        let now = seconds(now);
        let known = self.tokens.iter().rev().filter(|entry| now < entry.expires.saturating_add(DAY));
        known.map(|entry| entry.row(now)).collect()
    }

    pub(super) fn forget_tokens(&mut self, now: u64) {
        self.tokens.retain(|entry| now < entry.expires.saturating_add(DAY));
        let closed = self.tokens.iter().filter(|entry| entry.state(now) != TokenState::Open).count();
        let mut too_many = closed.saturating_sub(CLOSED_TOKENS_MAX);
        self.tokens.retain(|entry| {
            let goes = 0 < too_many && entry.state(now) != TokenState::Open;
            too_many -= usize::from(goes);
            !goes
        });
    }

    fn entry(&self, id: TokenId) -> Option<&Entry> {
        self.tokens.iter().find(|entry| entry.id == id.0)
    }
}
