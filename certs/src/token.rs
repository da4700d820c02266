//! The join token: one line that makes a machine a member.
//!
//! ```text
//! ls1.<SHA-256 of the authority's SPKI>.<id, 8 bytes>.<secret, 16 bytes>@host:7443,host:7443
//!     each part base64url without padding      where members with the authority's key are
//! ```
//!
//! What stands before the `@` has exactly one spelling: a text that differs in any character is another token
//! or none.

mod address;

use std::{fmt, str::FromStr};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lineside_wire::Role;
use zeroize::Zeroizing;

use crate::x509::sha256;

/// Most addresses in one token: a machine that did not answer at eight is not missed for the lack of a ninth.
pub const TOKEN_ADDRESSES_MAX: usize = 8;

/// The port of an address that names none: the one that members listen on.
pub const TOKEN_PORT: u16 = 7443;

/// Longest token, in bytes: the part before the `@`, and eight addresses of the longest host names.
pub const TOKEN_BYTES_MAX: usize = 84 + TOKEN_ADDRESSES_MAX * (address::HOST_BYTES_MAX + ":65535,".len());

/// Label of the TLS exporter that a proof is bound to; its context is the token's id.
pub const JOIN_EXPORTER_LABEL: &[u8] = b"EXPORTER-lineside-join-v1";

/// What every token begins with: the first version of its format.
const PREFIX: &str = "ls1.";

/// The public part of a token: 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 8]);

/// A join token. Its secret is in no `Debug` text and wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Token {
    pub(crate) authority: [u8; 32],
    pub(crate) id: TokenId,
    pub(crate) secret: Zeroizing<[u8; 16]>,
    pub(crate) addresses: Vec<String>,
}

/// Why a text is no token. No variant repeats a part that is secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It begins as something else.
    #[error("this is no join token (one begins with {PREFIX}): {COPY}")]
    NotAToken,
    /// It is of a format that this release does not know.
    #[error("this join token is of another release of lineside: use the same release on both machines")]
    OtherVersion,
    /// It is longer than any token.
    #[error("this is longer than any join token ({TOKEN_BYTES_MAX} bytes): {COPY}")]
    TooLong,
    /// A blank or a line break is in it, or another character that no token has.
    #[error("there is a blank, a line break or a strange character in the join token: {COPY}")]
    StrayCharacter,
    /// A part is missing: the line was cut off.
    #[error("the join token is cut off: {COPY}")]
    CutOff,
    /// There are more parts than a token has.
    #[error("the join token has a '.' too many before the '@': {COPY}")]
    TooManyParts,
    /// A part is too long, too short, or has a character that does not belong there.
    #[error("{part} in the join token is damaged: {COPY}")]
    Part {
        /// Which.
        part: &'static str,
    },
    /// It does not say whom to ask.
    #[error(
        "the join token does not say where to join: put @HOST:PORT behind it, the address of the machine that made it"
    )]
    NoAddress,
    /// More addresses than a token has.
    #[error("the join token has {0} addresses and can have {TOKEN_ADDRESSES_MAX}: leave some out")]
    TooManyAddresses(usize),
    /// An address that cannot be one.
    #[error(
        "{address:?} in the join token is no address ({reason}): write host:7443, 10.0.0.7:7443 or [fd00::7]:7443"
    )]
    Address {
        /// What stands there.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What to do about most of them.
const COPY: &str = "copy the whole line that `lineside token create` printed, or make another token";

impl Token {
    /// SHA-256 of the SPKI of the authority that the joiner is to trust.
    #[must_use]
    pub const fn authority(&self) -> &[u8; 32] {
        &self.authority
    }

    /// Its public part.
    #[must_use]
    pub const fn id(&self) -> TokenId {
        self.id
    }

    /// Where members with the authority's key are: `host:port`, at least one once it is parsed.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The same token with these addresses behind the `@`, each as [`Token::address`] gives it.
    ///
    /// More than [`TOKEN_ADDRESSES_MAX`] would make it unreadable: those behind are left out.
    #[must_use]
    pub fn at(self, mut addresses: Vec<String>) -> Self {
        addresses.truncate(TOKEN_ADDRESSES_MAX);
        Self { addresses, ..self }
    }

    /// Reads one address as a token can have it, and gives its one spelling, with the port.
    ///
    /// # Errors
    /// It is none; see [`InvalidToken::Address`].
    pub fn address(text: &str) -> Result<String, InvalidToken> {
        address::canonical(text).map_err(|reason| {
            // As much as identifies it: the text comes from anywhere.
            InvalidToken::Address { address: text.chars().take(80).collect(), reason }
        })
    }

    /// Proves the secret on one TLS connection and for one request: a proof that was relayed or changed is
    /// worth nothing.
    #[must_use]
    pub fn proof(&self, exporter: &[u8; 32], role: Role, name: &str, csr: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.key().proving(), &proven(exporter, role, name, csr));
        tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }

    /// What the authority keeps in place of the secret.
    pub(crate) fn key(&self) -> TokenKey {
        TokenKey(Zeroizing::new(sha256(&[&b"lineside join token v1\0"[..], &self.secret[..]].concat())))
    }

    fn parse(text: &str) -> Result<Self, InvalidToken> {
        if TOKEN_BYTES_MAX < text.len() {
            return Err(InvalidToken::TooLong);
        }
        let Some(rest) = text.strip_prefix(PREFIX) else { return Err(begins_otherwise(text)) };
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken::StrayCharacter);
        }
        let (parts, addresses) = match rest.split_once('@') {
            Some((parts, addresses)) => (parts, Some(addresses)),
            None => (rest, None),
        };
        let parts: Vec<&str> = parts.split('.').collect();
        let [authority, id, secret] = match parts[..] {
            [authority, id, secret] => [authority, id, secret],
            [] | [_] | [_, _] => return Err(InvalidToken::CutOff),
            [..] => return Err(InvalidToken::TooManyParts),
        };
        let authority = *decode(authority, "the authority's fingerprint")?;
        let id = TokenId(*decode(id, "the id")?);
        let secret = decode(secret, "the secret")?;
        let addresses = match addresses {
            None | Some("") => return Err(InvalidToken::NoAddress),
            Some(addresses) => addresses.split(',').map(Self::address).collect::<Result<Vec<_>, _>>()?,
        };
        match addresses.len() <= TOKEN_ADDRESSES_MAX {
            true => Ok(Self { authority, id, secret, addresses }),
            false => Err(InvalidToken::TooManyAddresses(addresses.len())),
        }
    }
}

