//! What the authority is asked for and answers with.

use std::{sync::Arc, time::Duration};

use lineside_wire::{NodeId, Role, SignedTrust};
use rand::RngExt as _;
use zeroize::Zeroizing;

use crate::TokenId;

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What the holder may be.
    pub role: Role,
    /// The holder's id: fresh for a new machine, the same for a new certificate of a known one.
    pub node: NodeId,
    /// The holder's name for people.
    pub name: String,
}

impl Subject {
    /// A new holder with a fresh random id.
    #[must_use]
    pub fn new(role: Role, name: impl Into<String>) -> Self {
        Self { role, node: NodeId::from_bytes(rand::rng().random()), name: name.into() }
    }
}

/// A certificate with its key, and the authority's certificate.
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM; wiped from memory when dropped.
    pub key: Zeroizing<String>,
    /// The authorities' certificates, PEM.
    pub authority: String,
    /// Whom the cluster trusts.
    pub trust: Option<SignedTrust>,
}

/// What a token is to be good for.
#[derive(Clone, Debug)]
pub struct TokenOrder {
    /// What the joiner may be: node, gateway or client.
    pub role: Role,
    /// The joiner's name, if it is not to choose one itself.
    pub name: Option<String>,
    /// How long it can be used; at most [`TOKEN_LIFETIME_MAX`].
    pub lifetime: Duration,
}

/// How long a token can be used when nobody says.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// The longest that a token can be usable.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// It can be used.
    Open,
    /// It was used.
    Used,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

/// A token as the authority knows it: without its secret.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TokenRow {
    /// Its public part.
    #[serde(serialize_with = "serialize_token_id")]
    pub id: TokenId,
    /// What the joiner may be.
    pub role: Role,
    /// The joiner's name, if it is fixed.
    pub name: Option<String>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// What became of it.
    pub state: TokenState,
    /// Who used it.
    pub used_by: Option<NodeId>,
}

fn serialize_token_id<S: serde::Serializer>(id: &TokenId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// A certificate that was issued, and has not been over for long.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IssuedRow {
    /// Its serial number, lower-case hexadecimal.
    pub serial: String,
    /// Its holder.
    pub node: NodeId,
    /// The holder's role.
    pub role: Role,
    /// The holder's name.
    pub name: String,
    /// Which authority signed it.
    pub generation: u32,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
    /// When it was revoked, in seconds since 1970.
    pub revoked: Option<u64>,
}

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoke {
    /// Every certificate of a node, and the node id itself.
    Node(NodeId),
    /// One certificate: by its serial number, hexadecimal. Others that the node had by then stay good until they end, and
    /// are not renewed: whoever had this one may have got them.
    Serial(String),
}

/// How far a rotation has come.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rotation {
    /// Generation that signs now.
    pub issuing: u32,
    /// Generation that is to go; `None` when no rotation runs.
    pub retiring: Option<u32>,
    /// Members (node, gateway) and clients whose newest certificate, not over and not revoked, is of the retiring generation.
    pub waiting: Vec<IssuedRow>,
}

/// How long certificates live. A member tolerates that the authority is off for half of it: it renews before the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of nodes and gateways.
    pub member: Duration,
    /// Of clients.
    pub client: Duration,
    /// Of admins.
    pub admin: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        Self { member: days(14), client: days(30), admin: days(1) }
    }
}

impl Lifetimes {
    /// Of a role.
    pub(crate) const fn of(&self, role: Role) -> Duration {
        match role {
            Role::Node | Role::Gateway => self.member,
            Role::Client => self.client,
            Role::Admin => self.admin,
        }
    }

    /// The longest: whatever was issued before a moment is over so long after it.
    pub(crate) fn longest(&self) -> Duration {
        self.member.max(self.client).max(self.admin)
    }
}

/// Certificates that the join protocol shows: one for each generation whose key is here, each with its authority's
/// certificate behind it, by the SHA-256 of that authority's SPKI.
#[derive(Clone, Debug, Default)]
pub struct JoinCertificates(pub(crate) Vec<([u8; 32], Arc<rustls::sign::CertifiedKey>)>);
