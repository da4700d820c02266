//! What the authority knows and has decided.
//!
//! Pure: takes `now` and gives back decisions; it knows no disk, no clock and no key. What it decides is signed and
//! written by whoever asked (see [`Draft`](super::transaction::Draft)). It is one JSON file, so that a change is on
//! the disk whole or not at all: that a token was used, and what for.

mod keys;
mod merge;
mod revocations;
mod rotation;
mod tokens;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use lineside_wire::{ApiKey, ClusterId, NodeId, RevokedApiKey, SignedTrust, TrustSignature};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub(super) use keys::KeysOfList;
pub(super) use merge::{Merged, Seen, SeenAuthority};
pub(super) use revocations::Revoked;
pub(super) use tokens::{Certificate, NewToken, TokenRefusal, Used};

use super::IssuedRow;
use crate::encoding::{base64, hex};

/// Tokens that can be open at one time: a whole cluster may join at once.
pub(crate) const OPEN_TOKENS_MAX: usize = 256;
/// Tokens that are remembered when they are used, revoked or expired. The oldest is forgotten first, and is then as
/// unknown as any other.
const CLOSED_TOKENS_MAX: usize = 1024;
/// Certificates that are remembered: forty for each of the largest cluster's members. Those that are over go first, then
/// the oldest; revoking a node ends its id in any case.
const ISSUED_MAX: usize = 10_000;
/// What is over is remembered for so long, in seconds: for people who look, and for clocks that differ.
const DAY: u64 = 24 * 3600;
/// Age at which the trust list is signed anew though nothing changed, in seconds: well before the revocation lists in it
/// go stale. Every certificate that is issued is an occasion.
const TRUST_AGE_MAX: u64 = 7 * DAY;
/// The one layout there is.
const LAYOUT: u32 = 1;

/// See the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    layout: u32,
    /// The cluster.
    pub(super) cluster: ClusterId,
    /// Its name for people.
    pub(super) name: String,
    /// The authorities, oldest first: the last one signs, and the one before it, if any, is to go.
    pub(super) generations: Vec<Generation>,
    /// The trust list that is in force.
    pub(super) trust: Published,
    revoked_nodes: BTreeMap<NodeId, u64>,
    revoked_serials: BTreeMap<String, RevokedSerial>,
    tokens: Vec<tokens::Entry>,
    issued: VecDeque<IssuedRow>,
    /// In the order in which they were made. Not there before there were any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<keys::Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    revoked_keys: Vec<keys::Gone>,
}

/// An authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Generation {
    /// Counts from 1.
    pub(super) number: u32,
    /// SHA-256 of its SPKI.
    #[serde(with = "hex")]
    pub(super) fingerprint: [u8; 32],
    /// Number of its newest revocation list: that of the trust list for which it was made.
    pub(super) crl_number: u64,
    /// Whether its key is here. It is not when another holder began this generation.
    pub(super) held: bool,
}

/// A trust list as it was signed. It is kept, because signing it once more would give other bytes under the same number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Published {
    pub(super) number: u64,
    /// As in [`lineside_wire::TrustStamp`].
    pub(super) hash: u64,
    /// In seconds since 1970.
    pub(super) signed_at: u64,
    #[serde(with = "base64")]
    document: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    generation: u32,
    #[serde(with = "base64")]
    signature: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedSerial {
    /// Whose list it stands in. A serial number that is not known here stands in everybody's.
    generation: Option<u32>,
    /// In seconds since 1970.
    at: u64,
    /// When the certificate ends by itself, at the latest.
    ends: u64,
}

/// The next trust list, not signed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) number: u64,
    pub(super) signed_at: u64,
    pub(super) issuing: u32,
    /// For each authority, oldest first: its generation and the serial numbers that it revokes, with the time.
    pub(super) authorities: Vec<(u32, Vec<(String, u64)>)>,
    pub(super) revoked_nodes: Vec<NodeId>,
    pub(super) keys: Vec<ApiKey>,
    pub(super) revoked_keys: Vec<RevokedApiKey>,
}

/// There are more revocations than a list has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListFull;

impl Published {
    pub(super) fn of(signed: &SignedTrust, number: u64, hash: u64, signed_at: u64) -> Self {
        let signatures = signed
            .signatures
            .iter()
            .map(|one| Signature { generation: one.generation, signature: one.signature.to_vec() });
        let document = signed.document.to_vec();
        Self { number, hash, signed_at, document, signatures: signatures.collect() }
    }

