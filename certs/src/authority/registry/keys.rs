//! API keys: made and taken back here, known to every door by the trust list.
//!
//! A key is in force until a day after its time is over; then lists leave it out, and it is only remembered. One that was
//! taken back is named in lists for as long as it would have been in force, so that a copy of the authority that was kept
//! for a while does not bring it back.

use std::{collections::BTreeMap, time::SystemTime};

use lineside_wire::{API_KEYS_BYTES_MAX, API_KEYS_MAX, API_KEYS_REVOKED_MAX, ApiKey, RevokedApiKey};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use super::{DAY, Registry, seconds};
use crate::{
    ApiKeyId,
    authority::{ApiKeyRow, ApiKeyState},
    encoding::hex,
};

/// A key as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(with = "hex")]
    id: [u8; 8],
    #[serde(with = "hex")]
    hash: [u8; 32],
    name: String,
    models: Vec<String>,
    methods: Vec<String>,
    /// In seconds since 1970; `None` where another holder of the authority's key made it.
    created: Option<u64>,
    expires: Option<u64>,
    rate: Option<u32>,
    burst: Option<u32>,
}

/// A key that was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gone {
    #[serde(with = "hex")]
    id: [u8; 8],
    at: u64,
    ends: Option<u64>,
    /// What is known of it here.
    entry: Option<Entry>,
}

/// There are as many keys as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::authority) struct NoRoomForKey;

/// What a list says of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::authority) struct KeysOfList {
    /// In the order of their ids.
    pub(in crate::authority) live: BTreeMap<[u8; 8], ApiKey>,
    pub(in crate::authority) revoked: BTreeMap<[u8; 8], RevokedApiKey>,
}

impl Entry {
    fn new(key: &ApiKey, created: Option<u64>) -> Self {
        let ApiKey { id, hash, name, models, methods, expires, rate, burst } = key.clone();
        let (id, hash) = (id.into_array(), hash.into_array());
        Self { id, hash, name, models, methods, created, expires, rate, burst }
    }

    fn bytes(&self) -> usize {
        bytes_of(&self.name, &self.models, &self.methods)
    }

    fn key(&self) -> ApiKey {
        let Self { id, hash, name, models, methods, created: _, expires, rate, burst } = self.clone();
        let (id, hash) = (ByteArray::new(id), ByteArray::new(hash));
        ApiKey { id, hash, name, models, methods, expires, rate, burst }
    }

    fn row(&self, state: ApiKeyState) -> ApiKeyRow {
        let Self { id, hash: _, name, models, methods, created, expires, rate, burst } = self.clone();
        ApiKeyRow { id: ApiKeyId(id), name, models, methods, created, expires, rate, burst, state }
    }
}

impl Gone {
    const fn told(&self) -> RevokedApiKey {
        RevokedApiKey { at: self.at, id: ByteArray::new(self.id), ends: self.ends }
    }
}

/// Whether something that ends then is over for so long that no list names it.
fn is_past(ends: Option<u64>, now: u64) -> bool {
    ends.is_some_and(|ends| ends.saturating_add(DAY) <= now)
}

/// Most bytes that the members of a key have in a list beside its name and patterns.
const KEY_BYTES: usize = 120;

/// Most bytes that a text has there beside itself.
const TEXT_BYTES: usize = 2;

/// Bytes of a key in a list, at most.
fn bytes_of(name: &str, models: &[String], methods: &[String]) -> usize {
    let patterns: usize = models.iter().chain(methods).map(|pattern| pattern.len() + TEXT_BYTES).sum();
    KEY_BYTES + name.len() + patterns
}

impl Registry {
    /// Adds a key. When all places are taken, those whose time is over make room.
    pub(in crate::authority) fn add_key(
        &mut self,
        key: &ApiKey,
        now: SystemTime,
    ) -> Result<(), NoRoomForKey> {
        let now = seconds(now);
        let mut keys = self.keys.clone();
        keys.push(Entry::new(key, Some(now)));
        if API_KEYS_MAX < keys.len() {
            keys.retain(|entry| !is_past(entry.expires, now));
        }
        let bytes: usize = keys.iter().map(Entry::bytes).sum();
        match keys.len() <= API_KEYS_MAX && bytes <= API_KEYS_BYTES_MAX {
            true => self.keys = keys,
            false => return Err(NoRoomForKey),
        }
        Ok(())
    }

    /// Takes a key back, or removes one whose time is over; `None` when there is none with this id.
    pub(in crate::authority) fn revoke_key(&mut self, id: ApiKeyId, now: SystemTime) -> Option<ApiKeyRow> {
        let at = self.keys.iter().position(|entry| entry.id == id.0)?;
        let entry = self.keys.remove(at);
        let row = entry.row(ApiKeyState::Revoked);
        let (id, ends) = (entry.id, entry.expires);
        self.revoked_keys.push(Gone { id, at: seconds(now), ends, entry: Some(entry) });
        self.forget_revoked_keys(seconds(now));
        Some(row)
    }

