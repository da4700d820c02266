//! API keys: what a client over HTTP shows in place of a certificate.
//!
//! ```text
//! lsk_<id, 16 hexadecimal digits>_<secret, 32 bytes as base64url without padding>
//! ```
//!
//! The secret is random and long, so its hash can be told to every member: nobody finds one from the other.

use std::{fmt, str::FromStr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lineside_wire::ApiKey;
use zeroize::Zeroizing;

use crate::x509::sha256;

/// What every API key begins with. A text that begins otherwise is nobody's key.
pub const API_KEY_MARK: &str = "lsk_";

/// Length of the secret's text: 32 bytes in base64url.
const SECRET_TEXT_BYTES: usize = 43;

/// The public part of a key: 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKeyId(pub [u8; 8]);

/// A key as its holder has it. Its secret is in no `Debug` text and wiped from memory when it is dropped.
#[derive(Clone)]
pub struct WholeApiKey {
    pub(crate) id: ApiKeyId,
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

/// A text that is no API key. It is not repeated: it may be most of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no API key: one is {API_KEY_MARK}, 16 digits, _ and 43 characters; `lineside keys create` makes one"
)]
pub struct InvalidApiKey;

/// A text that is no id of an API key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no API key's id: it has 16 digits of 0-9 and a-f; `lineside keys list` shows them")]
pub struct InvalidApiKeyId(String);

impl WholeApiKey {
    /// Its public part.
    #[must_use]
    pub const fn id(&self) -> ApiKeyId {
        self.id
    }

    /// What the cluster knows of the secret.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let hashed = Zeroizing::new([&b"lineside api key v1\0"[..], &self.secret[..]].concat());
        sha256(&hashed)
    }

    /// Whether this is the key that the cluster knows; takes the same time for every wrong secret.
    #[must_use]
    pub fn is(&self, known: &ApiKey) -> bool {
        self.id.0 == *known.id && verify_slices_are_equal(&self.hash(), &*known.hash).is_ok()
    }
}

impl FromStr for WholeApiKey {
    type Err = InvalidApiKey;

    fn from_str(text: &str) -> Result<Self, InvalidApiKey> {
        let (id, secret) =
            text.strip_prefix(API_KEY_MARK).and_then(|rest| rest.split_once('_')).ok_or(InvalidApiKey)?;
        let id = id.parse().map_err(|_| InvalidApiKey)?;
        if secret.len() != SECRET_TEXT_BYTES {
            return Err(InvalidApiKey);
        }
        // The estimate for the buffer is rounded up to whole groups.
        let mut room = Zeroizing::new([0; 33]);
        let length = URL_SAFE_NO_PAD.decode_slice(secret, &mut room[..]).map_err(|_| InvalidApiKey)?;
        let bytes = room[..length].try_into().map_err(|_| InvalidApiKey)?;
        Ok(Self { id, secret: Zeroizing::new(bytes) })
    }
}

/// The whole key, with the secret.
impl fmt::Display for WholeApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(&self.secret[..]));
        write!(f, "{API_KEY_MARK}{}_{}", self.id, *secret)
    }
}

impl fmt::Debug for WholeApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Display for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeyId({self})")
    }
}

impl FromStr for ApiKeyId {
    type Err = InvalidApiKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidApiKeyId> {
        let parsed = u64::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()));
        // The one spelling: no sign, no upper case, all 16 digits.
        let parsed = parsed.filter(|id| id.to_string() == text);
        parsed.ok_or_else(|| InvalidApiKeyId(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteArray;

    use super::*;

    fn whole(secret: u8) -> WholeApiKey {
        WholeApiKey { id: ApiKeyId([0x1a; 8]), secret: Zeroizing::new([secret; 32]) }
    }

    fn known(key: &WholeApiKey) -> ApiKey {
        ApiKey {
            id: ByteArray::new(key.id.0),
            hash: ByteArray::new(key.hash()),
            name: "press-7".to_owned(),
            models: vec!["*".to_owned()],
            methods: vec!["infer".to_owned()],
            expires: None,
            rate: None,
            burst: None,
        }
    }

    #[test]
    fn a_key_reads_as_it_was_written_and_is_the_one_that_is_known() {
        let key = whole(7);
        let text = key.to_string();
        assert_eq!(text, format!("lsk_1a1a1a1a1a1a1a1a_{}c", "BwcH".repeat(10) + "Bw"));
        let read: WholeApiKey = text.parse().unwrap();
        assert!(read.is(&known(&key)) && !whole(8).is(&known(&key)));
        let other = WholeApiKey { id: ApiKeyId([2; 8]), ..whole(7) };
        assert!(!other.is(&known(&key)), "another id");
        assert!(!format!("{key:?}").contains("Bw"), "{key:?}");
    }

    #[test]
    fn what_differs_in_any_character_is_another_key_or_none() {
        let text = whole(7).to_string();
        for wrong in [
            "",
            "lsk_",
            "lsk_1a1a1a1a1a1a1a1a",
            &text[..text.len() - 1],
            &format!("{text}A"),
            &format!(" {text}"),
            &text.to_uppercase(),
            &text.replace("1a1a_", "1A1A_"),
            // Bits that no byte holds.
            &format!("{}d", &text[..text.len() - 1]),
        ] {
            assert!(wrong.parse::<WholeApiKey>().is_err(), "{wrong:?} was taken for a key");
        }
    }
}
