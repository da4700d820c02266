//! Who and what: newtypes for the things that have names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A text that is not the identifier it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidId {
    text: String,
    expected: &'static str,
}

impl InvalidId {
    fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), expected }
    }
}

/// The hexadecimal digits of an id, which stands in every answer: made without the formatter's detours.
fn digits_of(bytes: &[u8; 16]) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        (pair[0], pair[1]) = (digit(byte >> 4), digit(byte & 15));
    }
    digits
}

fn text_of(digits: &[u8; 32]) -> &str {
    std::str::from_utf8(digits).expect("digits are ASCII")
}

/// The bytes that 32 lower-case digits stand for.
fn bytes_of(text: &str) -> Option<[u8; 16]> {
    let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

/// 128 random bits as 32 lower-case hexadecimal digits; the same text everywhere a person or a peer sees it.
macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes, in the order of the hexadecimal text.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// The first eight digits: enough for a person to tell the members of one cluster apart.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(text_of(&digits_of(&self.0)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                bytes_of(text).map(Self).ok_or_else(|| InvalidId::new(text, $expected))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(text_of(&digits_of(&self.0)))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

id128!(
    /// One cluster: one certificate authority.
    ClusterId,
    "a cluster id (32 lower-case hexadecimal digits)"
);
id128!(
    /// One member of a cluster, whatever its role, address or key. In its certificate; survives restarts and renewals.
    NodeId,
    "a node id (32 lower-case hexadecimal digits)"
);

/// What a certificate allows its holder to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs models. `lineside up`, which is node and gateway in one process, also has this role.
    Node,
    /// The HTTP and QUIC door.
    Gateway,
    /// Calls models and reads the state of the cluster.
    Client,
    /// Changes the cluster.
    Admin,
}

impl Role {
    /// Every role, in the order that lists show.
    pub const ALL: [Self; 4] = [Self::Node, Self::Gateway, Self::Client, Self::Admin];

    /// The role's name in certificates, messages and commands.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Gateway => "gateway",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }

    /// Whether holders take part in gossip and are dialled by others.
    #[must_use]
    pub const fn is_member(self) -> bool {
        matches!(self, Self::Node | Self::Gateway)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidId::new(text, "a role (node, gateway, client or admin)"))
    }
}

/// A text that cannot name a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a model: use 1 to 128 letters, digits, '.', '_' or '-', not beginning with '.'")]
pub struct InvalidModelName(String);

/// The name of a model: also the name of its directory, therefore never a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ModelName(std::sync::Arc<str>);

impl ModelName {
    /// Longest name, in bytes: fits a directory name everywhere and a gossip packet many times.
    pub const BYTES_MAX: usize = 128;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = InvalidModelName;

    fn from_str(text: &str) -> Result<Self, InvalidModelName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty()
            || Self::BYTES_MAX < text.len()
            || text.starts_with('.')
            || !text.bytes().all(legal)
        {
            return Err(InvalidModelName(text.chars().take(160).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// The version of a model: the number of its directory. Text on the wire, as the Open Inference Protocol has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelVersion(pub u64);

impl ModelVersion {
    /// The version of a model that is one file without version directories.
    pub const ONLY: Self = Self(1);
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ModelVersion {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // No sign, no leading zero: one version has one spelling.
        let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        match text.parse() {
            Ok(number) if canonical => Ok(Self(number)),
            _ => Err(InvalidId::new(text, "a model version (a whole number without sign or leading zero)")),
        }
    }
}

impl Serialize for ModelVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_exactly_one_spelling() {
        let id = NodeId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "ab", &"AB".repeat(16), &"ab".repeat(17), &format!("+{}", "a".repeat(31))] {
            assert!(wrong.parse::<NodeId>().is_err(), "{wrong:?} was taken for a node id");
        }
    }

    #[test]
    fn a_model_name_is_never_a_path() {
        for wrong in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "a\0", &"x".repeat(129)] {
            assert!(wrong.parse::<ModelName>().is_err(), "{wrong:?} was taken for a model name");
        }
        assert_eq!(
            "surface-defects.v2".parse::<ModelName>().map(|n| n.to_string()).as_deref(),
            Ok("surface-defects.v2")
        );
    }

    #[test]
    fn a_version_has_exactly_one_spelling() {
        for wrong in ["", "01", "+1", "-1", "1.0", "18446744073709551616"] {
            assert!(wrong.parse::<ModelVersion>().is_err(), "{wrong:?} was taken for a version");
        }
        assert_eq!("0".parse(), Ok(ModelVersion(0)));
    }
}
