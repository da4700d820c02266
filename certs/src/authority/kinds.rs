//! What the authority is asked for and answers with.

use std::{sync::Arc, time::Duration};

use lineside_wire::{NodeId, Role, SignedTrust, method};
use rand::RngExt as _;
use zeroize::Zeroizing;

use crate::{ApiKeyId, TokenId};

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
    #[serde(serialize_with = "serialize_text")]
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

fn serialize_text<T: std::fmt::Display, S: serde::Serializer>(
    id: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// What an API key is to be good for.
#[derive(Clone, Debug)]
pub struct ApiKeyOrder {
    /// Its name for people. Several keys can have one, such as the old and the new key of a machine.
    pub name: String,
    /// Models that it may use: names, or patterns with `*`.
    pub models: Vec<String>,
    /// Methods that it may use: some of [`API_KEY_METHODS`], or patterns with `*` that fit some.
    pub methods: Vec<String>,
    /// How long it can be used, at most [`API_KEY_LIFETIME_MAX`]; `None` until it is revoked.
    pub lifetime: Option<Duration>,
    /// Requests per second, in the place of the door's own limit.
    pub rate: Option<u32>,
    /// Requests at once, in the place of the door's own limit; only beside `rate`.
    pub burst: Option<u32>,
}

/// What an API key can be allowed. Those that a door allows together stand for each other: `models.list` and
/// `models.get`, and the three about the cluster.
pub const API_KEY_METHODS: [&str; 10] = [
    method::INFER,
    method::MODELS_LIST,
    method::MODELS_GET,
    method::MODELS_STATISTICS,
    method::MODELS_LOAD,
    method::MODELS_UNLOAD,
    method::CLUSTER_MEMBERS,
    method::CLUSTER_STATUS,
    method::CLUSTER_WATCH,
    API_KEY_LOGGING,
];

/// The one of [`API_KEY_METHODS`] that is no call between members: to see and change what a door logs.
pub const API_KEY_LOGGING: &str = "logging";

/// How long an API key can be used when nobody says: it is in a program, and nobody renews it by itself.
pub const API_KEY_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest that an API key with an end can be usable: as long as an authority.
pub const API_KEY_LIFETIME_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

/// What became of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiKeyState {
    /// It can be used.
    Live,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

/// An API key as the authority knows it: without its secret.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ApiKeyRow {
    /// Its public part.
    #[serde(serialize_with = "serialize_text")]
    pub id: ApiKeyId,
    /// Its name for people.
    pub name: String,
    /// Models that it may use.
    pub models: Vec<String>,
    /// Methods that it may use.
    pub methods: Vec<String>,
    /// When it was made, in seconds since 1970; `None` where another machine with the authority's key made it.
    pub created: Option<u64>,
    /// When it ends, in seconds since 1970; `None` never.
    pub expires: Option<u64>,
    /// Requests per second, where it has a limit of its own.
    pub rate: Option<u32>,
    /// Requests at once, where it has a limit of its own.
    pub burst: Option<u32>,
    /// What became of it.
    pub state: ApiKeyState,
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
