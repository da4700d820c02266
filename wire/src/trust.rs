//! What members tell each other about trust: whom the cluster trusts, and how one becomes a member.

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};

use crate::{ApiKey, ClusterId, NodeId, RevokedApiKey, Role};

/// Authorities that a cluster may have at one time: the one that signs, and during a rotation the one before it.
pub const AUTHORITIES_MAX: usize = 2;

/// Certificates and nodes that can be revoked at one time: a list of both fits an answer several times over.
pub const REVOKED_MAX: usize = 4096;

/// Longest request for a certificate, in bytes. One of ours has about 300.
pub const CSR_BYTES_MAX: usize = 4096;

/// Names one state of a cluster's trust. Members tell it in greetings and gossip; whoever has a lower number asks for
/// the list behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrustStamp {
    /// Counts the changes. 0: no list is known.
    pub number: u64,
    /// The first eight bytes of the document's SHA-256, big-endian.
    pub hash: u64,
}

/// Whom a cluster trusts. Travels as the document of a [`SignedTrust`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustList {
    /// The cluster.
    pub cluster: ClusterId,
    /// Counts the changes; only a higher number replaces a list.
    pub number: u64,
    /// When it was signed, in seconds since 1970.
    pub signed_at: u64,
    /// Generation of the authority that signs new certificates. A member with an older one renews soon.
    pub issuing: u32,
    /// The authorities, oldest first: one, or two during a rotation.
    pub authorities: Vec<TrustedAuthority>,
    /// Nodes that lost their id, whatever certificate they show.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked_nodes: Vec<NodeId>,
    /// API keys of clients over HTTP, in the order of their ids. One that is not in it opens no door.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ApiKey>,
    /// Keys that were taken back, for whoever has a list from before that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked_keys: Vec<RevokedApiKey>,
}

/// One authority and the certificates that it took back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedAuthority {
    /// Counts the authorities of the cluster, from 1. Also in its name: `… CA g1`.
    pub generation: u32,
    /// Its certificate, DER.
    pub certificate: ByteBuf,
    /// Its newest certificate revocation list, DER.
    pub crl: ByteBuf,
}

/// A trust list with signatures. Result of `trust.get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTrust {
    /// The [`TrustList`] in MessagePack, exactly as it was signed.
    pub document: ByteBuf,
    /// One signature of each authority whose key there still is.
    pub signatures: Vec<TrustSignature>,
}

/// A signature over a trust list's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustSignature {
    /// Which authority signed.
    pub generation: u32,
    /// ECDSA P-256 with SHA-256, ASN.1, over `lineside trust list v1`, a zero byte, and the document.
    pub signature: ByteBuf,
}

/// The params of `enrol.join`, the one method of the protocol `lineside-join/1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinParams {
    /// The public part of the token.
    pub token: ByteArray<8>,
    /// What the joiner wants to be; the token must be for the same role.
    pub role: Role,
    /// The joiner's name for people; a name in the token outranks it.
    pub name: String,
    /// A certificate request (PKCS #10, DER). Only its public key is used.
    pub csr: ByteBuf,
    /// HMAC-SHA-256 that proves the token's secret on this very connection; see `docs/PROTOCOL.md`.
    pub proof: ByteArray<32>,
}

/// The params of `certs.renew`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewParams {
    /// A certificate request (PKCS #10, DER). Only its public key is used.
    pub csr: ByteBuf,
}

/// Names that one certificate for HTTPS can have.
pub const WEB_NAMES_MAX: usize = 16;

/// The params of `certs.web`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebParams {
    /// A certificate request (PKCS #10, DER). Only its public key is used.
    pub csr: ByteBuf,
    /// IP addresses and DNS names that clients dial: 1 to [`WEB_NAMES_MAX`].
    pub names: Vec<String>,
}

/// The result of `enrol.join`, `certs.renew` and `certs.web`: a certificate and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The certificate, DER; behind it, during a rotation, the new authority's as signed by the old one.
    pub certificates: Vec<ByteBuf>,
    /// Whom the cluster trusts.
    pub trust: SignedTrust,
    /// The authority's clock, in seconds since 1970.
    pub now: u64,
}

#[cfg(test)]
mod tests;