    pub(super) fn signed(&self) -> SignedTrust {
        let signatures = self.signatures.iter().map(|one| TrustSignature {
            generation: one.generation,
            signature: ByteBuf::from(one.signature.clone()),
        });
        SignedTrust { document: ByteBuf::from(self.document.clone()), signatures: signatures.collect() }
    }
}

impl Registry {
    /// A new cluster with its first authority. Its trust list is still to be signed.
    pub(super) fn new(cluster: ClusterId, name: &str, fingerprint: [u8; 32]) -> Self {
        Self {
            layout: LAYOUT,
            cluster,
            name: name.to_owned(),
            generations: vec![Generation { number: 1, fingerprint, crl_number: 0, held: true }],
            trust: Published::default(),
            revoked_nodes: BTreeMap::new(),
            revoked_serials: BTreeMap::new(),
            tokens: Vec::new(),
            issued: VecDeque::new(),
            keys: Vec::new(),
            revoked_keys: Vec::new(),
        }
    }

    /// Reads what [`Registry::to_json`] wrote; the text says what is wrong.
    pub(super) fn from_json(text: &str) -> Result<Self, String> {
        let registry: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if registry.layout != LAYOUT {
            return Err(format!("its layout {} is not known here", registry.layout));
        }
        let in_order = registry.generations.is_sorted_by(|older, newer| older.number < newer.number);
        match (registry.generations.len(), in_order, registry.trust.number) {
            (1..=lineside_wire::AUTHORITIES_MAX, true, 1..) => Ok(registry),
            _ => Err("its generations or its trust list are not what they can be".to_owned()),
        }
    }

    /// As it stands on the disk.
    pub(super) fn to_json(&self) -> String {
        let text = serde_json::to_string(self).expect("a registry holds text, numbers and lists only");
        text + "\n"
    }

    /// The authority that signs.
    pub(super) fn issuing(&self) -> &Generation {
        self.generations.last().expect("a registry has a generation: `from_json` has checked it")
    }

    /// The generation with this number, while it is trusted.
    pub(super) fn generation(&self, number: u32) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.number == number)
    }

    /// Remembers a certificate that is about to be issued.
    pub(super) fn record(&mut self, row: IssuedRow, now: SystemTime) {
        if ISSUED_MAX <= self.issued.len() {
            self.forget_what_is_over(now);
        }
        while ISSUED_MAX <= self.issued.len() {
            self.issued.pop_front();
        }
        self.issued.push_back(row);
    }

    /// The certificates that are remembered, newest first.
    pub(super) fn issued(&self) -> Vec<IssuedRow> {
        self.issued.iter().rev().cloned().collect()
    }

    /// Forgets what has been over for a day. Revoked nodes stay revoked.
    pub(super) fn forget_what_is_over(&mut self, now: SystemTime) {
        let now = seconds(now);
        self.issued.retain(|row| now < row.not_after.saturating_add(DAY));
        self.revoked_serials.retain(|_, revoked| now < revoked.ends.saturating_add(DAY));
        self.forget_tokens(now);
        self.forget_revoked_keys(now);
    }

    /// Whether the trust list should be signed anew though nothing changed.
    pub(super) fn is_trust_old(&self, now: SystemTime) -> bool {
        self.trust.signed_at.saturating_add(TRUST_AGE_MAX) <= seconds(now)
    }

    /// The next trust list, with a number above ours and above `seen`.
    pub(super) fn plan(&self, seen: u64, now: SystemTime) -> Plan {
        let keys = self.keys_of_list(seconds(now));
        Plan {
            number: self.trust.number.max(seen) + 1,
            signed_at: seconds(now),
            issuing: self.issuing().number,
            authorities: self
                .generations
                .iter()
                .map(|one| (one.number, self.serials_of(one.number)))
                .collect(),
            revoked_nodes: self.revoked_nodes.keys().copied().collect(),
            keys: keys.live.into_values().collect(),
            revoked_keys: keys.revoked.into_values().collect(),
        }
    }

    /// Puts a list that was signed in force.
    ///
    /// # Panics
    /// Its number is not above the present one: no number is ever used twice.
    pub(super) fn publish(&mut self, published: Published) {
        assert!(self.trust.number < published.number, "trust lists are numbered upwards");
        for generation in self.generations.iter_mut().filter(|generation| generation.held) {
            generation.crl_number = published.number;
        }
        self.trust = published;
    }
}

/// A moment in whole seconds since 1970.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since: Duration| since.as_secs())
}

#[cfg(test)]
mod tests;