    /// The keys that are known, newest first, and those that were taken back within a day.
    pub(in crate::authority) fn key_rows(&self, now: SystemTime) -> Vec<ApiKeyRow> {
        let now = seconds(now);
        let live = self.keys.iter().rev().map(|entry| {
            let is_over = entry.expires.is_some_and(|expires| expires <= now);
            entry.row(if is_over { ApiKeyState::Expired } else { ApiKeyState::Live })
        });
        let gone = self.revoked_keys.iter().rev().filter(|gone| now < gone.at.saturating_add(DAY));
        live.chain(gone.filter_map(|gone| Some(gone.entry.as_ref()?.row(ApiKeyState::Revoked)))).collect()
    }

    /// What the next list says of keys.
    pub(super) fn keys_of_list(&self, now: u64) -> KeysOfList {
        let live = self.keys.iter().filter(|entry| !is_past(entry.expires, now));
        let revoked = self.revoked_keys.iter().filter(|gone| !is_past(gone.ends, now));
        KeysOfList {
            live: live.map(|entry| (entry.id, entry.key())).collect(),
            revoked: revoked.map(|gone| (gone.id, gone.told())).collect(),
        }
    }

    /// Takes in the keys of another holder's list: those of both stay, and what either took back is gone.
    ///
    /// Where they are too many together, those with the lowest ids stay. It is no better choice than any other, but both
    /// holders come to the same, and the revocations in the list do not wait for somebody to make room.
    pub(super) fn add_keys(&mut self, seen: &KeysOfList, now: u64) {
        for (id, revoked) in &seen.revoked {
            if is_past(revoked.ends, now) || self.revoked_keys.iter().any(|gone| gone.id == *id) {
                continue;
            }
            let entry = self.keys.iter().find(|entry| entry.id == *id).cloned();
            self.revoked_keys.push(Gone { id: *id, at: revoked.at, ends: revoked.ends, entry });
        }
        let is_gone = |id: &[u8; 8]| self.revoked_keys.iter().any(|gone| gone.id == *id);
        self.keys.retain(|entry| !is_gone(&entry.id));
        for (id, key) in &seen.live {
            let known = self.keys.iter().any(|entry| entry.id == *id);
            if !known && !is_gone(id) && !is_past(key.expires, now) {
                self.keys.push(Entry::new(key, None));
            }
        }
        self.forget_revoked_keys(now);
        self.keep_keys_with_room(now);
    }

    /// Whether a list holds all keys that ours would, and none that was taken back here.
    pub(super) fn has_same_keys(&self, seen: &KeysOfList, now: u64) -> bool {
        let ours = self.keys_of_list(now);
        ours.live.keys().all(|id| seen.live.contains_key(id))
            && ours.revoked.keys().all(|id| seen.revoked.contains_key(id))
            && seen.live.keys().all(|id| !ours.revoked.contains_key(id))
    }

    pub(super) fn forget_revoked_keys(&mut self, now: u64) {
        self.revoked_keys.retain(|gone| !is_past(gone.ends, now));
        let too_many = self.revoked_keys.len().saturating_sub(API_KEYS_REVOKED_MAX);
        if 0 < too_many {
            self.revoked_keys.sort_by_key(|gone| (gone.at, gone.id));
            self.revoked_keys.drain(..too_many);
        }
    }

    fn keep_keys_with_room(&mut self, now: u64) {
        let (mut count, mut bytes) = (0, 0);
        let fits = |(id, key): (&[u8; 8], &ApiKey)| {
            (count, bytes) = (count + 1, bytes + bytes_of(&key.name, &key.models, &key.methods));
            (count <= API_KEYS_MAX && bytes <= API_KEYS_BYTES_MAX).then_some(*id)
        };
        let kept: Vec<[u8; 8]> = self.keys_of_list(now).live.iter().map_while(fits).collect();
        self.keys.retain(|entry| is_past(entry.expires, now) || kept.binary_search(&entry.id).is_ok());
        // Those whose time is over are only remembered.
        if API_KEYS_MAX < self.keys.len() {
            self.keys.retain(|entry| !is_past(entry.expires, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_more_bytes_in_a_list_than_it_is_counted_with() {
        for (count, length) in [(1, 0), (1, 31), (16, 128), (1, 255)] {
            let (text, patterns) = ("x".repeat(length), vec!["y".repeat(length); count]);
            let key = ApiKey {
                id: ByteArray::new([1; 8]),
                hash: ByteArray::new([2; 32]),
                name: text.clone(),
                models: patterns.clone(),
                methods: patterns.clone(),
                expires: Some(u64::MAX),
                rate: Some(u32::MAX),
                burst: Some(u32::MAX),
            };
            let written = rmp_serde::to_vec_named(&key).unwrap().len();
            let counted = bytes_of(&key.name, &key.models, &key.methods);
            assert!(written <= counted && counted <= written + 2 * count + 24, "{written} {counted}");
        }
    }
}