/// What a text is that does not begin as a token of this version.
fn begins_otherwise(text: &str) -> InvalidToken {
    let version = text.strip_prefix("ls").and_then(|rest| rest.split_once('.')).map(|(version, _)| version);
    match version {
        Some(version) if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) => {
            InvalidToken::OtherVersion
        }
        Some(_) | None => InvalidToken::NotAToken,
    }
}

/// Reads base64url of exactly `N` bytes; unused bits at its end have to be zero, so there is one spelling.
fn decode<const N: usize>(text: &str, part: &'static str) -> Result<Zeroizing<[u8; N]>, InvalidToken> {
    let mut bytes = Zeroizing::new([0; N]);
    // The estimate for the buffer is rounded up to whole groups: the longest of a right length fits into 33
    // bytes.
    let mut room = Zeroizing::new([0; 33]);
    let right_length = text.len() == (N * 8).div_ceil(6);
    let decoded = if right_length { URL_SAFE_NO_PAD.decode_slice(text, &mut room[..]).ok() } else { None };
    match decoded {
        Some(length) if length == N => {
            bytes.copy_from_slice(&room[..N]);
            Ok(bytes)
        }
        Some(_) | None => Err(InvalidToken::Part { part }),
    }
}

/// What the authority keeps of a token's secret. The secret does not follow from it, so it makes no line to paste; but
/// proofs are made with it as they are checked, so it is kept as secret as the authority's key beside it.
#[derive(Clone)]
pub(crate) struct TokenKey(pub(crate) Zeroizing<[u8; 32]>);

impl TokenKey {
    /// Whether `proof` is [`Token::proof`] of this token; takes the same time for every wrong one.
    pub(crate) fn accepts(
        &self,
        proof: &[u8; 32],
        exporter: &[u8; 32],
        role: Role,
        name: &str,
        csr: &[u8],
    ) -> bool {
        hmac::verify(&self.proving(), &proven(exporter, role, name, csr), proof).is_ok()
    }

    fn proving(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0[..])
    }
}

/// What a proof is about. The role has no zero byte and the last part a fixed length: no two requests read
/// the same.
fn proven(exporter: &[u8; 32], role: Role, name: &str, csr: &[u8]) -> Vec<u8> {
    [
        b"lineside join proof v1\0",
        &exporter[..],
        role.as_str().as_bytes(),
        b"\0",
        name.as_bytes(),
        b"\0",
        &sha256(csr)[..],
    ]
    .concat()
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        Self::parse(text)
    }
}

/// The whole line, with the secret.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [authority, id] = [URL_SAFE_NO_PAD.encode(self.authority), URL_SAFE_NO_PAD.encode(self.id.0)];
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(&self.secret[..]));
        write!(f, "{PREFIX}{authority}.{id}.{}", *secret)?;
        match &self.addresses[..] {
            [] => Ok(()),
            addresses => write!(f, "@{}", addresses.join(",")),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

/// Why a text is no token's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no token's id: it has 16 digits of 0-9 and a-f; `lineside token list` shows them")]
pub struct InvalidTokenId(String);

impl FromStr for TokenId {
    type Err = InvalidTokenId;

    fn from_str(text: &str) -> Result<Self, InvalidTokenId> {
        let parsed = u64::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()));
        // The one spelling: no sign, no upper case, all 16 digits.
        let parsed = parsed.filter(|id| id.to_string() == text);
        parsed.ok_or_else(|| InvalidTokenId(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests;
