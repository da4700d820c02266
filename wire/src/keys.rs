//! API keys: what a cluster knows of the clients that come over HTTP without a certificate.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

/// Keys that a cluster can have at one time: their list is part of the trust list, which must fit an answer.
pub const API_KEYS_MAX: usize = 1024;

/// All keys of a cluster together, in bytes of a trust list: with as many revocations as there can be they fit an answer.
/// So many keys with 400 bytes each; one with the usual patterns has about 180.
pub const API_KEYS_BYTES_MAX: usize = 400 << 10;

/// Keys that are remembered as revoked. The oldest is forgotten first: it has long gone from every list by then.
pub const API_KEYS_REVOKED_MAX: usize = 2048;

/// Patterns of models or methods that one key can have.
pub const API_KEY_PATTERNS_MAX: usize = 16;

/// Longest pattern, in bytes: that of the longest model name.
pub const API_KEY_PATTERN_BYTES_MAX: usize = 128;

/// One API key, as every door knows it. Travels in the [`TrustList`](crate::TrustList), so that it is signed by the
/// authority and reaches every member within seconds. There is no secret in it: the key itself is 256 random bits, of
/// which only the hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The public part of the key, by which it is found and named.
    pub id: ByteArray<8>,
    /// SHA-256 over `lineside api key v1`, a zero byte, and the key's 32 secret bytes.
    pub hash: ByteArray<32>,
    /// Its name for people.
    pub name: String,
    /// Models that it may use: names, or patterns with `*`.
    pub models: Vec<String>,
    /// Methods that it may use: names such as `infer`, or patterns with `*`.
    pub methods: Vec<String>,
    /// When it ends, in seconds since 1970; `None` never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Requests per second, in the place of the door's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Requests at once, in the place of the door's own limit. Only beside `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// A key that was taken back. Lists name it as long as a copy of the authority, kept for a while, could bring it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RevokedApiKey {
    /// When it was taken back, in seconds since 1970.
    pub at: u64,
    /// Its public part.
    pub id: ByteArray<8>,
    /// When it would have ended by itself, in seconds since 1970; `None` never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<u64>,
}

impl ApiKey {
    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether it may use a method.
    #[must_use]
    pub fn may_call(&self, method: &str) -> bool {
        self.methods.iter().any(|pattern| matches_pattern(pattern, method))
    }

    /// Whether it may use a model.
    #[must_use]
    pub fn may_use(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| matches_pattern(pattern, model))
    }
}

/// Whether a text is what a pattern says: `*` stands for any characters, or none, and everything else for itself.
///
/// Takes time in proportion to both: each piece between two stars is looked for once, from where the last one ended.
#[must_use]
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(text) = text.strip_prefix(first).and_then(|text| text.strip_suffix(last)) else { return false };
    let mut left = Some(text);
    for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
        left = left.and_then(|text| text.split_once(piece)).map(|(_, behind)| behind);
    }
    left.is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by trying everything.
    fn plainly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|from| plainly(rest, &text[from..])),
            Some((byte, rest)) => {
                text.split_first().is_some_and(|(first, text)| first == byte && plainly(rest, text))
            }
        }
    }

    #[test]
    fn a_star_stands_for_anything_and_everything_else_for_itself() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "weld"),
            ("weld", "weld"),
            ("defect*", "defect"),
            ("defect*", "defect-v2"),
            ("*v2", "defect-v2"),
            ("a*b*c", "a.b.b.c"),
            ("models.*", "models.list"),
        ] {
            assert!(matches_pattern(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "weld"),
            ("weld", "Weld"),
            ("a*a", "a"),
            ("a*b*c", "a.c"),
            ("weld", "weld2"),
            ("w?ld", "weld"),
        ] {
            assert!(!matches_pattern(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let pattern = "a*".repeat(API_KEY_PATTERN_BYTES_MAX / 2) + "b";
        assert!(!matches_pattern(&pattern, &"a".repeat(1 << 20)));
    }

    proptest! {
        #[test]
        fn patterns_mean_what_trying_everything_finds(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches_pattern(&pattern, &text), plainly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
